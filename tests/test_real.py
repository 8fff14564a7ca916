"""The real data sets: tiny ones built here, and the true images where there are some."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lessons.kit.data import Category, Sample, Segments, areas
from lessons.kit.data.real import CocoPanoptic, Nuclei, PennFudan, Smaller, data_root
from lessons.kit.errors import LessonsError

SPLITS = json.loads((Path(__file__).parents[1] / "lessons/kit/data/nuclei.json").read_text())


def save(path, values, mode=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(values, dtype=np.uint8))
    (image.convert(mode) if mode else image).save(path)


def save_nucleus_image(root, name, image, *masks):
    folder = root / "nuclei" / "stage1_train" / name
    save(folder / "images" / f"{name}.png", image)
    for letter, mask in zip("abcdef", masks, strict=False):
        save(folder / "masks" / f"{letter}.png", np.asarray(mask) * 255)


def test_the_data_root_is_the_variable_or_else_the_clone(monkeypatch, tmp_path):
    monkeypatch.setenv("LESSONS_DATA", str(tmp_path))
    assert data_root() == tmp_path
    monkeypatch.setenv("LESSONS_DATA", "~/my images")
    assert data_root() == Path.home() / "my images"
    monkeypatch.delenv("LESSONS_DATA")
    assert data_root() == Path(__file__).parents[1] / "data"


def test_a_nucleus_image_has_its_pixels_and_masks(tmp_path):
    rgba = np.zeros((2, 3, 4))
    rgba[..., 3] = 255
    rgba[0, 2, :2] = 255, 51
    save_nucleus_image(tmp_path, "x", rgba, [[1, 1, 0], [0, 0, 0]], [[0, 0, 0], [0, 1, 1]])
    nuclei = Nuclei("all", tmp_path)
    (sample,) = nuclei
    assert nuclei.categories == [Category("nucleus", True, nuclei.categories[0].color)]
    assert sample.image.dtype == torch.float32 and sample.image.shape == (3, 2, 3)
    torch.testing.assert_close(sample.image[:, 0, 2], torch.tensor([1.0, 0.2, 0.0]))
    assert sample.image.sum() == pytest.approx(1.2)
    assert sample.segments.masks.int().tolist() == [
        [[1, 1, 0], [0, 0, 0]],
        [[0, 0, 0], [0, 1, 1]],
    ]
    assert sample.segments.labels.tolist() == [0, 0]
    assert sample.segments.labels.dtype == torch.int64
    assert sample.segments.is_crowd.tolist() == [False, False]
    assert sample.segments.scores is None


def test_where_nuclei_overlap_the_first_file_keeps_its_pixels(tmp_path):
    first, hidden, last = [[1, 1, 0]], [[0, 1, 0]], [[0, 1, 1]]
    save_nucleus_image(tmp_path, "x", np.zeros((1, 3, 3)), first, hidden, last)
    masks = Nuclei("all", tmp_path)[0].segments.masks
    assert masks.int().tolist() == [[[1, 1, 0]], [[0, 0, 1]]]


def test_a_grey_image_becomes_three_equal_channels(tmp_path):
    save_nucleus_image(tmp_path, "x", [[0, 102]], [[1, 0]])
    image = Nuclei("all", tmp_path)[0].image
    torch.testing.assert_close(image, torch.tensor([[[0.0, 0.4]]] * 3))


def test_hidden_files_are_no_images(tmp_path):
    save_nucleus_image(tmp_path, "x", [[0, 0]], [[1, 0]])
    folder = tmp_path / "nuclei" / "stage1_train"
    (folder / ".DS_Store").touch()
    (folder / "x" / "masks" / "._a.png").touch()
    assert len(Nuclei("all", tmp_path)) == 1
    assert len(Nuclei("all", tmp_path)[0].segments) == 1


def test_the_nuclei_splits_are_the_listed_names(tmp_path):
    assert len(SPLITS["train"]) == 160 and len(SPLITS["test"]) == 40
    assert SPLITS["train"] + SPLITS["test"] == sorted({*SPLITS["train"], *SPLITS["test"]})
    for name in [*SPLITS["test"], *SPLITS["train"], "another"]:
        save_nucleus_image(tmp_path, name, [[0]], [[1]])
    for split in ("train", "test"):
        nuclei = Nuclei(split, tmp_path)
        assert nuclei.names == SPLITS[split] and len(nuclei) == len(SPLITS[split])
    assert Nuclei("all", tmp_path).names == sorted([*SPLITS["train"], *SPLITS["test"], "another"])


def test_a_data_set_is_a_sequence(tmp_path):
    for level, name in enumerate(["a", "b", "c"]):
        save_nucleus_image(tmp_path, name, [[51 * level]], [[1]])
    nuclei = Nuclei("all", str(tmp_path))
    assert isinstance(nuclei, Sequence)
    levels = [round(sample.image[0, 0, 0].item(), 3) for sample in nuclei]
    assert levels == [0.0, 0.2, 0.4]
    assert torch.equal(nuclei[-1].image, nuclei[2].image)
    assert torch.equal(nuclei.read("b").image, nuclei[1].image)
    with pytest.raises(IndexError):
        nuclei[3]


@pytest.mark.parametrize("mode", ["L", "P"])
def test_pedestrians_are_the_ids_of_the_mask(tmp_path, mode):
    folder = tmp_path / "PennFudanPed"
    save(folder / "PNGImages" / "FudanPed00001.png", np.full((2, 2, 3), 255))
    ids = Image.fromarray(np.array([[0, 2], [1, 2]], dtype=np.uint8))
    if mode == "P":
        ids.putpalette([0, 0, 0, 255, 0, 0, 0, 0, 0])  # the colours must not matter
    (folder / "PedMasks").mkdir()
    ids.save(folder / "PedMasks" / "FudanPed00001_mask.png")
    pedestrians = PennFudan("all", tmp_path)
    (sample,) = pedestrians
    assert pedestrians.names == ["FudanPed00001"]
    assert [(c.name, c.is_thing) for c in pedestrians.categories] == [("pedestrian", True)]
    assert sample.image.min() == 1
    assert sample.segments.masks.int().tolist() == [[[0, 0], [1, 0]], [[0, 1], [0, 1]]]
    assert sample.segments.labels.tolist() == [0, 0]


@pytest.fixture
def coco(tmp_path):
    """Two images of 2×3 pixels; the JSON lists stuff first and images in the wrong order."""
    folder = tmp_path / "coco"
    ids = {1: [[7, 7, 0], [300, 300, 70_001]], 2: [[0, 0, 0], [5, 5, 5]]}
    for number, table in ids.items():
        table = np.array(table)
        rgb = np.stack([table % 256, table // 256 % 256, table // 65536], axis=2)
        save(folder / "annotations" / "panoptic_val2017" / f"{number:012d}.png", rgb)
        save(folder / "val2017" / f"{number:012d}.jpg", np.full((2, 3, 3), (200, 100, 0)))
    save(folder / "val2017" / "000000000002.jpg", np.full((2, 3), 128))  # a grey JPEG
    segments = {
        1: [(70_001, 3, 0), (7, 2, 0), (300, 1, 1)],
        2: [(5, 2, 0)],
    }
    table = {
        "categories": [
            {"id": 2, "name": "grass", "isthing": 0, "color": [1, 2, 3]},
            {"id": 3, "name": "car", "isthing": 1},
            {"id": 1, "name": "person", "isthing": 1},
        ],
        "images": [{"id": n, "file_name": f"{n:012d}.jpg"} for n in (2, 1)],
        "annotations": [
            {
                "image_id": n,
                "file_name": f"{n:012d}.png",
                "segments_info": [
                    {"id": i, "category_id": c, "iscrowd": crowd, "area": 999, "bbox": [9] * 4}
                    for i, c, crowd in segments[n]
                ],
            }
            for n in (2, 1)
        ],
    }
    (folder / "annotations" / "panoptic_val2017.json").write_text(json.dumps(table))
    return CocoPanoptic("val2017", tmp_path)


def test_coco_lists_things_before_stuff(coco):
    assert [c.name for c in coco.categories] == ["person", "car", "grass"]
    assert [c.is_thing for c in coco.categories] == [True, True, False]
    assert coco.category_ids == [1, 3, 2]
    assert coco.categories[2].color == (1, 2, 3)
    person, car = coco.categories[0].color, coco.categories[1].color
    assert person != car and all(0 <= value <= 255 for value in person + car)
    assert coco.names == ["000000000001", "000000000002"]


def test_coco_masks_are_those_of_the_png(coco):
    sample = coco[0]
    assert sample.segments.masks.int().tolist() == [
        [[0, 0, 0], [0, 0, 1]],
        [[1, 1, 0], [0, 0, 0]],
        [[0, 0, 0], [1, 1, 0]],
    ]
    assert sample.segments.labels.tolist() == [1, 2, 0]
    assert sample.segments.is_crowd.tolist() == [False, False, True]
    assert int((~sample.segments.masks.any(dim=0)).sum()) == 1  # void
    colour = torch.tensor([200, 100, 0]) / 255
    assert (sample.image.mean(dim=(1, 2)) - colour).abs().max() < 0.02  # a JPEG is not exact
    assert (coco[1].image - 128 / 255).abs().max() < 0.01


# The true images


def need(folder):
    if not (data_root() / folder).is_dir():
        pytest.skip(f"{data_root() / folder} is missing: set $LESSONS_DATA to run this")


def test_the_200_nuclei_images():
    need("nuclei/stage1_train")
    counts = []
    for nuclei in (Nuclei("train"), Nuclei("test")):
        for name, sample in zip(nuclei.names, nuclei, strict=True):
            files = data_root() / "nuclei" / "stage1_train" / name / "masks"
            assert len(sample.segments) == len(list(files.glob("*.png")))
            assert sample.image.shape == (3, 256, 256)
            assert 0 <= sample.image.min() < sample.image.max() <= 1
            assert areas(sample.segments).min() > 0
            counts.append(len(sample.segments))
    assert len(counts) == 200 and sum(counts) == 4758


def test_the_first_100_coco_images_agree_with_panopticapi():
    need("coco/train2017")
    rgb2id = pytest.importorskip("panopticapi.utils").rgb2id
    coco = CocoPanoptic("train2017")
    annotations = data_root() / "coco" / "annotations"
    table = json.loads((annotations / "panoptic_train2017.json").read_text())
    by_name = {Path(a["file_name"]).stem: a for a in table["annotations"]}
    crowds, void = 0, 0
    for name in coco.names[:100]:
        sample = coco.read(name)
        with Image.open(annotations / "panoptic_train2017" / f"{name}.png") as png:
            ids = rgb2id(np.asarray(png))
        numbers, pixels = np.unique(ids[ids > 0], return_counts=True)
        count = dict(zip(numbers.tolist(), pixels.tolist(), strict=True))
        expected = [
            (s["category_id"], s["iscrowd"], count[s["id"]]) for s in by_name[name]["segments_info"]
        ]
        labels = [coco.category_ids[label] for label in sample.segments.labels]
        crowd = sample.segments.is_crowd.int().tolist()
        found = list(zip(labels, crowd, areas(sample.segments).tolist(), strict=True))
        assert found == expected, name
        assert tuple(sample.image.shape[1:]) == ids.shape
        crowds += sum(crowd)
        void += int((ids == 0).sum())
    assert crowds > 0 and void > 0


def test_the_133_coco_categories():
    need("coco/train2017")
    categories = CocoPanoptic("train2017").categories
    assert [c.is_thing for c in categories] == [True] * 80 + [False] * 53
    assert (categories[0].name, categories[80].name) == ("person", "banner")
    assert len({c.color for c in categories}) > 120


class Three(Sequence):
    """Three images of 40×60: a left half, a single pixel that shrinking loses, and a right half."""

    names = ["a", "b", "c"]
    categories = [Category("sheep", True, (1, 2, 3))]

    def __len__(self):
        return 3

    def __getitem__(self, index):
        masks = torch.zeros(3, 40, 60, dtype=torch.bool)
        masks[0, :, :30], masks[1, 0, 31], masks[2, :, 32:] = True, True, True
        image = torch.full((3, 40, 60), index / 4)
        image[:, :, 30:] += 0.5
        crowd = torch.tensor([False, False, True])
        return Sample(image, Segments(masks, torch.tensor([0, 0, 0]), is_crowd=crowd))


def test_smaller_images_keep_shape_colours_and_what_is_large_enough():
    small = Smaller(Three(), 15, 2)
    assert len(small) == 2 and small.names == ["a", "b"] and small.categories == Three.categories
    sample = small[-1]
    assert sample.segments.size == (10, 15) and sample.image.shape == (3, 10, 15)
    assert len(sample.segments) == 2 and sample.segments.is_crowd.tolist() == [False, True]
    assert sample.segments.masks[0, :, :7].all() and not sample.segments.masks[0, :, 8:].any()
    assert sample.segments.masks[1, :, 8:].all()
    torch.testing.assert_close(sample.image[:, :, :6], torch.full((3, 10, 6), 0.25))
    torch.testing.assert_close(sample.image[:, :, 9:], torch.full((3, 10, 6), 0.75))
    with pytest.raises(IndexError):
        small[2]


def test_images_that_are_small_enough_stay_as_they_are():
    sample, same = Three()[1], Smaller(Three(), 60, 5)[1]
    assert torch.equal(sample.image, same.image)
    assert torch.equal(sample.segments.masks, same.segments.masks)


@pytest.mark.parametrize(("side", "count"), [(0, 3), (8, 0)])
def test_smaller_needs_a_side_and_a_count(side, count):
    message = f"^side and count must be at least 1, not {side} and {count}$"
    with pytest.raises(ValueError, match=message):
        Smaller(Three(), side, count)


def test_a_shrunken_pixel_is_of_the_segment_at_its_centre():
    """Thirds: of nine columns the second, fifth and eighth are at the centres of the three."""
    column = torch.arange(9).expand(9, 9)
    masks = torch.stack([column % 3 == k for k in range(3)])
    sample = Sample(torch.zeros(3, 9, 9), Segments(masks, torch.arange(3)))

    class One(list):
        categories, names = (), ["one"]

    (small,) = Smaller(One([sample]), 3, 1)
    assert small.segments.labels.tolist() == [1] and small.segments.masks.all()


# Kinds of files


def nucleus(root, mask, image=None):
    """The masks that are read where one mask's file is this Pillow image."""
    folder = root / "nuclei" / "stage1_train" / "x"
    size = mask.size[::-1]
    save(folder / "images" / "x.png", np.zeros((*size, 3)) if image is None else image)
    (folder / "masks").mkdir(parents=True, exist_ok=True)
    mask.save(folder / "masks" / "a.png")
    return Nuclei("all", root)[0].segments.masks.int().tolist()


