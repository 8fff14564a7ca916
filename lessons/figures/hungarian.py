"""The pictures of lesson 11, Hungarian matching.

Costs have a row for each prediction and a column for each true segment; pairs are (row, column).
"""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import matplotlib.pyplot as plt
import numpy as np
import torch
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patheffects import withStroke
from torch import Tensor

from lessons.kit.data import Segments, boxes
from lessons.kit.draw import INK, PALE, PALETTE, captioned, draw_segments

HALO = [withStroke(linewidth=2, foreground="white")]
MATCH, PATH, TIGHT = PALETTE[4], PALETTE[0], PALETTE[2]
LETTERS, DIGITS = "abcde", "123456789"
Image, Masks = Float[Tensor, "3 h w"], Bool[Tensor, "n h w"]
Pairs = Sequence[tuple[int, int]]


@runtime_checkable
class State(Protocol):
    """After one step of the search for a column: the notebook says what each part is."""

    u: list[int]
    v: list[int]
    row_of: dict[int, int]
    rows: list[int]
    reached: dict[int, int]
    after: dict[int, int]


# ---------------------------------------------------------------- masks and their costs


def puzzle(image: Image, sheep: Masks, predicted: Masks, cost: Sequence) -> captioned:
    """The true sheep, the costs, and below them each prediction alone over the same flock."""
    layout = ["a" * 9 + "." + "b" * 10, "11112222333344445555"]
    figure, axes = plt.subplot_mosaic(
        [[*row] for row in layout], figsize=(8.6, 4.9), height_ratios=(5, 3)
    )
    view = window([sheep, predicted])
    flock(axes["a"], image, sheep, LETTERS, view)
    axes["a"].set_title("the true sheep")
    costs(axes["b"], cost)
    axes["b"].set_title("1 − IoU of each pair")
    for name, mask in zip("12345", predicted, strict=True):
        one_prediction(axes[name], image, sheep, mask, view)
        axes[name].set_title(f"prediction {name}")
    figure.tight_layout(w_pad=0.4)
    return captioned(
        figure,
        "Five sheep of a flock, five coarse predictions (black, over the outlines of the sheep), "
        "and how badly each prediction (row) fits each sheep (column): 0 would be perfect, 1 does "
        "not touch. Which prediction is to answer for which sheep?",
    )


def window(masks: Sequence[Masks]) -> tuple[float, float, float, float]:
    """Left, right, bottom and top of what shows all masks."""
    everything = torch.cat(list(masks))
    corners = boxes(Segments(everything, torch.zeros(len(everything), dtype=torch.int64)))
    (x0, y0), (x1, y1) = corners[:, :2].amin(0) - 3, corners[:, 2:].amax(0) + 3
    h, w = everything.shape[1:]
    return max(float(x0), 0), min(float(x1), w), min(float(y1), h), max(float(y0), 0)


def flock(ax: Axes, image: Image, masks: Masks, names: str, view: tuple) -> None:
    """Masks in colours, each with its name."""
    one = Segments(masks, torch.zeros(len(masks), dtype=torch.int64))
    rgb = np.array([to_rgb(color) for color in PALETTE[: len(masks)]])
    draw_segments(image, one, (), labels=False, colors=rgb, ax=ax)
    for mask, name in zip(masks, names, strict=False):
        y, x = mask.nonzero().float().mean(0).tolist()
        ax.text(x, y, name, ha="center", va="center", weight="bold", path_effects=HALO)
    ax.set(xlim=view[:2], ylim=view[2:])


def one_prediction(
    ax: Axes, image: Image, sheep: Masks, mask: Bool[Tensor, "h w"], view: tuple
) -> None:
    """A prediction in black over the pale image, and the sheep's outlines in their colours."""
    one = Segments(mask[None], torch.zeros(1, dtype=torch.int64))
    pale = 0.25 * image.mean(0, keepdim=True).expand(3, -1, -1) + 0.75
    options = {"colors": np.zeros((1, 3)), "fill": 0.75, "outline": False, "labels": False}
    draw_segments(pale, one, (), ax=ax, **options)
    at = np.arange(sheep.shape[2]) + 0.5, np.arange(sheep.shape[1]) + 0.5
    for k, each in enumerate(sheep):
        padded = np.pad(each.numpy().astype(float), 1)  # or an outline would end at the edge
        grid = [np.pad(x, 1, mode="linear_ramp", end_values=(x[0] - 1, x[-1] + 1)) for x in at]
        ax.contour(*grid, padded, [0.5], colors=INK, linewidths=2.2)
        ax.contour(*grid, padded, [0.5], colors=PALETTE[k], linewidths=1.3)
    ax.set(xlim=view[:2], ylim=view[2:])


