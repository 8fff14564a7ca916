"""The pictures: colours that everyone can tell apart, any size, no segments, no open figure."""

import base64
import copy
import io
import itertools

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from lessons.kit import draw
from lessons.kit.data import Category, Sample, Segments, empty_segments, scenes
from lessons.kit.draw import (
    PALETTE,
    captioned,
    draw_box,
    draw_curves,
    draw_grid,
    draw_image,
    draw_legend,
    draw_panoptic,
    draw_segments,
    instance_colors,
    segment_colors,
    side_by_side,
)

KINDS = [
    Category("sheep", True, (240, 228, 66)),
    Category("meadow", False, (153, 187, 85)),
]
SIZES = [(480, 640), (30, 50)]


@pytest.fixture(autouse=True)
def no_figures():
    plt.close("all")
    yield
    plt.close("all")


def sample_of(size, crowd=True, scores=False) -> Sample:
    """Two sheep, one of them a crowd, on a meadow; the right border is void."""
    h, w = size
    masks = torch.zeros(3, h, w, dtype=torch.bool)
    masks[0, : h // 3, : w // 3] = True
    masks[1, h // 2 : h // 2 + 8, w // 2 : w // 2 + 8] = True
    masks[2] = ~masks[:2].any(0)
    masks[2, :, -3:] = False
    segments = Segments(
        masks,
        torch.tensor([0, 0, 1]),
        torch.tensor([0.875, 1.0, 0.5]) if scores else None,
        torch.tensor([crowd, False, False]),
    )
    return Sample(torch.rand(3, h, w, generator=torch.Generator().manual_seed(0)), segments)


def canvas_of(ax: Axes) -> np.ndarray:
    """The pixels that an axes shows, one for each pixel of the image."""
    (picture,) = ax.images
    left, right, bottom, top = picture.get_extent()
    pixels = np.asarray(picture.get_array())
    scale = pixels.shape[0] / abs(bottom - top)
    assert scale == pixels.shape[1] / (right - left)
    middle = np.arange(scale // 2, pixels.shape[0], scale).astype(int)
    return pixels[middle][:, np.arange(scale // 2, pixels.shape[1], scale).astype(int)]


# ---------------------------------------------------------------- colours

# Machado, Oliveira and Fernandes (2009), severity 1.0, for linear RGB.
EYES = {
    "all cones": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
RGB_TO_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)  # sRGB, white point D65


def seen_by(eye: str, colors: np.ndarray) -> np.ndarray:
    """Colours, RGB in [0, 1], as an eye sees them, in CIELAB."""
    linear = np.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.array(EYES[eye]).T, 0, 1)
    xyz = seen @ RGB_TO_XYZ.T / RGB_TO_XYZ.sum(1)
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz * (29 / 6) ** 2 / 3 + 4 / 29)
    x, y, z = f.T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)


COLORS = {
    "the palette": [mpl.colors.to_rgb(color) for color in PALETTE],
    "the scenes": np.array([category.color for category in scenes.CATEGORIES]) / 255,
    "the curves": [mpl.colors.to_rgb(c) for c in mpl.rcParams["axes.prop_cycle"].by_key()["color"]],
}


def test_the_simulation_confuses_red_and_green():
    red_and_green = np.array([[0.7, 0.35, 0.1], [0.5, 0.5, 0.1]])
    normal, deutan = (np.diff(seen_by(eye, red_and_green), axis=0) for eye in list(EYES)[::2])
    assert np.linalg.norm(normal) > 40 and np.linalg.norm(deutan) < 10
    assert seen_by("all cones", np.ones((1, 3)))[0] == pytest.approx([100, 0, 0], abs=0.01)


@pytest.mark.parametrize("eye", EYES)
@pytest.mark.parametrize("name", COLORS)
def test_colours_can_be_told_apart(name, eye):
    seen = seen_by(eye, np.array(COLORS[name]))
    apart = {
        pair: np.linalg.norm(seen[pair[0]] - seen[pair[1]])
        for pair in itertools.combinations(range(len(seen)), 2)
    }
    closest = min(apart, key=apart.get)
    assert apart[closest] >= 10, f"{name}: colours {closest} under {eye}"


def test_instances_have_a_colour_each_until_there_are_21():
    colors = instance_colors(50)
    assert colors.shape == (50, 3) and colors.min() >= 0 and colors.max() <= 1
    assert len({tuple(color) for color in colors.tolist()}) == 21
    assert np.array_equal(colors[:7], [mpl.colors.to_rgb(color) for color in PALETTE])
    assert instance_colors(0).shape == (0, 3)


def test_stuff_has_its_classs_colour_and_every_thing_its_own():
    colors = segment_colors(sample_of((30, 50)).segments, KINDS)
    assert np.array_equal(colors[:2], instance_colors(2))
    assert np.array_equal(colors[2] * 255, KINDS[1].color)
    assert segment_colors(empty_segments((30, 50)), KINDS).shape == (0, 3)


# ---------------------------------------------------------------- every picture, every size


def no_segments(size) -> Sample:
    return Sample(sample_of(size).image, empty_segments(size))


SAMPLES = {"crowd": lambda size: sample_of(size, scores=True), "no segments": no_segments}
PICTURES = {
    "image": lambda s: draw_image(s.image, title="an image"),
    "segments": lambda s: draw_segments(s.image, s.segments, KINDS, title="segments"),
    "over black": lambda s: draw_segments(None, s.segments, KINDS),
    "plain": lambda s: draw_segments(s.image, s.segments, KINDS, outline=False, labels=False),
    "panoptic": lambda s: draw_panoptic(s.segments, KINDS, title="panoptic"),
    "grid": lambda s: draw_grid([s, s, s], KINDS, columns=2),
    "one in a grid": lambda s: draw_grid([s], KINDS),
    "side by side": lambda s: side_by_side(s.image, {"image": None, "us": s.segments}, KINDS),
}


of_every_size = pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")


@of_every_size
@pytest.mark.parametrize("make", SAMPLES.values(), ids=SAMPLES.keys())
@pytest.mark.parametrize("picture", PICTURES.values(), ids=PICTURES.keys())
def test_a_picture_of(picture, make, size, monkeypatch):
    monkeypatch.setattr(draw, "DOTS_PER_INCH", (40,))  # four times as fast
    sample = make(size)
    before = copy.deepcopy(sample)
    drawn = picture(sample)
    assert isinstance(drawn, Axes | Figure) and len(plt.get_fignums()) == 1
    figure = drawn if isinstance(drawn, Figure) else drawn.figure
    assert Image.open(io.BytesIO(captioned(figure, "A picture.").png())).format == "PNG"
    assert plt.get_fignums() == []
    assert sample.image.equal(before.image)
    for name in ("masks", "labels", "scores", "is_crowd"):
        value, old = getattr(sample.segments, name), getattr(before.segments, name)
        assert (value is None and old is None) or value.equal(old)


@of_every_size
def test_pixels_are_drawn_where_they_are(size):
    h, w = size
    sample = sample_of(size)
    image = sample.image.permute(1, 2, 0).numpy()
    assert np.array_equal(canvas_of(draw_image(sample.image)), image)
    ax = draw_segments(sample.image, sample.segments, KINDS, fill=0.25, outline=False)
    color = instance_colors(2)[1]
    mask = sample.segments.masks[1].numpy()
    assert np.allclose(canvas_of(ax)[mask], 0.75 * image[mask] + 0.25 * color)
    assert np.array_equal(canvas_of(ax)[:, -3:], image[:, -3:])  # void
    assert ax.get_xlim() == (0, w) and ax.get_ylim() == (h, 0)  # boxes fit on it


def test_an_outline_lies_inside_its_mask():
    sample = sample_of((30, 50))
    plain = draw_segments(None, sample.segments[[1]], KINDS, outline=False, fill=0)
    outlined = draw_segments(None, sample.segments[[1]], KINDS, fill=0)
    outside = ~sample.segments.masks[1].numpy()
    assert not np.asarray(plain.images[0].get_array()).any()
    assert np.asarray(outlined.images[0].get_array()).any()
    assert not canvas_of(outlined)[outside].any()


def test_crowds_are_hatched():
    def covered(crowd):
        segments = sample_of((60, 60), crowd=crowd).segments[[0]]
        ax = draw_segments(None, segments, KINDS, outline=False)
        return (np.asarray(ax.images[0].get_array()).sum(-1) > 0).mean()

    assert covered(False) == pytest.approx(1 / 9, rel=0.01)
    assert covered(True) == pytest.approx(1 / 18, rel=0.1)


def test_labels_are_written_on_things_with_scores_and_crowds():
    def texts(sample, **options):
        return [t.get_text() for t in draw_segments(None, sample.segments, KINDS, **options).texts]

    assert texts(sample_of((60, 60))) == ["sheep (crowd)", "sheep"]
    assert texts(sample_of((60, 60), False, True)) == ["sheep .88", "sheep 1.00"]
    assert texts(sample_of((480, 640), False, True)) == ["sheep .88", "1.00"]  # the second is thin
    assert texts(sample_of((60, 60)), labels=False) == []
    empty = Segments(torch.zeros(1, 60, 60, dtype=torch.bool), torch.tensor([0]))
    assert texts(Sample(torch.zeros(3, 60, 60), empty)) == []  # an empty mask has no place


def test_a_label_stands_inside_its_mask():
    sample = sample_of((30, 50))
    for text, mask in zip(
        draw_segments(None, sample.segments, KINDS).texts, sample.segments.masks, strict=False
    ):
        x, y = text.get_position()
        assert mask[int(y), int(x)]


def test_a_panoptic_picture_has_hues_for_classes_shades_for_instances_and_black_for_void():
    sample = sample_of((30, 50), crowd=False)
    canvas = canvas_of(draw_panoptic(sample.segments, KINDS))
    inner = [canvas[2, 2], canvas[19, 29], canvas[25, 5]]
    assert np.allclose(inner[0] * 255, KINDS[0].color)
    assert np.allclose(inner[2] * 255, KINDS[1].color)
    assert not np.allclose(inner[1], inner[0])
    assert not canvas[:, -3:].any()


def test_given_colours_are_used_and_left_as_they_are():
    colors = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])
    before = colors.copy()
    sample = sample_of((30, 50), crowd=False)
    ax = draw_segments(None, sample.segments, KINDS, fill=1, outline=False, colors=colors)
    assert np.array_equal(canvas_of(ax)[2, 2], [1, 0, 0])
    assert np.array_equal(colors, before)


