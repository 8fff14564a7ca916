"""The whole detector as one diagram, for the lessons that build it part by part: 03, 04, 05, 10."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

from lessons.kit.draw import INK, PALE, captioned

LIT, DIM = "#FFE08A", "#F4F4F4"
# Part: x and y of its middle, width and height, its name, what it hands on.
PARTS = {
    "backbone": (2.35, 2.0, 1.3, 1.1, "backbone", "feature maps"),
    "pyramid": (4.35, 2.0, 1.3, 1.1, "pyramid", "maps of one width"),
    "proposals": (6.55, 3.1, 1.5, 1.0, "region\nproposals", "boxes"),
    "rois": (8.55, 2.0, 1.3, 1.1, "RoIAlign", "features of each box"),
    "boxes": (10.75, 2.6, 1.5, 0.8, "box head", "class, box"),
    "masks": (10.75, 1.3, 1.5, 0.8, "mask head", "mask"),
}
SEMANTIC = {
    "semantic": (6.55, -0.1, 1.5, 1.0, "semantic\nhead", "class of each pixel"),
    "merge": (12.75, 0.6, 1.2, 1.0, "merge", "panoptic answer"),
}
ARROWS = (
    ("image", "backbone"),
    ("backbone", "pyramid"),
    ("pyramid", "proposals"),
    ("pyramid", "rois"),
    ("proposals", "rois"),
    ("rois", "boxes"),
    ("rois", "masks"),
)
MORE_ARROWS = (
    ("pyramid", "semantic"),
    ("boxes", "merge"),
    ("masks", "merge"),
    ("semantic", "merge"),
)
GROUPS = {"heads": ("boxes", "masks")}


def detector(lit: str | Sequence[str] = (), semantic: bool = False) -> captioned:
    """Mask R-CNN from image to masks, the parts of today lit.

    `lit` are names of `PARTS`, "heads" for both heads. With `semantic` it is Panoptic FPN, with
    the parts of `SEMANTIC`, too. Raises ValueError for a part that is not there.
    """
    parts = PARTS | SEMANTIC if semantic else PARTS
    named = [lit] if isinstance(lit, str) else list(lit)
    shown = {part for name in named for part in GROUPS.get(name, (name,))}
    if not shown <= parts.keys():
        raise ValueError(f"the parts are {', '.join([*parts, *GROUPS])}, not {', '.join(named)}")
    low, right = (-0.9, 14.0) if semantic else (0.6, 12.2)
    figure, ax = plt.subplots(figsize=(9, 9 * (4.0 - low) / right))
    _image(ax)
    for name, (x, y, width, height, title, _) in parts.items():
        _part(ax, x, y, width, height, title, name in shown)
    places = {"image": (0.55, 2.0, 1.0, 1.0)} | {name: part[:4] for name, part in parts.items()}
    for start, end in ARROWS + MORE_ARROWS * semantic:
        _arrow(ax, places[start], places[end])
    for name, (x, y, _, height, _, hands_on) in parts.items():
        if name == "pyramid":  # below it an arrow may pass
            ax.text(x, y + height / 2 + 0.1, hands_on, ha="center", size=7.5, color="#555555")
            continue
        ax.text(
            x, y - height / 2 - 0.12, hands_on, ha="center", va="top", size=7.5, color="#555555"
        )
    ax.set(xlim=(0, right), ylim=(low, 3.8), aspect="equal")
    ax.axis("off")
    today = ", ".join(parts[name][4].replace("\n", " ") for name in parts if name in shown)
    system = "Panoptic FPN" if semantic else "Mask R-CNN"
    return captioned(
        figure,
        f"{system}, from the image to its answer. Below each part: what it hands on."
        + (f" Lit: {today}." if today else ""),
    )


def _image(ax: Axes) -> None:
    """A small meadow for the image."""
    for low, high, color in ((2.0, 2.5, "#BBD7EA"), (1.5, 2.0, "#A9C47F")):
        ax.add_patch(plt.Rectangle((0.05, low), 1.0, high - low, color=color, lw=0))
    for x, y in ((0.35, 1.85), (0.65, 1.72)):
        ax.plot(x, y, "o", color="white", mec=INK, mew=0.8, ms=8)
    ax.text(0.55, 1.38, "image", ha="center", va="top", size=7.5, color="#555555")


def _part(ax: Axes, x: float, y: float, width: float, height: float, title: str, lit: bool) -> None:
    corner = x - width / 2, y - height / 2
    box = FancyBboxPatch(corner, width, height, boxstyle="round,pad=0,rounding_size=0.12")
    ax.add_patch(box).set(fc=LIT if lit else DIM, ec=INK if lit else PALE, lw=2 if lit else 1)
    ax.text(x, y, title, ha="center", va="center", size=9, weight="bold" if lit else "normal",
            color=INK if lit else "#666666")  # fmt: skip


def _arrow(ax: Axes, start: Sequence[float], end: Sequence[float]) -> None:
    """From the right side of a part to the left side of another."""
    tail, head = (start[0] + start[2] / 2, start[1]), (end[0] - end[2] / 2, end[1])
    style = {"arrowstyle": "-|>", "color": "#777777", "lw": 1.2, "shrinkA": 1, "shrinkB": 1}
    ax.annotate("", head, tail, arrowprops=style)
