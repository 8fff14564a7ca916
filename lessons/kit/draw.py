"""Pictures of samples, segments and curves, in colours that colour-blind readers can tell apart.

Each `draw_…` function makes one picture: into `ax` where it is given, else into a figure of
its own. `captioned(figure, caption)` as a cell's last line shows a figure with its caption.
Importing this module sets matplotlib's look for the course.
"""

import base64
import io
import textwrap
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import display
from jaxtyping import UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox
from PIL import Image
from scipy import ndimage
from torch import Tensor

from lessons.kit.data import Category, Sample, Segments, is_crowd

# The palette of Okabe and Ito (2008), its hues ordered so that neighbours differ most.
PALETTE = ("#D55E00", "#56B4E9", "#F0E442", "#CC79A7", "#0072B2", "#E69F00", "#009E73")
INK, PALE = "#222222", "#8A8A8A"
LINE_STYLES = ("-", "--", "-.", ":")
SHOWN = 90  # dots per inch of a picture as it is shown …
DOTS_PER_INCH = 110, 160  # … and as it is stored, sharp on any screen …
STEPS = 8, 6  # … with channels that are multiples of it, which nobody sees in a photograph
MARGIN = 0.08  # inches around a picture
LARGE = 60_000  # the second of both where the first takes no more bytes than this
SMALLEST = 6.5  # points of the letters on a thing: smaller ones are a smear
FLAT = 1e-3  # a colour that covers this share of a picture means something and stays exact
OWED: set[str] = set()
"""Functions that are the reference's as yet, in a student's notebook: captions name them."""

mpl.rcParams.update(
    {
        "font.size": 10,
        "axes.titlesize": 10.5,
        "axes.titlelocation": "left",
        "axes.labelcolor": INK,
        "axes.edgecolor": PALE,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.prop_cycle": mpl.cycler(
            color=("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")
        ),
        "grid.color": "#E6E6E6",
        "xtick.color": INK,
        "ytick.color": INK,
        "lines.linewidth": 2,
        "legend.frameon": False,
        "figure.facecolor": "white",
    }
)


class captioned:  # noqa: N801 - reads as the verb it is at the end of a cell
    """A figure and its caption: shown under the picture and stored as its alternative text.

    Only the picture is published, without a text beside it: a widget may draw it again and
    again, and re-running a notebook compares no picture. With so many `colours` at most, 256 or
    fewer, a picture full of photographs takes half the room.
    """

    def __init__(self, figure: Figure, caption: str, colours: int | None = None):
        self.colours = colours
        whose = f" Not yours yet: {', '.join(sorted(OWED))} (reference)." if OWED else ""
        self.figure, self.caption = figure, " ".join(caption.split()) + whose
        plt.close(figure)

    def png(self) -> bytes:
        """The picture with the caption below it, as a PNG that is small to store."""
        with self._caption_below():
            for self.dots, step in zip(DOTS_PER_INCH, STEPS, strict=False):
                picture = self._drawn(step)
                if len(picture) > LARGE:
                    break
        return picture

    def quick_png(self) -> bytes:
        """The same picture, drawn once and packed in a hurry: for a widget, not to be stored."""
        self.dots, drawn = DOTS_PER_INCH[0], io.BytesIO()
        with self._caption_below() as box:
            self.figure.savefig(
                drawn, dpi=self.dots, bbox_inches=box, pil_kwargs={"compress_level": 1}
            )
        return drawn.getvalue()

    def bundle(self, quick: bool = False) -> tuple[dict[str, str], dict[str, dict]]:
        """The picture as Jupyter takes it: its data, and as metadata its width and caption."""
        png = self.quick_png() if quick else self.png()
        width = int.from_bytes(png[16:20], "big") * SHOWN // self.dots
        data = {"image/png": base64.b64encode(png).decode()}
        return data, {"image/png": {"alt": self.caption, "width": width}}

    @contextmanager
    def _caption_below(self) -> Iterator[Bbox]:
        """The caption in the figure for a while; the box of both, in inches, with a margin."""
        box = self.figure.get_tightbbox()  # what is drawn, in inches
        width, height = self.figure.get_size_inches()
        lines = textwrap.fill(self.caption, max(40, int(box.width * 14.5)))
        x, y = box.x0 / width, (box.y0 - 0.1) / height
        text = self.figure.text(x, y, lines, va="top", color="#555555", fontsize=9)
        try:
            inches = self.figure.dpi_scale_trans.inverted()
            below = text.get_window_extent().transformed(inches)
            yield Bbox.union([box, below]).padded(MARGIN)
        finally:
            text.remove()

    def _drawn(self, step: int) -> bytes:
        """The picture at so many `dots` an inch, its channels in steps."""
        drawn = io.BytesIO()
        options = {"bbox_inches": "tight", "pad_inches": MARGIN}
        self.figure.savefig(drawn, dpi=self.dots, pil_kwargs={"compress_level": 0}, **options)
        with Image.open(drawn) as picture:
            if self.colours:
                return _in_few_colours(picture.convert("RGB"), self.colours, self.dots)
            pixels = _coarse(np.asarray(picture.convert("RGB")), step)
        # The one is small for photographs, the other for plots; both take milliseconds.
        ways = zlib.Z_RLE, zlib.Z_DEFAULT_STRATEGY
        return min((_encoded(pixels, way, self.dots) for way in ways), key=len)

    def _ipython_display_(self):
        data, metadata = self.bundle()
        display(data, metadata=metadata, raw=True)


