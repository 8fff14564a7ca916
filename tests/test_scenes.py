"""The drawn landscapes: deterministic, disjoint, the same at every size, and hard where they
are meant to be: flocks that touch, instances cut in two, crowds."""

from itertools import islice

import numpy as np
import pytest
import torch
from scipy import ndimage

from lessons.kit.data import Sample, semantic_map
from lessons.kit.data.scenes import CATEGORIES, Scenes, scene

NAMES = [category.name for category in CATEGORIES]
NUM_THINGS = sum(category.is_thing for category in CATEGORIES)


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    validation = Scenes.validation()
    return [validation[index] for index in range(80)]


def masks_of(sample: Sample, name: str) -> np.ndarray:
    """The masks of one class without its crowds."""
    segments = sample.segments
    return segments.masks[(segments.labels == NAMES.index(name)) & ~segments.is_crowd].numpy()


def parts(mask: np.ndarray, smallest: int = 10) -> int:
    """The number of connected parts of a mask that have at least `smallest` pixels."""
    labelled, _ = ndimage.label(mask)
    return int((np.bincount(labelled.ravel())[1:] >= smallest).sum())


def test_categories_are_things_then_stuff():
    assert NAMES == ["sheep", "tree", "house", "balloon", "sky", "mountain", "meadow", "lake"]
    assert [category.is_thing for category in CATEGORIES] == [True] * 4 + [False] * 4
    assert len({category.color for category in CATEGORIES}) == 8
    assert Scenes().categories == CATEGORIES


def test_the_same_scene_twice():
    first, second = scene(3, 5), scene(3, 5)
    assert torch.equal(first.image, second.image)
    assert torch.equal(first.segments.masks, second.segments.masks)
    assert torch.equal(first.segments.labels, second.segments.labels)
    assert torch.equal(first.segments.is_crowd, second.segments.is_crowd)


@pytest.mark.parametrize("other", [(4, 5), (3, 6), (5, 3)])
def test_another_seed_or_index_is_another_scene(other):
    difference = scene(3, 5).image - scene(*other).image
    assert difference.abs().mean() > 0.03


def test_images_are_floats_from_0_to_1_with_light_and_dark(samples):
    for sample in samples:
        assert sample.image.dtype == torch.float32 and sample.image.shape == (3, 128, 128)
        assert sample.image.is_contiguous()
        assert sample.image.min() >= 0 and sample.image.max() <= 1
        assert sample.image.std() > 0.1


def test_masks_are_disjoint_and_void_is_rare(samples):
    void = []
    for sample in samples:
        covered = sample.segments.masks.sum(0)
        assert covered.max() == 1
        void.append(float((covered == 0).float().mean()))
    assert np.mean(void) < 0.002 and max(void) < 0.01


def test_what_is_tiny_is_void_at_every_size(samples):
    small = [scene(1, index, 64) for index in range(60)]
    for sample in [*samples, *small]:
        height, width = sample.segments.size
        area = sample.segments.masks.flatten(1).sum(1)
        assert area.min() >= 12 * height * width / 128**2
    assert min(sample.segments.masks.flatten(1).sum(1).min() for sample in small) < 12


def test_some_scene_has_void():
    assert any((~scene(1, index, 64).segments.masks.any(0)).any() for index in range(200))


def test_segments_are_things_then_stuff_and_each_stuff_once(samples):
    for sample in samples:
        labels = sample.segments.labels
        assert sample.segments.is_crowd.dtype == torch.bool
        assert torch.equal(labels, labels.sort().values)
        stuff = labels[labels >= NUM_THINGS].tolist()
        assert len(stuff) == len(set(stuff))
        assert {NAMES.index("sky"), NAMES.index("mountain"), NAMES.index("meadow")} <= set(stuff)
    with_lake = [NAMES.index("lake") in sample.segments.labels for sample in samples]
    assert 0.2 < np.mean(with_lake) < 0.8


def test_every_class_of_thing_is_common_and_scenes_are_full(samples):
    for name in NAMES[:NUM_THINGS]:
        assert np.mean([len(masks_of(sample, name)) > 0 for sample in samples]) > 0.5
    counts = [int((sample.segments.labels < NUM_THINGS).sum()) for sample in samples]
    assert 7 < np.mean(counts) < 14
    assert np.mean([4 <= count <= 14 for count in counts]) > 0.8