def grey(values, mode="L"):
    return Image.fromarray(np.array(values, dtype=np.uint8), mode="L").convert(mode)


def palette(ids, *colors):
    image = Image.fromarray(np.array(ids, dtype=np.uint8), mode="L")
    image.putpalette([value for color in colors for value in color])
    return image


def rgba(*rows):
    return Image.fromarray(np.array(rows, dtype=np.uint8))


BLACK, WHITE, CLEAR, CLEAR_WHITE = (0, 0, 0, 255), (255,) * 4, (0,) * 4, (255, 255, 255, 0)
MASKS = {
    "0 and 255": grey([[0, 255]]),
    "0 and 1": grey([[0, 1]]),
    "one bit": grey([[0, 255]], "1"),
    "16 bits": Image.fromarray(np.array([[0, 300]], dtype=np.uint16)),
    "colours": grey([[0, 255]], "RGB"),
    "a dark colour": Image.fromarray(np.array([[[0, 0, 0], [0, 0, 1]]], dtype=np.uint8)),
    "a palette": palette([[0, 1]], (0, 0, 0), (128, 0, 0)),
    "a palette in another order": palette([[1, 0]], (255, 255, 255), (0, 0, 0)),
    "a dark palette": palette([[0, 1]], (0, 0, 0), (0, 0, 1)),
    "opaque": rgba([BLACK, WHITE]),
    "grey and opaque": grey([[0, 255]], "LA"),
    "white on nothing": rgba([CLEAR, WHITE]),
    "black on nothing": rgba([CLEAR, BLACK]),
    "white on white nothing": rgba([CLEAR_WHITE, WHITE]),
    "black on white nothing": rgba([CLEAR_WHITE, BLACK]),
}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())
def test_a_mask_is_what_is_seen(tmp_path, mask):
    assert nucleus(tmp_path, mask) == [[[0, 1]]]