def costs(ax: Axes, cost: Sequence, rows=DIGITS, columns=LETTERS, pairs: Pairs = ()) -> None:
    """A matrix of costs with its numbers; the given pairs are framed."""
    cost = np.asarray(cost)
    ax.imshow(cost, cmap="Greys", vmin=0, vmax=2.2 * cost.max())
    for (i, j), value in np.ndenumerate(cost):
        text = f"{value:.2f}".removeprefix("0")
        ax.text(j, i, text, ha="center", va="center", size=9)
    for i, j in pairs:
        ax.add_patch(plt.Rectangle((j - 0.46, i - 0.46), 0.92, 0.92, fill=False, ec=MATCH, lw=2.4))
    ax.set_xticks(range(cost.shape[1]), list(columns[: cost.shape[1]]))
    ax.set_yticks(range(cost.shape[0]), list(rows[: cost.shape[0]]))
    ax.tick_params(length=0)
    ax.grid(False)


def two_ways(
    image: Image, two: Masks, moved: Masks, cost: Sequence, ways: Mapping[str, tuple[Pairs, float]]
) -> captioned:
    """Two sheep, two predictions, and the pairs that each way makes, with their total."""
    figure, axes = plt.subplots(1, 5, figsize=(9.2, 2.3), width_ratios=(4, 4, 4, 3, 3))
    view = window([two, moved])
    flock(axes[0], image, two, LETTERS, view)
    axes[0].set_title("the sheep")
    for k, ax in enumerate(axes[1:3]):
        one_prediction(ax, image, two, moved[k], view)
        ax.set_title(f"prediction {DIGITS[k]}")
    for ax, (name, (pairs, total)) in zip(axes[3:], ways.items(), strict=True):
        costs(ax, cost, pairs=pairs)
        ax.set_title(f"{name}: {total:.2f}")
    figure.tight_layout(w_pad=0.6)
    return captioned(
        figure,
        "Prediction 1 touches both sheep and fits a better. Greed gives it a, and for prediction "
        "2 a sheep is left that it does not touch. The best matching gives 1 its second choice.",
    )


def with_no_object(padded: Float[Tensor, "q q"], n: int, pairs: Pairs) -> captioned:
    """Costs of n segments, padded with columns of ∅, and the matching of all queries."""
    figure, ax = plt.subplots(figsize=(5.4, 4))
    names = [*LETTERS[:n], *["∅"] * (len(padded) - n)]
    costs(ax, padded.numpy(), DIGITS, names, pairs)
    ax.set(xlabel="segment", ylabel="query")
    return captioned(
        figure,
        f"{len(padded)} queries, {n} sheep, {len(padded) - n} times ∅ at a cost of 0. Every query "
        "has a partner. Which of the ∅ it is says nothing: they are all alike.",
    )


# ---------------------------------------------------------------- prices


def price_list(c: Sequence, u: Sequence[int], v: Sequence[int], pairs: Pairs = ()) -> captioned:
    """Costs with a price at each side, tight pairs in yellow, the given pairs framed."""
    figure, ax = plt.subplots(figsize=(3.6, 2.4))
    priced(ax, c, u, v, pairs, [str(k) for k in range(len(c))], [str(k) for k in range(len(c[0]))])
    return captioned(
        figure,
        f"Costs, prices at their sides, tight pairs in yellow, a matching framed. Its cost is "
        f"{sum(c[i][j] for i, j in pairs)}, the sum of all prices {sum(u) + sum(v)}.",
    )


def priced(
    ax: Axes,
    c: Sequence,
    u: Sequence[int],
    v: Sequence[int],
    pairs: Pairs,
    rows: Sequence[str],
    columns: Sequence[str],
) -> None:
    """A matrix with prices at its sides; rows without a price as yet are pale."""
    n, m = len(c), len(c[0])
    for (i, j), value in np.ndenumerate(np.asarray(c)):
        tight = i < len(u) and u[i] + v[j] == value
        color = TIGHT if tight else "white"
        ax.add_patch(plt.Rectangle((j - 0.5, i - 0.5), 1, 1, fc=color, ec="#DDDDDD"))
        ax.text(j, i, value, ha="center", va="center", color=INK if i < len(u) else "#BBBBBB")
    for i, j in pairs:
        ax.add_patch(plt.Rectangle((j - 0.44, i - 0.44), 0.88, 0.88, fill=False, ec=MATCH, lw=2.5))
    sides = [f"{rows[i]}   u = {price}".replace("-", "−") for i, price in enumerate(u)]
    ax.set_yticks(range(n), [*sides, *rows[len(u) : n]])
    tops = [f"{columns[j]}\nv = {price}".replace("-", "−") for j, price in enumerate(v)]
    ax.set_xticks(range(m), tops)
    ax.set(xlim=(-0.55, m - 0.45), ylim=(n - 0.45, -0.55))
    ax.tick_params(length=0, labeltop=True, labelbottom=False)
    ax.grid(False)
    ax.spines[:].set_visible(False)


HANDED = [[4, 1, 3], [2, 0, 5], [3, 2, 2]], [3, 0, 3], [0, 0, 0], ((0, 2), (1, 1), (2, 0))
"""Costs, u, v and a matching: for a question of recall."""


def handed() -> captioned:
    """A matching of tight pairs, and a price list that is too high for other pairs."""
    return price_list(*HANDED)


