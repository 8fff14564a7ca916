"""Lesson 04 and its homework: turns and exercises on RoIAlign, and the known mistakes."""

from collections.abc import Iterator
from math import ceil, floor

import torch
from torch import Tensor
from torch.nn import functional as F

from lessons.homework.answers.roi_align import (
    axis_matrix,
    rotated_align,
    send_back,
    shifted_boxes,
)
from lessons.homework.answers.roi_align_turns import align_bin, bilinear, pool_by_loops
from lessons.kit.homework import Exercise, Homework, mistake


def uniform(generator: torch.Generator, low: float, high: float) -> float:
    return low + (high - low) * torch.rand((), generator=generator, dtype=torch.float64).item()


# ---------------------------------------------------------------- your turn: pool_by_loops

TINY = torch.tensor([[1.0, 7.0, 0.0], [3.0, 2.0, 4.0], [0.0, 5.0, 6.0]])


def a_map(generator: torch.Generator, h: int, w: int) -> Tensor:
    """Whole numbers from −9 to 9, all rows and columns different."""
    return torch.randint(-9, 10, (h, w), generator=generator).float()


def boxes_to_pool(generator: torch.Generator) -> Iterator[tuple[Tensor, tuple, int]]:
    """Bins that share cells and bins that do not; wide, high, tiny; more bins than cells."""
    yield TINY, (0.2, 0.4, 1.8, 2.3), 2
    yield a_map(generator, 6, 8), (1.0, 1.0, 4.0, 4.0), 2
    yield a_map(generator, 6, 8), (1.4, 0.0, 7.2, 3.6), 3
    yield a_map(generator, 9, 5), (0.6, 1.2, 3.1, 7.7), 2
    yield a_map(generator, 7, 7), (2.5, 0.5, 4.49, 5.5), 4
    yield a_map(generator, 5, 5), (2.2, 3.1, 2.4, 3.3), 2
    yield a_map(generator, 12, 12), (0.0, 1.3, 9.6, 10.8), 7
    yield -TINY - 1, (0.0, 0.0, 2.0, 2.0), 1


def pooled_by(start=floor, stop=ceil, of=torch.amax, begins=1, ends=1):
    """RoI Pooling with other edges of its bins, another function of them, or another corner."""

    def pool(f, box, bins):
        x0, y0, x1, y1 = (floor(side + 0.5) for side in box)
        rows, columns = (y1 - y0 + 1) / bins, (x1 - x0 + 1) / bins
        y = torch.zeros(bins, bins)
        for i in range(bins):
            for j in range(bins):
                top, bottom = begins * y0 + start(i * rows), ends * y0 + stop((i + 1) * rows)
                left, right = begins * x0 + start(j * columns), ends * x0 + stop((j + 1) * columns)
                y[i, j] = of(f[top:bottom, left:right])
        return y

    return pool


@mistake(
    "rows and columns exchanged",
    "The right numbers, turned: i counts the rows of bins and y, j the columns and x.",
)
def pooled_turned(f, box, bins):
    return pool_by_loops(f, box, bins).T.contiguous()


POOL = Exercise(
    pool_by_loops,
    boxes_to_pool,
    tolerance=1e-5,
    mistakes=[
        mistake(
            "bins that share no cell",
            "Your bins end too early: they are rounded outwards, and neighbours may share cells.",
        )(pooled_by(floor, lambda x: max(floor(x), 1))),
        mistake(
            "a row too few",
            "Your bins end one row and one column too early: a slice leaves its end out already.",
        )(pooled_by(floor, lambda x: ceil(x) - 1)),
        mistake(
            "a row too many",
            "Your bins reach one row and one column too far: a slice leaves its end out already.",
        )(pooled_by(floor, lambda x: ceil(x) + 1)),
        mistake(
            "rounded inwards",
            "Your bins begin too late where the cells cannot be shared out evenly: outwards is "
            "down at the start.",
        )(pooled_by(ceil, ceil)),
        mistake(
            "rounded to the nearest",
            "Your bins are rounded to the nearest cell. Outwards is down at the start and up at "
            "the end.",
        )(pooled_by(round, round)),
        mistake(
            "from the map's corner",
            "Right where the box begins at 0: where do the bins of other boxes begin?",
        )(pooled_by(begins=0, ends=0)),
        mistake(
            "ends counted from the map's corner",
            "Your bins begin in the right place and end in the wrong one, unless the box begins at "
            "0: from where is the end counted?",
        )(pooled_by(ends=0)),
        mistake(
            "mean for maximum",
            "The right cells, and their mean. Which of them does RoI Pooling keep?",
        )(pooled_by(of=torch.mean)),
        pooled_turned,
    ],
)