def test_sheep_are_large_enough_to_learn(samples):
    widths = [np.ptp(np.nonzero(m)[1]) + 1 for s in samples for m in masks_of(s, "sheep")]
    assert np.mean(np.array(widths) >= 12) > 0.9


def test_flocks_touch(samples):
    """In most scenes the connected components of the sheep are not the sheep."""
    merged = []
    for sample in samples:
        sheep = masks_of(sample, "sheep")
        if len(sheep) > 1:
            labelled, _ = ndimage.label(sheep.any(0))
            component = [np.bincount(labelled[mask]).argmax() for mask in sheep]
            merged.append(len(set(component)) < len(sheep))
    assert len(merged) > 40 and np.mean(merged) > 0.8


def test_sheep_hide_one_another(samples):
    """Where every sheep were whole their areas would follow from their widths."""
    fill = [
        mask.sum() / (np.ptp(np.nonzero(mask)[1]) + 1) ** 2
        for sample in samples
        for mask in masks_of(sample, "sheep")
    ]
    assert np.percentile(fill, 10) < 0.7 * np.percentile(fill, 60)


@pytest.mark.parametrize("name", ["sheep", "house"])
def test_some_instances_are_cut_in_two(samples, name):
    cut = [parts(mask) > 1 for sample in samples for mask in masks_of(sample, name)]
    assert 0.02 < np.mean(cut) < 0.5


def test_a_few_scenes_have_a_crowd_of_sheep(samples):
    crowds = [sample.segments[sample.segments.is_crowd] for sample in samples]
    assert 0.05 < np.mean([len(crowd) > 0 for crowd in crowds]) < 0.3
    assert max(len(crowd) for crowd in crowds) == 1
    assert all((crowd.labels == NAMES.index("sheep")).all() for crowd in crowds)


def test_a_scene_is_the_same_picture_at_every_size():
    for index in range(15):
        small, large = scene(7, index, 96), scene(7, index, 192)
        reduced = torch.nn.functional.avg_pool2d(large.image, 2)
        assert (small.image - reduced).abs().mean() < 0.03
        same = semantic_map(small.segments) == semantic_map(large.segments)[::2, ::2]
        assert same.float().mean() > 0.95
        if len(small.segments) == len(large.segments):  # nothing at the limit of being void
            halved = large.segments.masks[:, ::2, ::2]
            shared = (small.segments.masks & halved).sum((1, 2))
            iou = shared / (small.segments.masks | halved).sum((1, 2))
            assert iou.median() > 0.85


def test_a_scene_need_not_be_square():
    sample = scene(1, 2, (64, 160))
    assert sample.image.shape == (3, 64, 160) and sample.segments.size == (64, 160)
    wide, square = semantic_map(sample.segments), semantic_map(scene(1, 2, 64).segments)
    sky = NAMES.index("sky")
    assert abs((wide == sky).float().mean() - (square == sky).float().mean()) < 0.1


def test_things_have_colours_of_their_own(samples):
    """The masks lie where the things are drawn: a mask that is moved fits less well."""

    def spread(image: torch.Tensor, mask: torch.Tensor) -> float:
        return float(image[:, mask].std(dim=1).mean())

    better = []
    for sample in samples[:40]:
        for mask, label in zip(sample.segments.masks, sample.segments.labels, strict=True):
            if label in (NAMES.index("sky"), NAMES.index("tree")):
                moved = mask.roll((6, 6), (0, 1))
                better.append(spread(sample.image, mask) < spread(sample.image, moved))
    assert np.mean(better) > 0.9


def test_a_series_is_a_sequence():
    scenes = Scenes(seed=2, count=3, size=32)
    assert len(scenes) == 3
    assert len(list(islice(scenes, 5))) == 3  # iteration ends
    assert torch.equal(scenes[-1].image, scene(2, 2, 32).image)
    for index in (3, -4):
        with pytest.raises(IndexError, match="3 scenes"):
            scenes[index]


def test_splits():
    train, validation = Scenes.train(count=300, size=32), Scenes.validation(size=32)
    assert len(train) == 300 and len(validation) == 200
    assert torch.equal(train[7].image, scene(0, 7, 32).image)
    assert torch.equal(validation[7].image, scene(1, 7, 32).image)