def _encoded(pixels: UInt8[np.ndarray, "h w 3"], way: int, dots: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG", compress_type=way, dpi=(dots, dots))
    return stream.getvalue()


def _in_few_colours(picture: Image.Image, colours: int, dots: int) -> bytes:
    few = picture.quantize(colours, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    palette, margin = few.getpalette(), 3 * few.getpixel((0, 0))
    palette[margin : margin + 3] = picture.getpixel((0, 0))  # as white as it was
    few.putpalette(palette)
    stream = io.BytesIO()
    few.save(stream, format="PNG", optimize=True, dpi=(dots, dots))
    return stream.getvalue()


def _coarse(pixels: UInt8[np.ndarray, "h w 3"], step: int) -> UInt8[np.ndarray, "h w 3"]:
    """The picture with channels in steps; flat colours stay."""
    red, green, blue = np.moveaxis(pixels.astype(np.int32), -1, 0)
    colours = (red << 16) | (green << 8) | blue
    sample = colours.ravel()[::7]
    values, counts = np.unique(sample, return_counts=True)
    flat = np.zeros(1 << 24, dtype=bool)
    flat[values[counts >= FLAT * len(sample)]] = True
    steps = np.minimum((np.arange(256) + step // 2) // step * step, 255).astype(np.uint8)
    return np.where(flat[colours][..., None], pixels, steps[pixels])


def instance_colors(count: int) -> np.ndarray:
    """`count` RGB colours in [0, 1] for instances: the palette, then paler and darker rounds."""
    palette = np.array([mpl.colors.to_rgb(color) for color in PALETTE])
    rounds = (palette, 0.55 * palette + 0.45, 0.62 * palette)
    return np.concatenate(rounds)[np.arange(count) % (3 * len(PALETTE))]


def segment_colors(segments: Segments, categories: Sequence[Category]) -> np.ndarray:
    """An RGB colour in [0, 1] for each segment: the class's for stuff, its own for a thing."""
    colors = np.array([categories[label].color for label in segments.labels]).reshape(-1, 3) / 255
    thing = np.array([categories[label].is_thing for label in segments.labels], dtype=bool)
    colors[thing] = instance_colors(int(thing.sum()))
    return colors


def draw_image(image: Tensor, *, title: str | None = None, ax: Axes | None = None) -> Axes:
    """An image, RGB in [0, 1] of shape (3, h, w)."""
    ax = _picture_axes(ax, title)
    ax.imshow(_pixels(image), interpolation="nearest")
    return ax


def draw_segments(
    image: Tensor | None,
    segments: Segments,
    categories: Sequence[Category],
    *,
    fill: float = 0.5,
    outline: bool = True,
    labels: bool = True,
    colors: np.ndarray | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Segments over their image (over black where there is none).

    `fill` is the opacity, `labels` writes the class of each thing, with its score where it
    has one. Crowds are hatched. `colors`, RGB in [0, 1], replace `segment_colors`.
    """
    h, w = segments.size
    scale = max(1, round(512 / max(h, w)))  # outlines are thinner than the image's own pixels
    base = np.zeros((h, w, 3)) if image is None else _pixels(image)
    canvas = base.repeat(scale, 0).repeat(scale, 1)
    colors = segment_colors(segments, categories) if colors is None else colors
    crowd = is_crowd(segments).cpu().numpy()
    hatch = np.add.outer(np.arange(h * scale), np.arange(w * scale)) // (2 * scale) % 2 == 0
    masks = segments.masks.cpu().numpy()
    for mask, color, is_group in zip(masks, colors, crowd, strict=True):
        large = mask.repeat(scale, 0).repeat(scale, 1)
        filled = large & hatch if is_group else large
        canvas[filled] = (1 - fill) * canvas[filled] + fill * color
        if outline:
            canvas[large & ~ndimage.binary_erosion(large, iterations=2)] = 0.15 + 0.85 * color
    ax = _picture_axes(ax, title)
    # The corner of the first pixel is 0, 0: boxes and points are drawn in pixels of the image.
    ax.imshow(canvas, extent=(0, w, h, 0), interpolation="antialiased")
    if labels:
        _write_labels(ax, segments, categories)
    return ax


def draw_panoptic(
    segments: Segments,
    categories: Sequence[Category],
    *,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Only the answer, without the image: classes by hue, instances by shade, void black."""
    colors = np.array([categories[label].color for label in segments.labels]).reshape(-1, 3) / 255
    seen: dict[int, int] = {}
    for k, label in enumerate(segments.labels.tolist()):
        turn = seen[label] = seen.get(label, -1) + 1
        shade = (0.0, 0.35, -0.3, 0.55, -0.15)[turn % 5] if categories[label].is_thing else 0.0
        colors[k] = colors[k] + shade * ((1 - colors[k]) if shade > 0 else colors[k])
    return draw_segments(
        None, segments, categories, fill=1, labels=False, colors=colors, title=title, ax=ax
    )


def draw_legend(categories: Sequence[Category], ax: Axes) -> None:
    """The classes and their colours, right of a picture."""
    handles = [
        mpl.patches.Patch(color=np.array(category.color) / 255, label=category.name)
        for category in categories
    ]
    ax.legend(handles=handles, loc="center left", bbox_to_anchor=(1.0, 0.5), handlelength=1)


def draw_grid(
    samples: Sequence[Sample], categories: Sequence[Category], *, columns: int = 4, **options
) -> Figure:
    """Samples in rows, each image with its segments; `options` go to `draw_segments`."""
    columns = min(columns, len(samples))
    rows = -(-len(samples) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(9, 9 / columns * rows), squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    for ax, sample in zip(axes.flat, samples, strict=False):
        draw_segments(sample.image, sample.segments, categories, ax=ax, **options)
    figure.subplots_adjust(left=0, right=1, bottom=0, top=1, wspace=0.03, hspace=0.03)
    return figure


def side_by_side(
    image: Tensor,
    answers: Mapping[str, Segments | None],
    categories: Sequence[Category],
    **options,
) -> Figure:
    """One image under several answers, titled by their names; None shows the image alone."""
    figure, axes = plt.subplots(1, len(answers), figsize=(9, 9 / len(answers) + 0.3), squeeze=False)
    for ax, (name, segments) in zip(axes.flat, answers.items(), strict=True):
        if segments is None:
            draw_image(image, title=name, ax=ax)
        else:
            draw_segments(image, segments, categories, title=name, ax=ax, **options)
    figure.tight_layout(w_pad=0.5)
    return figure


def draw_curves(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    xlabel: str,
    ylabel: str,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Named curves (x, y), told apart by colour and by dash."""
    ax = ax or plt.subplots(figsize=(6, 3.6))[1]
    for k, (name, (x, y)) in enumerate(curves.items()):
        ax.plot(x, y, LINE_STYLES[k % len(LINE_STYLES)], label=name)
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title or "")
    if len(curves) > 1:
        ax.legend()
    return ax


def draw_box(
    ax: Axes, box: Sequence[float] | Tensor, color: str = INK, label: str = "", dashed: bool = False
) -> None:
    """A box x0, y0, x1, y1 in pixels, over a picture."""
    x0, y0, x1, y1 = (float(side) for side in box)
    style = "--" if dashed else "-"
    ax.add_patch(
        plt.Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, color=color, lw=1.8, ls=style)
    )
    if label:
        _write(ax, x0 + 1, y0 + 1, label, ha="left", va="top")


def _picture_axes(ax: Axes | None, title: str | None) -> Axes:
    ax = ax or plt.subplots(figsize=(4.5, 4.5))[1]
    ax.axis("off")
    ax.set_title(title or "")
    return ax


def _pixels(image: Tensor) -> np.ndarray:
    return image.detach().cpu().permute(1, 2, 0).clamp(0, 1).numpy()


def _write_labels(ax: Axes, segments: Segments, categories: Sequence[Category]) -> None:
    """The class of each thing, and its score; of thin ones with a score only that.

    Where labels would lie over one another, the thing with more room keeps its own.
    """
    h, w = segments.size
    inch = ax.get_window_extent().width / ax.figure.dpi / max(h, w)  # of a pixel
    crowd = is_crowd(segments).tolist()
    labels = []
    for k, (mask, label) in enumerate(zip(segments.masks.cpu(), segments.labels, strict=True)):
        if not categories[label].is_thing or not mask.any():
            continue
        x, y, depth = _inner_point(mask.numpy())
        points = 72 * inch * depth  # how large a letter would fit
        text = categories[label].name + (" (crowd)" if crowd[k] else "")
        if segments.scores is not None:
            score = f"{segments.scores[k]:.2f}".replace("0.", ".")
            text = score if points < 6 else f"{text} {score}"
        side = "left" if x < 0.1 * w else "right" if x > 0.9 * w else "center"
        x = {"left": 1, "right": w - 1, "center": x}[side]
        labels.append((x, y, text, side, min(max(points, SMALLEST), 8)))
    for x, y, text, side, size in _with_room(labels, 1 / (72 * inch)):
        _write(ax, x, y, text, size=size, ha=side)


def _with_room(labels: Sequence[tuple], pixels: float) -> list[tuple]:
    """The labels (x, y, text, side, size) that lie over no larger one, in their order.

    `pixels` are those of a point, the unit of `size`.
    """
    kept: dict[int, tuple] = {}
    for k in sorted(range(len(labels)), key=lambda k: -labels[k][-1]):
        x, y, text, side, size = labels[k]
        high = pixels * size
        wide = 0.6 * high * len(text)  # of a letter, in this font
        x0 = x - {"left": 0, "center": wide / 2, "right": wide}[side]
        box = x0, y - 0.6 * high, x0 + wide, y + 0.6 * high
        if all(b[0] >= box[2] or box[0] >= b[2] or b[1] >= box[3] or box[1] >= b[3]
               for b in kept.values()):  # fmt: skip
            kept[k] = box
    return [labels[k] for k in sorted(kept)]


def _inner_point(mask: np.ndarray) -> tuple[float, float, float]:
    """The point of a mask that is farthest from its border: x, y and how far, in pixels."""
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    row, column = np.unravel_index(depth.argmax(), depth.shape)
    return column + 0.5, row + 0.5, float(depth.max())


def _write(ax: Axes, x: float, y: float, text: str, size: float = 7.5, **alignment: str) -> None:
    alignment = {"ha": "center", "va": "center"} | alignment
    stroke = [withStroke(linewidth=1.8, foreground=INK)]
    ax.text(x, y, text, color="white", size=size, path_effects=stroke, clip_on=True, **alignment)