def test_pictures_are_drawn_into_the_axes_that_are_given():
    sample = sample_of((30, 50))
    figure, axes = plt.subplots(1, 4)
    assert draw_image(sample.image, ax=axes[0]) is axes[0]
    assert draw_segments(sample.image, sample.segments, KINDS, ax=axes[1]) is axes[1]
    assert draw_panoptic(sample.segments, KINDS, title="all", ax=axes[2]) is axes[2]
    assert draw_curves({"a": ([0], [1])}, xlabel="x", ylabel="y", ax=axes[3]) is axes[3]
    assert plt.get_fignums() == [figure.number]
    assert axes[2].get_title(loc="left") == "all"


def test_an_image_on_a_graph_or_out_of_range_is_drawn_without_a_change():
    image = (torch.rand(3, 30, 50) * 3 - 1).requires_grad_()
    before = image.detach().clone()
    canvas = canvas_of(draw_image(image))
    assert canvas.min() == 0 and canvas.max() == 1
    assert image.detach().equal(before)


# ---------------------------------------------------------------- what is drawn beside


def test_a_grid_has_a_picture_for_each_sample():
    samples = [sample_of((30, 50))] * 5
    figure = draw_grid(samples, KINDS, columns=3, labels=False)
    assert [len(ax.images) for ax in figure.axes] == [1, 1, 1, 1, 1, 0]
    assert len(draw_grid(samples[:1], KINDS, columns=3).axes) == 1