# ---------------------------------------------------------------- your turn: bilinear


def points(generator: torch.Generator) -> Iterator[tuple[Tensor, float, float]]:
    """Between four cells, on a cell, on a row, on a column, near the far corner."""
    yield TINY, 0.25, 1.4
    yield TINY, 1.0, 0.0
    yield TINY, 1.0, 1.75
    yield TINY, 0.75, 1.0
    yield a_map(generator, 5, 9), 3.9, 7.2
    yield a_map(generator, 9, 5), 6.1, 0.6
    for _ in range(3):
        yield a_map(generator, 6, 8), uniform(generator, 0, 5), uniform(generator, 0, 7)


def read_by(weights, turned=False):
    """A sum of the four cells around a point, with other weights, or with the row for the column.

    `weights` takes the distances from the row above and from the column on the left and returns
    the weights of the cells above on the left, above on the right, below on the left and right.
    """

    def read(f, y, x):
        p, q = floor(y), floor(x)
        w = weights(y - p, x - q)
        cells = [(p, q), (p, q + 1), (p + 1, q), (p + 1, q + 1)]
        return sum(v * (f[j, i] if turned else f[i, j]) for v, (i, j) in zip(w, cells, strict=True))

    return read


def near(d, e):
    return (1 - d) * (1 - e), (1 - d) * e, d * (1 - e), d * e


@mistake("the nearest cell", "You read one cell, the nearest. Between cells all four count.")
def read_nearest(f, y, x):
    return f[floor(y + 0.5), floor(x + 0.5)]


BILINEAR = Exercise(
    bilinear,
    points,
    tolerance=1e-5,
    mistakes=[
        mistake(
            "the far cell weighs more",
            "Your weights are on the wrong side: a point that lies on a cell should read that cell "
            "alone.",
        )(read_by(lambda d, e: near(1 - d, 1 - e))),
        mistake(
            "the far row weighs more",
            "Right along a row. Of the two rows the farther one weighs more: what should a point "
            "read that lies on the row above?",
        )(read_by(lambda d, e: near(1 - d, e))),
        mistake(
            "the far column weighs more",
            "Right along a column. Of the two columns the farther one weighs more: what should a "
            "point read that lies on the left one?",
        )(read_by(lambda d, e: near(d, 1 - e))),
        mistake(
            "two weights exchanged",
            "Two of the four weights are exchanged: which cell is above on the right, and what is "
            "its distance along y, and along x?",
        )(read_by(lambda d, e: near(e, d))),
        mistake(
            "x for y", "The right weights for the wrong cells: f[p, q] has the row, so y, first."
        )(read_by(near, turned=True)),
        mistake(
            "all four alike", "The mean of the four cells. Should the nearest not count for more?"
        )(read_by(lambda d, e: (0.25,) * 4)),
        mistake(
            "the cell above on the left",
            "You read one cell, above and left of the point. Between cells all four count.",
        )(read_by(lambda d, e: (1, 0, 0, 0))),
        mistake(
            "along a row only",
            "Right on a row. Between two rows the one below counts as well: how much?",
        )(read_by(lambda d, e: near(0, e))),
        mistake(
            "along a column only",
            "Right on a column. Between two columns the right one counts as well: how much?",
        )(read_by(lambda d, e: near(d, 0))),
        read_nearest,
    ],
)

# ---------------------------------------------------------------- your turn: align_bin