def test_a_mask_with_a_transparent_frame_is_what_is_white_in_it(tmp_path):
    mask = rgba([CLEAR_WHITE, BLACK, WHITE, CLEAR])
    assert nucleus(tmp_path, mask) == [[[0, 0, 1, 0]]]


def test_a_palette_with_a_transparent_entry_is_opaque_elsewhere(tmp_path):
    path = tmp_path / "nuclei" / "stage1_train" / "x"
    save(path / "images" / "x.png", np.zeros((1, 2, 3)))
    (path / "masks").mkdir()
    mask = palette([[0, 1]], (255, 0, 0), (0, 0, 0))  # red is not there, black is
    mask.save(path / "masks" / "a.png", transparency=0)
    assert Nuclei("all", tmp_path)[0].segments.masks.int().tolist() == [[[0, 1]]]


def turned(path, values, orientation):
    """Save the values as a camera does that was held otherwise: turned, with the way back."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values, dtype=np.uint8)).save(path, exif=exif)


@pytest.mark.parametrize("orientation, turns", [(1, 0), (3, 2), (6, 1), (8, 3)])
def test_an_image_is_upright_and_so_are_masks(tmp_path, orientation, turns):
    upright = np.zeros((2, 3, 3))
    upright[0, 0], upright[1, 2] = 255, 51
    folder = tmp_path / "nuclei" / "stage1_train" / "x"
    turned(folder / "images" / "x.png", np.rot90(upright, turns), orientation)
    turned(folder / "masks" / "a.png", np.rot90(upright[..., 0] == 255, turns), orientation)
    save(folder / "masks" / "b.png", upright[..., 0] == 51)  # has no orientation: is upright
    sample = Nuclei("all", tmp_path)[0]
    torch.testing.assert_close(sample.image[0], torch.tensor(upright[..., 0]).float() / 255)
    assert sample.segments.masks.int().tolist() == [
        [[1, 0, 0], [0, 0, 0]],
        [[0, 0, 0], [0, 0, 1]],
    ]


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "L", "1"])
def test_images_of_other_colour_spaces_are_read_in_rgb(tmp_path, mode):
    colour = {"L": (80, 80, 80), "1": (255, 255, 255)}.get(mode, (200, 100, 50))
    folder = tmp_path / "nuclei" / "stage1_train" / "x"
    save(folder / "masks" / "a.png", np.full((16, 16), 255))
    (folder / "images").mkdir()
    image = Image.new("RGB", (16, 16), colour).convert(mode)
    image.save(
        folder / "images" / "x.png",
        format="TIFF" if mode == "YCbCr" else "JPEG" if mode == "CMYK" else "PNG",
    )
    found = Nuclei("all", tmp_path)[0].image.mean(dim=(1, 2)) * 255
    assert (found - torch.tensor(colour)).abs().max() < 3


def test_a_palette_image_has_its_colours(tmp_path):
    folder = tmp_path / "nuclei" / "stage1_train" / "x"
    save(folder / "masks" / "a.png", [[255, 255]])
    (folder / "images").mkdir()
    palette([[1, 0]], (0, 51, 0), (255, 0, 102)).save(folder / "images" / "x.png")
    image = Nuclei("all", tmp_path)[0].image
    expected = torch.tensor([[[1.0, 0.0]], [[0.0, 0.2]], [[0.4, 0.0]]])
    torch.testing.assert_close(image, expected)


JUNK = ["Thumbs.db", "thumbs.db", "desktop.ini", ".DS_Store", "._x.png", "Icon\r", "labels.csv"]


@pytest.mark.parametrize("junk", JUNK)
def test_what_systems_leave_in_folders_is_no_sample(tmp_path, junk):
    save_nucleus_image(tmp_path, "x", [[0, 0]], [[1, 0]])
    folder = tmp_path / "nuclei" / "stage1_train"
    for place in (folder, folder / "x" / "masks", folder / "x" / "images"):
        (place / junk).write_bytes(b"junk")
    (folder / "__MACOSX" / "x").mkdir(parents=True)
    people = tmp_path / "PennFudanPed"
    save(people / "PNGImages" / "a.png", np.zeros((1, 2, 3)))
    save(people / "PedMasks" / "a_mask.png", [[0, 1]])
    for place in ("", "PNGImages", "PedMasks"):
        (people / place / junk).write_bytes(b"junk")
    assert Nuclei("all", tmp_path).names == ["x"]
    assert len(Nuclei("all", tmp_path)[0].segments) == 1
    assert PennFudan("all", tmp_path).names == ["a"] and len(PennFudan("all", tmp_path)[0].segments)


def test_endings_may_be_in_capitals(tmp_path):
    save_nucleus_image(tmp_path, "x", [[0, 0]], [[1, 0]])
    save(tmp_path / "nuclei/stage1_train/x/masks/b.png", [[0, 255]])
    (tmp_path / "nuclei/stage1_train/x/masks/b.png").rename(
        tmp_path / "nuclei/stage1_train/x/masks/B.PNG"
    )
    assert len(Nuclei("all", tmp_path)[0].segments) == 2


@pytest.mark.parametrize("name", ["two words", "Zellkern_äöü", "名前", "a.b", "a'b\"c", "[x]"])
def test_names_may_be_of_any_letters(tmp_path, name):
    root = tmp_path / name
    save_nucleus_image(root, name, [[0, 0]], [[1, 0]])
    assert Nuclei("all", root).names == [name] and len(Nuclei("all", root)[0].segments) == 1


def test_folders_and_files_may_be_links(tmp_path):
    save_nucleus_image(tmp_path / "far", "x", [[0, 0]], [[1, 0]])
    near = tmp_path / "near" / "nuclei" / "stage1_train"
    near.mkdir(parents=True)
    (near / "y").symlink_to(tmp_path / "far/nuclei/stage1_train/x")
    (near / "y" / "images" / "y.png").symlink_to("x.png")
    assert Nuclei("all", tmp_path / "near").names == ["y"]
    assert len(Nuclei("all", tmp_path / "near")[0].segments) == 1


def test_coco_files_may_lie_in_folders_of_their_own(coco, tmp_path):
    """As COCO's file_name says: "sub/000000000001.jpg"."""
    path = tmp_path / "coco/annotations/panoptic_val2017.json"
    table = json.loads(path.read_text())
    for image, annotation in zip(table["images"], table["annotations"], strict=True):
        for entry, folder in ((image, "val2017"), (annotation, "annotations/panoptic_val2017")):
            home = tmp_path / "coco" / folder
            new = f"part {entry.get('id', entry.get('image_id'))}/{entry['file_name'][-5:]}"
            (home / new).parent.mkdir()
            (home / entry["file_name"]).rename(home / new)
            entry["file_name"] = new
    path.write_text(json.dumps(table))
    moved = CocoPanoptic("val2017", tmp_path)
    assert moved.names == ["part 1/1", "part 2/2"]
    sample = moved.read("part 1/1")
    assert sample.segments.labels.tolist() == [1, 2, 0] and len(moved[1].segments) == 1