def test_answers_stand_side_by_side_under_their_names():
    sample = sample_of((30, 50))
    answers = {"image": None, "ours": sample.segments, "theirs": empty_segments((30, 50))}
    figure = side_by_side(sample.image, answers, KINDS)
    assert [ax.get_title(loc="left") for ax in figure.axes] == list(answers)


def test_curves_are_told_apart_by_colour_and_by_dash():
    curves = {name: ([0, 1], [0, k]) for k, name in enumerate("abcd")}
    before = copy.deepcopy(curves)
    ax = draw_curves(curves, xlabel="recall", ylabel="precision", title="four")
    assert len({(line.get_color(), line.get_linestyle()) for line in ax.lines}) == 4
    assert len({line.get_color() for line in ax.lines}) == 4
    assert len({line.get_linestyle() for line in ax.lines}) == 4
    assert [text.get_text() for text in ax.get_legend().texts] == list("abcd")
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("recall", "precision")
    assert curves == before


def test_one_curve_needs_no_legend_and_none_is_no_error():
    assert draw_curves({"a": ([0], [1])}, xlabel="x", ylabel="y").get_legend() is None
    assert draw_curves({}, xlabel="x", ylabel="y").get_legend() is None


def test_a_legend_has_every_class_in_its_colour():
    ax = draw_image(torch.zeros(3, 30, 50))
    draw_legend(KINDS, ax)
    legend = ax.get_legend()
    assert [text.get_text() for text in legend.texts] == ["sheep", "meadow"]
    colors = [np.array(patch.get_facecolor()[:3]) * 255 for patch in legend.get_patches()]
    assert np.allclose(colors, [category.color for category in KINDS])