def bins_to_align(
    generator: torch.Generator,
) -> Iterator[tuple[Tensor, float, float, float, float, int]]:
    """One sample and several; high bins and wide ones; bins within one cell."""
    yield TINY, 0.25, 0.5, 1.0, 0.5, 1
    yield TINY, 0.0, 0.0, 1.5, 1.0, 2
    yield a_map(generator, 7, 9), 1.3, 2.6, 3.2, 1.1, 2
    yield a_map(generator, 7, 9), 0.4, 0.2, 1.0, 6.0, 3
    yield a_map(generator, 6, 6), 2.1, 3.3, 0.4, 0.3, 2
    yield a_map(generator, 8, 5), 0.0, 1.0, 6.5, 2.5, 4


def aligned_by(at=lambda a, n: (a + 0.5) / n, of=torch.mean, turned=False, corner=1, size=1):
    """A bin with its points elsewhere, or with another function of what they read."""

    def align(f, y0, x0, height, width, n):
        if turned:
            height, width = width, height
        ys = [corner * y0 + at(a, n) * (height if size else 1) for a in range(n)]
        xs = [corner * x0 + at(b, n) * (width if size else 1) for b in range(n)]
        return of(torch.stack([bilinear(f, y, x) for y in ys for x in xs]))

    return align


@mistake(
    "the diagonal alone",
    "n points instead of n × n: each row of points has n of them.",
)
def aligned_along_the_diagonal(f, y0, x0, height, width, n):
    at = [(a + 0.5) / n for a in range(n)]
    return torch.stack([bilinear(f, y0 + u * height, x0 + u * width) for u in at]).mean()


BIN = Exercise(
    align_bin,
    bins_to_align,
    tolerance=1e-5,
    mistakes=[
        mistake(
            "samples at the corners",
            "Your samples sit at the upper left of their parts of the bin. Where should the only "
            "one be with n = 1?",
        )(aligned_by(lambda a, n: a / n)),
        mistake(
            "the first part left out",
            "Your samples lie one part too far down and right: the first part has number 0.",
        )(aligned_by(lambda a, n: (a + 1.5) / n)),
        mistake(
            "half a part too early",
            "Your samples lie half a part too far up and left: with n = 1 the only one belongs in "
            "the middle.",
        )(aligned_by(lambda a, n: (a - 0.5) / n)),
        mistake(
            "only the half is divided",
            "Your steps are n times too large: the whole of a + ½ is divided by n.",
        )(aligned_by(lambda a, n: a + 0.5 / n)),
        mistake(
            "not divided into parts",
            "Your samples are a whole bin apart: the bin has n parts along each axis.",
        )(aligned_by(lambda a, n: a + 0.5)),
        mistake(
            "from the map's corner",
            "Right for a bin that begins at 0: where do the points of other bins begin?",
        )(aligned_by(corner=0)),
        mistake(
            "the size is not used",
            "Right for a bin of one cell by one: how far apart are the points of a larger one?",
        )(aligned_by(size=0)),
        mistake(
            "divided by n",
            "The right readings; their sum is divided by too little: how many points are there?",
        )(aligned_by(of=lambda read: read.sum() / len(read) ** 0.5)),
        mistake(
            "sum for mean",
            "The right readings, added up. On a map of ones, what should a bin return?",
        )(aligned_by(of=torch.sum)),
        mistake(
            "maximum for mean",
            "The right readings, and their maximum. Which of the two operators takes the mean?",
        )(aligned_by(of=torch.amax)),
        mistake(
            "height and width exchanged", "The bin is turned: height belongs to y, width to x."
        )(aligned_by(turned=True)),
        aligned_along_the_diagonal,
    ],
)

# ---------------------------------------------------------------- homework 1. axis_matrix