def test_coco_labels_are_the_samples_own(coco):
    coco[0].segments.labels.fill_(2)
    assert coco[0].segments.labels.tolist() == [1, 2, 0]


def test_coco_s_json_may_be_in_another_encoding(coco, tmp_path):
    path = tmp_path / "coco/annotations/panoptic_val2017.json"
    for encoding in ("utf-8-sig", "utf-16"):
        path.write_text(path.read_text("utf-8-sig"), encoding=encoding)
        assert CocoPanoptic("val2017", tmp_path).names == coco.names
        path.write_text(path.read_text(encoding), encoding="utf-8")


def test_coco_keeps_arrays_and_no_objects_for_each_segment(coco):
    """A list of a million Python objects would be copied by every process that looks at it."""
    held = [value for value in vars(coco).values() if isinstance(value, list | dict | tuple)]
    assert sorted(map(len, held)) == [2, 3, 3]  # names, categories, category_ids


def test_the_pedestrians_that_are_held_out_are_those_whose_number_five_divides(tmp_path):
    names = [f"FudanPed{n:05d}" for n in range(1, 75)] + [f"PennPed{n:05d}" for n in range(1, 97)]
    for name in names:
        save(tmp_path / f"PennFudanPed/PNGImages/{name}.png", np.zeros((1, 1, 3)))
        save(tmp_path / f"PennFudanPed/PedMasks/{name}_mask.png", [[1]])
    train, test = (PennFudan(split, tmp_path).names for split in ("train", "test"))
    assert (len(train), len(test)) == (137, 33) and sorted([*train, *test]) == names
    assert test[:2] == ["FudanPed00005", "FudanPed00010"] and test[-1] == "PennPed00095"
    assert PennFudan("all", tmp_path).names == names