def test_a_box_is_drawn_at_its_corners():
    ax = draw_image(torch.zeros(3, 30, 50))
    box = torch.tensor([3.0, 4.0, 13.0, 9.0])
    draw_box(ax, box, color="red", label="sheep", dashed=True)
    draw_box(ax, box.tolist())
    for patch in ax.patches:
        assert (patch.get_xy(), patch.get_width(), patch.get_height()) == ((3, 4), 10, 5)
        assert not patch.get_fill()
    assert [patch.get_linestyle() for patch in ax.patches] == ["--", "-"]
    assert [text.get_text() for text in ax.texts] == ["sheep"]


# ---------------------------------------------------------------- captions


@pytest.fixture
def published(monkeypatch):
    """What is published to a notebook: the arguments of each call of display."""
    calls = []
    monkeypatch.setattr(draw, "display", lambda *args, **options: calls.append((args, options)))
    return calls


def test_only_the_picture_is_published_with_its_caption_as_alternative_text(published):
    caption = "Two sheep,\n    one of them a crowd."
    sample = sample_of((30, 50))
    shown = captioned(draw_segments(sample.image, sample.segments, KINDS).figure, caption)
    assert shown.caption == "Two sheep, one of them a crowd."
    assert shown._ipython_display_() is None
    (((data,), options),) = published
    assert list(data) == ["image/png"]
    assert options == {"metadata": options["metadata"], "raw": True}
    assert list(options["metadata"]) == ["image/png"]
    picture = Image.open(io.BytesIO(base64.b64decode(data["image/png"])))
    assert options["metadata"]["image/png"] == {
        "alt": shown.caption,
        "width": picture.width * 90 // 160,
    }
    assert picture.info["dpi"] == pytest.approx((160, 160), abs=0.1)
    assert plt.get_fignums() == []


def test_the_caption_stands_below_the_picture_and_stays_when_it_is_drawn_again(published):
    sample = sample_of((30, 50))
    figure = draw_segments(sample.image, sample.segments, KINDS).figure
    short, long = captioned(figure, ""), captioned(figure, "A long caption. " * 20)
    first = long.png()
    assert long.png() == first
    bare, described = (Image.open(io.BytesIO(png)) for png in (short.png(), first))
    assert described.height > bare.height + 40  # lines of 9 points at 180 dots per inch
    assert abs(described.width - bare.width) < 0.1 * bare.width  # it is wrapped
    assert figure.texts == []
    long._ipython_display_()
    long._ipython_display_()
    assert published[0] == published[1]
    assert published[0][0][0]["image/png"] == base64.b64encode(first).decode()