def axes(generator: torch.Generator) -> Iterator[tuple[float, float, int, int, int]]:
    """Boxes inside, across the edges and far outside; one bin, one sample, one cell."""
    yield 0.25, 3.0, 2, 2, 4
    yield 1.25, 4.0, 2, 2, 8
    yield 0.0, 5.0, 5, 1, 7
    for bins, n, length in ((7, 2, 20), (3, 4, 9), (1, 1, 1), (14, 3, 16)):
        start = uniform(generator, 0, length / 2)
        yield start, uniform(generator, 0.5, length / 2), bins, n, length
    yield -2.6, 6.0, 3, 2, 8  # samples beyond −1, and others that are pulled to cell 0
    yield -2.1, 6.0, 3, 2, 8  # one sample of the first bin counts, one does not
    yield 3.3, 6.0, 3, 2, 8  # so in the last bin
    yield 30.0, 4.0, 2, 2, 8
    yield 3.0, 0.4, 3, 2, 10  # smaller than a cell
    yield -1.5, 4.0, 4, 1, 10  # a sample exactly on −1
    yield 6.5, 4.0, 4, 1, 10  # and one exactly on the length


def matrix(start, size, bins, n, length, offset=0.5, shift=0.0, outside=True, pull=True):
    at = start + shift + (torch.arange(bins * n, dtype=torch.float64) + offset) * size / (bins * n)
    counts = (at >= -1) & (at <= length) if outside else torch.ones_like(at, dtype=torch.bool)
    distance = (at.clamp(0, length - 1) if pull else at)[:, None] - torch.arange(length)
    return (1 - distance.abs()).clamp(min=0).mul(counts[:, None]).view(bins, n, length)


@mistake(
    "sum for mean",
    "Each row is too heavy by a constant factor. What should the weights of a bin that "
    "lies inside the map sum to?",
)
def matrix_of_sums(start, size, bins, n, length):
    return matrix(start, size, bins, n, length).sum(1)


@mistake(
    "samples at the corners",
    "Your samples sit at the beginning of their part of the bin. With one sample a bin, "
    "where should it be?",
)
def matrix_at_bin_corners(start, size, bins, n, length):
    return matrix(start, size, bins, n, length, offset=0.0).mean(1)


@mistake(
    "half a cell off",
    "You subtract half a cell. Here the centre of cell 0 is at 0 already.",
)
def matrix_half_a_cell_off(start, size, bins, n, length):
    return matrix(start, size, bins, n, length, shift=-0.5).mean(1)


@mistake(
    "the map never ends",
    "Right inside the map. A box far outside of it still reads the last cell: when does a "
    "sample count for nothing?",
)
def matrix_goes_on_outside(start, size, bins, n, length):
    return matrix(start, size, bins, n, length, outside=False).mean(1)


@mistake(
    "fading at the edge",
    "Right inside the map. Samples just outside fade away, but they should read the "
    "outermost cell in full: what has to happen to them first?",
)
def matrix_not_pulled(start, size, bins, n, length):
    return matrix(start, size, bins, n, length, pull=False).mean(1)


@mistake(
    "mean over only the samples that count",
    "Near the edge your rows are too heavy: you divide by the samples that count. The mean "
    "is over all n.",
)
def matrix_of_means_of_some(start, size, bins, n, length):
    at = start + (torch.arange(bins * n, dtype=torch.float64) + 0.5) * size / (bins * n)
    counts = ((at >= -1) & (at <= length)).view(bins, n).sum(1, keepdim=True)
    return matrix(start, size, bins, n, length).sum(1) / counts.clamp(min=1)


@mistake(
    "the nearest cell",
    "Each of your samples reads one cell. Between two cells it should read both: how much of each?",
)
def matrix_of_nearest_cells(start, size, bins, n, length):
    at = start + (torch.arange(bins * n, dtype=torch.float64) + 0.5) * size / (bins * n)
    counts = (at >= -1) & (at <= length)
    nearest = F.one_hot(at.clamp(0, length - 1).round().long(), length).double()
    return (nearest * counts[:, None]).view(bins, n, length).mean(1)


MATRIX = Exercise(
    axis_matrix,
    axes,
    points=4,
    minutes=25,
    mistakes=[
        matrix_of_sums,
        matrix_at_bin_corners,
        matrix_half_a_cell_off,
        matrix_goes_on_outside,
        matrix_not_pulled,
        matrix_of_means_of_some,
        matrix_of_nearest_cells,
    ],
)

