"""Boxes over pictures, for the lessons that have many of them.

Boxes are x0, y0, x1, y1 in pixels, counted from the image's corner; pictures have the centre of
the first pixel at 0.
"""

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from scipy import ndimage
from torch import Tensor

from lessons.kit.draw import INK, draw_image

FINE = 2  # cells of a density for each pixel of the image


def outline(
    ax: Axes, boxes: Float[Tensor, "n 4"], color: str = INK, width: float = 1.8, style: str = "-"
) -> None:
    """Boxes over a picture."""
    for x0, y0, x1, y1 in (boxes - 0.5).tolist():
        side = plt.Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False)
        ax.add_patch(side).set(edgecolor=color, lw=width, ls=style)


def density(
    image: Float[Tensor, "3 h w"],
    boxes: Float[Tensor, "n 4"],
    ax: Axes,
    title: str = "",
    full: float = 6,
) -> None:
    """Where the sides of many boxes run, over a pale image: `full` of them at a place are darkest.

    One box is hardly seen, near duplicates are a dark band.
    """
    grey = image.mean(0, keepdim=True).expand(3, -1, -1)
    draw_image(0.7 + 0.3 * grey, ax=ax, title=title)
    h, w = image.shape[1:]
    sides = np.zeros((h * FINE, w * FINE))
    for x0, y0, x1, y1 in (boxes * FINE).round().long().tolist():
        left, top = max(x0, 0), max(y0, 0)
        right, bottom = min(x1, w * FINE), min(y1, h * FINE)
        frame = np.zeros((max(bottom - top, 0), max(right - left, 0)))
        frame[:FINE], frame[-FINE:], frame[:, :FINE], frame[:, -FINE:] = 1, 1, 1, 1
        sides[top:bottom, left:right] += frame
    share = np.minimum(ndimage.gaussian_filter(sides, 0.6 * FINE) / full, 1)
    shown = mpl.colormaps["inferno_r"](0.15 + 0.7 * share)
    shown[..., 3] = np.minimum(1.6 * share, 0.95)
    ax.imshow(shown, extent=(-0.5, w - 0.5, h - 0.5, -0.5), interpolation="antialiased")