# The command line


@pytest.mark.parametrize("said", ["images", "./images", "other/../images"])
def test_a_relative_data_root_begins_where_the_command_was_started(
    lessons, tmp_path, monkeypatch, said
):
    save_nucleus_image(tmp_path / "images", "x", [[0]], [[1]])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LESSONS_DATA", said)
    _, printed, errors = lessons("doctor")
    assert errors == "" and f"looked for in {tmp_path / 'images'}\n" in printed
    assert "  nuclei     1 images\n" in printed
    # What the command starts is told the whole path, and so is what runs after a change of folder.
    assert os.environ["LESSONS_DATA"] == str(tmp_path / "images")
    monkeypatch.chdir("/")
    assert len(Nuclei("all")) == 1


def test_a_notebook_s_kernel_means_the_same_folder_as_the_command(lessons, tmp_path, monkeypatch):
    """A kernel works in its notebook's folder; jupyter and nbclient give it our environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LESSONS_DATA", "my images")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    lessons("build", "--check")
    script = "from lessons.kit.data.download import data_root; print(data_root())"
    kernel = subprocess.run([sys.executable, "-c", script], cwd="/", capture_output=True)
    assert kernel.stdout.decode().strip() == str(tmp_path / "my images")


def test_evaluate_s_help_says_every_name(lessons):
    from lessons.kit.data.named import FORMS

    _, printed, _ = lessons("evaluate", "--help")
    words = set(re.sub(r"[│\s,;]+", " ", printed).split())
    assert set(FORMS.split(", ")) <= words


def test_the_doctor_says_what_is_wrong_with_images_that_are_there(lessons, tmp_path, monkeypatch):
    monkeypatch.setenv("LESSONS_DATA", str(tmp_path))
    save(tmp_path / "PennFudanPed/PNGImages/a.png", np.zeros((1, 2, 3)))
    (tmp_path / "nuclei/stage1_train").mkdir(parents=True)
    for split in ("train2017", "val2017"):
        (tmp_path / "coco" / split).mkdir(parents=True)
        (tmp_path / "coco/annotations").mkdir(exist_ok=True)
        (tmp_path / f"coco/annotations/panoptic_{split}.json").write_text("{")
    _, printed, _ = lessons("doctor")
    masks = tmp_path / "PennFudanPed/PedMasks"
    assert f"  pennfudan  cannot be used: {masks} is missing" in printed
    assert "  nuclei     cannot be used: " in printed
    for split in ("train2017", "val2017"):
        assert (
            f"  coco       cannot be used: {tmp_path}/coco/annotations/panoptic_{split}" in printed
        )


def test_the_doctor_counts_coco_by_split(lessons, coco, tmp_path, monkeypatch):
    monkeypatch.setenv("LESSONS_DATA", str(tmp_path))
    assert "  coco       2 images in val2017\n" in lessons("doctor")[1]


def test_a_working_folder_that_is_gone_ends_in_the_sentence_about_the_data_root(
    tmp_path, monkeypatch
):
    from lessons.kit import cli

    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    monkeypatch.setenv("LESSONS_DATA", "images")
    cli._settle_data()
    with pytest.raises(LessonsError, match="LESSONS_DATA is 'images', which would be another"):
        data_root()