def test_every_kind_of_figure_is_the_same_when_it_is_drawn_again(monkeypatch):
    monkeypatch.setattr(draw, "DOTS_PER_INCH", (60,))
    sample = sample_of((30, 50))
    curves = {"a": ([0, 1], [1, 0]), "b": ([0, 1], [0, 1])}
    legend = draw_image(sample.image)
    draw_legend(KINDS, legend)
    for figure in (
        draw_curves(curves, xlabel="x", ylabel="y", title="two").figure,
        draw_grid([sample] * 3, KINDS, columns=2),
        side_by_side(sample.image, {"a": None, "b": sample.segments}, KINDS),
        legend.figure,
    ):
        shown = captioned(figure, "A caption.")
        assert shown.png() == shown.png()


def test_a_failed_drawing_leaves_no_caption_behind(monkeypatch):
    shown = captioned(draw_image(torch.zeros(3, 30, 50)).figure, "A caption.")

    def full(*_, **__):
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Figure, "savefig", full)
        with pytest.raises(OSError, match="No space"):
            shown.png()
    assert shown.figure.texts == []


# ---------------------------------------------------------------- small pictures


def stored(figure):
    picture = Image.open(io.BytesIO(captioned(figure, "A caption.").png()))
    return np.asarray(picture.convert("RGB")).astype(int)


def as_drawn(figure, monkeypatch):
    monkeypatch.setattr(draw, "STEPS", (1, 1))
    try:
        return stored(figure)
    finally:
        monkeypatch.undo()


def test_a_stored_picture_is_off_by_what_nobody_sees(scenes, monkeypatch):
    figure = draw.draw_grid([scenes[0], scenes[1]], scenes.categories)
    small, whole = stored(figure), as_drawn(figure, monkeypatch)
    assert np.abs(small - whole).max() == draw.STEPS[0] // 2
    assert np.abs((small - whole).mean(axis=(0, 1))).max() < 0.5  # neither darker nor lighter


def test_colours_that_cover_an_area_stay_exact(monkeypatch):
    """Of a panoptic answer, a plot and a legend no colour changes, odd ones included."""
    figure, axes = plt.subplots(1, 2)
    answer = np.full((60, 60, 3), (101, 73, 211), dtype=np.uint8)
    answer[:20] = 29, 199, 88
    axes[0].imshow(answer)
    axes[1].fill_between([0, 1], [1, 1], color=np.array((13, 131, 241)) / 255)
    small = stored(figure)
    for color in ((101, 73, 211), (29, 199, 88), (13, 131, 241), (255, 255, 255)):
        assert (small == color).all(axis=2).mean() > 0.01, color


def test_a_photograph_takes_a_quarter_less(scenes, monkeypatch):
    figure = draw.draw_grid([scenes[k] for k in range(4)], scenes.categories)
    caption = captioned(figure, "A caption.")
    small = len(caption.png())
    monkeypatch.setattr(draw, "LARGE", 10**9)
    whole_size = len(caption.png())
    monkeypatch.setattr(draw, "STEPS", (1, 1))
    assert whole_size < 0.75 * len(caption.png())
    assert small < 0.85 * whole_size  # and fewer pixels, as it is a large one


def test_a_large_picture_is_shown_as_wide_as_it_would_be(scenes, published, monkeypatch):
    figure = draw.draw_grid([scenes[k] for k in range(8)], scenes.categories)
    captioned(figure, "A caption.")._ipython_display_()
    monkeypatch.setattr(draw, "LARGE", 10**9)
    captioned(figure, "A caption.")._ipython_display_()
    small, large = (options["metadata"]["image/png"]["width"] for _, options in published)
    assert abs(small - large) <= 2
    sizes = [len(data["image/png"]) for (data,), _ in published]
    assert sizes[0] < 0.85 * sizes[1]