def box_overlaps(sample: Sample) -> list[float]:
    """For each sheep, the best IoU of its box with that of another sheep."""
    sheep = masks_of(sample, "sheep")
    boxes = np.array([[f(axis) for f in (np.min, np.max) for axis in np.nonzero(m)] for m in sheep])
    best = []
    for k, box in enumerate(boxes):
        others = np.delete(boxes, k, 0)
        both = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2]) + 1
        both = both.clip(0).prod(1)
        areas = (others[:, 2:] - others[:, :2] + 1).prod(1) + (box[2:] - box[:2] + 1).prod()
        best.append((both / (areas - both)).max(initial=0))
    return best


def test_crowded_scenes_are_the_same_landscapes_with_flocks_that_overlap_more(samples):
    crowded = Scenes.validation(crowded=True)
    assert crowded.crowded and not Scenes.validation().crowded
    more = [crowded[index] for index in range(40)]
    assert torch.equal(more[6].image, scene(1, 6, crowded=True).image)
    before, after = (sum(len(masks_of(s, "sheep")) for s in x) for x in (samples[:40], more))
    assert 1.5 * before < after <= 2 * before  # some are hidden altogether
    plain, close = (np.concatenate([box_overlaps(s) for s in x]) for x in (samples[:40], more))
    assert np.mean(close > 0.3) > 2 * np.mean(plain > 0.3)
    for one, other in zip(samples, more, strict=False):
        assert (one.image[:, :4] - other.image[:, :4]).abs().mean() < 0.02  # the same sky
        assert (other.segments.masks.sum(0) <= 1).all()
        kinds = [
            set(each.segments.labels[each.segments.labels >= 4].tolist()) for each in (one, other)
        ]
        assert kinds[1] <= kinds[0]


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: scene(-1, 0), "seed"),
        (lambda: scene(0, -1), "index"),
        (lambda: scene(0, 0, 31), "size"),
        (lambda: scene(0, 0, (128, 16)), "size"),
        (lambda: Scenes(count=-1), "count"),
        (lambda: Scenes(seed=-1), "seed"),
        (lambda: Scenes(size=8), "size"),
    ],
)
def test_bad_input_is_named(make, name):
    with pytest.raises(ValueError, match=f"^{name} must"):
        make()


DRAWN = [  # segments, their areas times their places in the list, mean and spread of the colours
    (15, 50939, 0.5822, 0.1927), (18, 61786, 0.5565, 0.218), (14, 45620, 0.6087, 0.1935),
    (15, 47672, 0.526, 0.213), (15, 50661, 0.5638, 0.2079), (17, 56048, 0.5415, 0.2276),
    (8, 28182, 0.5396, 0.1952), (12, 40488, 0.5933, 0.2186), (11, 35445, 0.5703, 0.2248),
    (9, 30792, 0.5739, 0.2495), (20, 67539, 0.5598, 0.2369), (17, 54666, 0.5337, 0.2238),
    (10, 33321, 0.5962, 0.1748), (11, 36026, 0.5876, 0.2012), (13, 42080, 0.6063, 0.2197),
    (15, 48825, 0.5693, 0.2099), (14, 46945, 0.5524, 0.2211), (10, 30706, 0.5649, 0.235),
    (8, 23141, 0.5403, 0.2202), (9, 29244, 0.5768, 0.2197), (13, 46121, 0.5716, 0.1967),
    (15, 50850, 0.5697, 0.2012), (15, 52302, 0.5957, 0.2063), (5, 17729, 0.5346, 0.1864),
]  # fmt: skip


def test_the_scenes_are_those_that_the_recorded_runs_have_seen():
    """Whoever changes how they are drawn makes all recorded runs anew."""
    train = Scenes.train(size=64)
    for index, (count, places, mean, spread) in enumerate(DRAWN):
        image, masks = train[index].image, train[index].segments.masks
        areas = masks.flatten(1).sum(1)
        assert len(masks) == count
        assert (areas * torch.arange(1, count + 1)).sum() == places
        assert image.mean() == pytest.approx(mean, abs=1e-4)
        assert image.std() == pytest.approx(spread, abs=1e-4)