# ---------------------------------------------------------------- homework 2. shifted_boxes


def scaled_boxes(generator: torch.Generator) -> Iterator[tuple[Tensor, float]]:
    yield torch.tensor([[8.0, 4.0, 24.0, 20.0]]), 1 / 4
    for n, scale in ((3, 1 / 4), (1, 1 / 32), (5, 1 / 16), (2, 1.0), (0, 1 / 8)):
        corner = 100 * torch.rand(n, 2, generator=generator)
        size = 2 / scale + 80 * torch.rand(n, 2, generator=generator)
        yield torch.cat([corner, corner + size], 1), scale


@mistake(
    "half a pixel of the image",
    "You move by half a pixel of the image. It is half a cell that is missing, and the "
    "boxes are in pixels: how many pixels is a cell?",
)
def shifted_by_half_a_pixel(boxes, spatial_scale):
    return boxes - 0.5


@mistake(
    "the other way",
    "The right distance, the wrong direction. On which side of the right place does "
    "aligned=False read (section 6 of the lesson)?",
)
def shifted_the_other_way(boxes, spatial_scale):
    return boxes + 0.5 / spatial_scale


@mistake(
    "times the scale",
    "Check the unit of your shift: the scale is cells per pixel, and you need pixels.",
)
def shifted_by_scale(boxes, spatial_scale):
    return boxes - 0.5 * spatial_scale


@mistake(
    "the box grows",
    "You move one corner, so the box becomes larger. What should happen to its size?",
)
def shifted_corner(boxes, spatial_scale):
    shift = boxes.new_tensor([0.5, 0.5, 0, 0]) / spatial_scale
    return boxes - shift


@mistake(
    "boxes in cells",
    "You return cells. The operator multiplies by the scale itself and expects pixels.",
)
def shifted_in_cells(boxes, spatial_scale):
    return boxes * spatial_scale - 0.5


SHIFT = Exercise(
    shifted_boxes,
    scaled_boxes,
    points=3,
    minutes=10,
    mistakes=[
        shifted_by_half_a_pixel,
        shifted_the_other_way,
        shifted_by_scale,
        shifted_corner,
        shifted_in_cells,
    ],
)

# ---------------------------------------------------------------- homework 3. send_back


def errors(generator: torch.Generator) -> Iterator[tuple[Tensor, tuple, int, int, int]]:
    """Large and small boxes; one where several samples share a cell; one up to the last cell."""
    one = torch.ones(1, 1, dtype=torch.float64)
    yield one, (1.0, 0.0, 2.0, 1.0), 1, 2, 3  # between the last two columns
    yield one, (1.0, 2.0, 2.5, 3.5), 1, 6, 7
    for bins, n, h, w in ((2, 2, 9, 12), (3, 1, 12, 7), (2, 3, 5, 6)):
        x0, y0 = uniform(generator, 0, w / 3), uniform(generator, 0, h / 3)
        x1, y1 = (
            uniform(generator, side / 2, side - 1.01) for side in (float(w), float(h))
        )  # inside the centres of the outermost cells
        error = torch.randn(bins, bins, generator=generator, dtype=torch.float64)
        yield error, (x0, y0, x1, y1), n, h, w
    yield torch.eye(2, dtype=torch.float64), (1.0, 1.0, 5.0, 5.0), 1, 5, 5  # samples at 2 and 4