# ---------------------------------------------------------------- the algorithm


def one_step(states: Sequence[State], c: Sequence, number: int) -> captioned:
    """One state: the costs with the prices at their sides, and the pairs as a graph."""
    state = states[number]
    rows, columns = DIGITS[: len(c)], LETTERS[: len(c[0])]
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.5), width_ratios=(5, 4))
    priced(left, c, state.u, state.v, [(i, j) for j, i in state.row_of.items()], rows, columns)
    sides = (left.get_yticklabels(), state.rows), (left.get_xticklabels(), state.reached)
    for labels, tree in sides:
        for k in tree:
            labels[k].set(color=PATH, weight="bold")
    graph(right, state, c, rows, columns)
    figure.suptitle(f"step {number + 1} of {len(states)}: {said(state, rows, columns)}", size=11)
    figure.tight_layout()
    matched = ", ".join(columns[j] for j in sorted(state.row_of)) or "none"
    cost = sum(c[i][j] for j, i in state.row_of.items())
    return captioned(
        figure,
        f"Matched columns: {matched}. They cost {cost}, the prices sum to "
        f"{sum(state.u) + sum(state.v)}. Yellow: tight. Blue: matched. Orange: the tree and its "
        "path, dashed what will be matched, thick what will be given up.",
    )


def said(state: State, rows: str, columns: str) -> str:
    """A step in words."""
    if not state.reached:
        return f"swapped, {len(state.row_of)} matched"
    j, i = list(state.reached.items())[-1]
    if state.after:
        return f"{rows[i]}–{columns[j]} is tight and {columns[j]} is free: a path"
    return f"{rows[i]}–{columns[j]} is tight, row {rows[state.row_of[j]]} joins the tree"


def graph(ax: Axes, state: State, c: Sequence, rows: str, columns: str) -> None:
    """Rows left, columns right: tight pairs thin and dashed, matched ones thick."""
    now, then = ({(i, j) for j, i in each.items()} for each in (state.row_of, state.after))
    changed = now ^ then if then else set()
    tight = [
        (i, j) for i, u in enumerate(state.u) for j, v in enumerate(state.v) if u + v == c[i][j]
    ]
    for i, j in sorted(tight, key=lambda pair: (pair in changed, pair in now)):  # these on top
        color = PATH if (i, j) in changed else MATCH if (i, j) in now else PALE
        style = "-" if (i, j) in now else (0, (4, 2))
        width = 3.5 if (i, j) in now else 2 if (i, j) in changed else 1
        ax.plot([0, 1], [i, j], color=color, ls=style, lw=width)
    nodes = [(0, i, name, i in state.rows) for i, name in enumerate(rows)]
    nodes += [(1, j, name, j in state.reached) for j, name in enumerate(columns)]
    for x, y, name, in_tree in nodes:
        ax.plot(x, y, "o", ms=19, mfc=PATH if in_tree else "white", mec=INK, mew=1)
        ax.text(x, y, name, ha="center", va="center", color="white" if in_tree else INK)
    ax.set(xlim=(-0.2, 1.2), ylim=(max(len(rows), len(columns)) - 0.5, -0.5))
    ax.axis("off")


def two_sums(paid: Sequence[int], cost: Sequence[int], swaps: Sequence[int]) -> captioned:
    """The prices' sum and the matched pairs' cost by step; `swaps` are numbers of steps from 0."""
    figure, ax = plt.subplots(figsize=(6.4, 2.8))
    steps = range(1, len(paid) + 1)
    ax.step(steps, paid, where="mid", color=PATH, label="Σu + Σv, the prices")
    ax.step(steps, cost, where="mid", color=MATCH, ls="--", label="cost of the matched pairs")
    ax.plot([k + 1 for k in swaps], [paid[k] for k in swaps], "o", color=INK, label="after a swap")
    ax.set(xlabel="step", ylabel="hundredths", xticks=list(steps))
    ax.legend()
    return captioned(
        figure,
        "The prices push the bound up step by step; whenever a path is swapped, the matched pairs "
        "catch up with it.",
    )


# ---------------------------------------------------------------- doubles


def doubles(histories: Mapping[str, Float[Tensor, "steps 2"]]) -> captioned:
    """The probability of "sheep" of two queries with nearly one mask, step by step."""
    figure, axes = plt.subplots(1, len(histories), figsize=(9, 2.7), sharey=True)
    for ax, (name, p) in zip(axes, histories.items(), strict=True):
        for k, style in enumerate(("-", "--")):
            ax.plot(p[:, k], style, label=f"query {k + 1}")
        ax.set(title=name, xlabel="step", ylim=(-0.03, 1.03))
    axes[0].set_ylabel("p(sheep)")
    axes[0].legend(loc="lower right")
    figure.tight_layout()
    return captioned(
        figure,
        "Two queries with nearly the same mask. Rewarded by overlap, both say sheep. One to one, "
        "one of them says ∅. Where both must say the same, they are drawn to ½: right half of the "
        "time.",
    )