def handed_out(error, box, n, h, w, weigh=None, add=True, share=None, turned=False):
    """`send_back` with one of its parts replaced."""
    weigh = weigh or (lambda dy, dx: (1 - dy) * (1 - dx))
    bins, (x0, y0, x1, y1) = len(error), box
    heard = torch.zeros(h, w, dtype=error.dtype)
    for row in range(bins * n):
        for column in range(bins * n):
            at_y = y0 + (row + 0.5) * (y1 - y0) / (bins * n)
            at_x = x0 + (column + 0.5) * (x1 - x0) / (bins * n)
            i, j = (column // n, row // n) if turned else (row // n, column // n)
            e = error[i, j] * (1 / n**2 if share is None else share)
            for p in {int(at_y), min(int(at_y) + 1, h - 1)}:
                for q in {int(at_x), min(int(at_x) + 1, w - 1)}:
                    value = e * weigh(abs(at_y - p), abs(at_x - q))
                    heard[p, q] = heard[p, q] + value if add else value
    return heard


@mistake(
    "the last one wins",
    "Where two samples share a cell, you keep what the second one says. What should happen "
    "to the first? (`x[cells] += …` with a tensor of cells has the same trap.)",
)
def sent_without_adding(error, box, n, h, w):
    return handed_out(error, box, n, h, w, add=False)


@mistake(
    "the mean is forgotten",
    "Too large by a constant factor. How much does one sample count in its output?",
)
def sent_without_mean(error, box, n, h, w):
    return handed_out(error, box, n, h, w, share=1.0)


@mistake(
    "the nearest cell only",
    "Only the nearest cell hears of a sample. Who else was read?",
)
def sent_to_nearest(error, box, n, h, w):
    return handed_out(error, box, n, h, w, weigh=lambda dy, dx: float(dy < 0.5 and dx < 0.5))


@mistake(
    "four equal parts",
    "The four cells of a sample share its error equally. Did they count equally?",
)
def sent_in_quarters(error, box, n, h, w):
    return handed_out(error, box, n, h, w, weigh=lambda dy, dx: 0.25)


@mistake(
    "the area on the wrong side",
    "The farthest cell gets the most. Look again at the picture of the four areas.",
)
def sent_by_the_near_area(error, box, n, h, w):
    return handed_out(error, box, n, h, w, weigh=lambda dy, dx: dy * dx)


@mistake(
    "rows for columns",
    "The errors arrive mirrored at the diagonal: which index of the error runs along y?",
)
def sent_to_the_turned_bin(error, box, n, h, w):
    return handed_out(error, box, n, h, w, turned=True)


BACK = Exercise(
    send_back,
    errors,
    forbidden=(
        "torch.autograd.grad",
        "torch.autograd.backward",
        "torch.Tensor.backward",
        "torch.func.grad",
        "lessons.roi_align.roi_align",
        "torchvision.ops.roi_align",
    ),
    points=4,
    minutes=20,
    mistakes=[
        sent_without_adding,
        sent_without_mean,
        sent_to_nearest,
        sent_in_quarters,
        sent_by_the_near_area,
        sent_to_the_turned_bin,
    ],
)

# ---------------------------------------------------------------- homework 4. rotated_align


def rotated_boxes(generator: torch.Generator) -> Iterator[tuple]:
    """Not square, away from the middle of the map, by all kinds of angles."""
    yield TINY[None].double(), (1.0, 1.0), (2.0, 1.0), torch.pi / 2, 2, 1
    for h, w, angle, bins, n in (
        (20, 24, 0.0, 2, 2),
        (20, 24, torch.pi / 2, 3, 1),
        (24, 31, 0.4, 3, 2),
        (30, 22, -1.1, 2, 3),
        (22, 22, 2.5, 7, 2),
    ):
        features = torch.randn(2, h, w, generator=generator, dtype=torch.float64)
        centre = uniform(generator, 8, w - 9), uniform(generator, 8, h - 9)
        yield features, centre, (9.0, 5.0), angle, bins, n


def read_points(features, x, y, n):
    h, w = features.shape[1:]
    grid = torch.stack([2 * x / (w - 1) - 1, 2 * y / (h - 1) - 1], -1)
    read = F.grid_sample(features[None], grid[None], align_corners=True)
    return F.avg_pool2d(read, n)[0]


def own_frame(features, size, bins, n):
    steps = (torch.arange(bins * n, dtype=features.dtype) + 0.5) / (bins * n) - 0.5
    v, u = torch.meshgrid(steps * size[1], steps * size[0], indexing="ij")
    return u, v


def turned_by(features, centre, size, angle, bins, n):
    u, v = own_frame(features, size, bins, n)
    cos, sin = (
        torch.tensor([angle], dtype=torch.float64).cos(),
        torch.tensor([angle]).double().sin(),
    )
    x, y = centre[0] + u * cos - v * sin, centre[1] + u * sin + v * cos
    return x, y


@mistake(
    "the other way round",
    "You turn the other way. Compare the signs of the two sines: y points down.",
)
def turned_the_other_way(features, centre, size, angle, bins, n):
    return read_points(features, *turned_by(features, centre, size, -angle, bins, n), n)


@mistake(
    "degrees",
    "Right for an angle of 0 only, and the box hardly turns. What is the angle's unit?",
)
def turned_by_degrees(features, centre, size, angle, bins, n):
    radians = angle * torch.pi / 180
    return read_points(features, *turned_by(features, centre, size, radians, bins, n), n)


@mistake(
    "where −1 and 1 are",
    "The points are right, their translation for grid_sample is not. With which value of "
    "align_corners are −1 and 1 the centres of the outermost cells?",
)
def turned_with_other_corners(features, centre, size, angle, bins, n):
    x, y = turned_by(features, centre, size, angle, bins, n)
    h, w = features.shape[1:]
    grid = torch.stack([2 * x / (w - 1) - 1, 2 * y / (h - 1) - 1], -1)
    read = F.grid_sample(features[None], grid[None], align_corners=False)
    return F.avg_pool2d(read, n)[0]


@mistake(
    "half a cell off",
    "All of your points are half a cell off. With align_corners=False the value −1 is the "
    "outer edge of cell 0, and the centre of cell 0 is at 0: how far apart are the two?",
)
def turned_half_a_cell_off(features, centre, size, angle, bins, n):
    x, y = turned_by(features, centre, size, angle, bins, n)
    h, w = features.shape[1:]
    grid = torch.stack([2 * x / w - 1, 2 * y / h - 1], -1)
    read = F.grid_sample(features[None], grid[None], align_corners=False)
    return F.avg_pool2d(read, n)[0]


@mistake(
    "x for y",
    "grid_sample expects the pair in the order (x, y), and you give it the other one.",
)
def turned_with_x_for_y(features, centre, size, angle, bins, n):
    x, y = turned_by(features, centre, size, angle, bins, n)
    h, w = features.shape[1:]
    grid = torch.stack([2 * y / (h - 1) - 1, 2 * x / (w - 1) - 1], -1)
    read = F.grid_sample(features[None], grid[None], align_corners=True)
    return F.avg_pool2d(read, n)[0]


@mistake(
    "the angle is not used",
    "Right for an angle of 0 only: your box does not turn at all.",
)
def not_turned(features, centre, size, angle, bins, n):
    return read_points(features, *turned_by(features, centre, size, 0.0, bins, n), n)


@mistake(
    "about the corner",
    "Your box turns about its corner. Which point should stay where it is?",
)
def turned_about_the_corner(features, centre, size, angle, bins, n):
    u, v = own_frame(features, size, bins, n)
    u, v = u + size[0] / 2, v + size[1] / 2
    turn = torch.tensor([angle], dtype=torch.float64)
    x = centre[0] - size[0] / 2 + u * turn.cos() - v * turn.sin()
    y = centre[1] - size[1] / 2 + u * turn.sin() + v * turn.cos()
    return read_points(features, x, y, n)


ROTATED = Exercise(
    rotated_align,
    rotated_boxes,
    points=4,
    minutes=30,
    stretch=True,
    mistakes=[
        turned_the_other_way,
        turned_by_degrees,
        turned_with_other_corners,
        turned_half_a_cell_off,
        turned_with_x_for_y,
        not_turned,
        turned_about_the_corner,
    ],
)

homework = Homework(
    "Homework 04: RoIAlign", [MATRIX, SHIFT, BACK, ROTATED], turns=[POOL, BILINEAR, BIN]
)
check, score_board, your_turns = homework.check, homework.score_board, homework.your_turns
