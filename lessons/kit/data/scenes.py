"""Drawn landscapes: the course's own panoptic data set, with nothing to download.

Every scene shows what the course is about. Sheep stand in flocks that touch and hide one
another, so the class of a pixel does not say which sheep it belongs to. Trunks stand before
sheep and houses, so one instance may lie in two parts. Sky, mountains, meadow and lake are
stuff: one segment each, however many pieces it has. A distant flock, too dense to be told
apart, is one crowd.

How a scene is made: things are composed in unit coordinates and painted from far to near on
a supersampled image and, with the same shapes, on an image of ids. The ids at the centres of
the pixels are the masks. Sky, water, texture and light are added in numpy at the final size.
No random number depends on the size, so a scene is the same picture at every size. Wide scenes
are the same landscapes with things from a third to twice as large; in crowded ones every sheep
has a second one close behind it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter

from lessons.kit.data import Category, Sample, Segments

CATEGORIES: list[Category] = [
    Category("sheep", True, (240, 228, 66)),
    Category("tree", True, (0, 158, 115)),
    Category("house", True, (213, 94, 0)),
    Category("balloon", True, (204, 121, 167)),
    Category("sky", False, (166, 216, 245)),
    Category("mountain", False, (119, 119, 136)),
    Category("meadow", False, (153, 187, 85)),
    Category("lake", False, (0, 114, 178)),
]

SHEEP, TREE, HOUSE, BALLOON, SKY, MOUNTAIN, MEADOW, LAKE = range(8)
FIRST_THING = 8  # ids: 4 … 7 are the stuff classes, 8, 9, … the things from far to near
SUPERSAMPLING = 3  # odd, so that one of the small pixels lies at the centre of each pixel
SMALLEST = 12 / 128**2  # what is visible on a smaller share of the image is void
BEHIND = (0.25, 0.45), (0.2, 0.35)  # where a second sheep of a crowded scene stands: aside, farther
WIDE = 1 / 3, 2.0  # the factors of the sizes in wide scenes, all equally likely by their logarithm


@dataclass(frozen=True)
class _Mood:
    """The colours of a time of day (RGB, 0 … 255) and its light."""

    zenith: tuple[int, int, int]
    sky: tuple[int, int, int]
    haze: tuple[int, int, int]
    rock: tuple[int, int, int]
    grass: tuple[int, int, int]
    cloud: tuple[int, int, int]
    light: tuple[float, float, float]  # multiplies the colours of the things
    cover: float  # how much of the sky is clouds
    mist: float  # at the foot of the mountains
    contrast: float  # of light and shadow
    glow: float  # of the sky around the sun


_MOODS = {
    "noon": _Mood(
        (58, 124, 205), (118, 176, 228), (208, 230, 240), (84, 98, 124), (120, 170, 62),
        (255, 255, 255), (1.0, 1.0, 0.97), 0.36, 0.35, 1.0, 0.1,
    ),
    "evening": _Mood(
        (70, 92, 158), (232, 158, 136), (255, 218, 150), (98, 80, 116), (142, 150, 60),
        (255, 214, 178), (1.08, 0.95, 0.80), 0.3, 0.45, 1.2, 0.8,
    ),
    "overcast": _Mood(
        (142, 154, 168), (184, 192, 200), (216, 222, 224), (92, 104, 118), (108, 142, 78),
        (234, 237, 240), (0.95, 0.97, 1.0), 0.62, 0.55, 0.55, 0.0,
    ),
    "morning": _Mood(
        (104, 144, 206), (196, 196, 224), (254, 222, 210), (106, 116, 152), (118, 164, 96),
        (255, 240, 236), (1.0, 0.96, 0.98), 0.26, 0.8, 0.8, 0.5,
    ),
}  # fmt: skip


@dataclass
class _Look:
    """How a kind of thing takes the light; lengths are in sizes of the thing."""

    middle: float  # height of its centre
    shading: float  # lighter towards the sun, darker away from it
    roughness: float
    shadow: float  # half the width of its shadow on the ground


_LOOKS = {
    SHEEP: _Look(0.4, 0.2, 0.2, 0.5),
    TREE: _Look(0.6, 0.3, 0.4, 0.2),
    HOUSE: _Look(0.4, 0.1, 0.1, 0.55),
    BALLOON: _Look(0.6, 0.5, 0.0, 0.0),
}


@dataclass
class _Thing:
    """What is composed before it is drawn; its foot (x, y) and size in unit coordinates."""

    label: int
    draw: Callable[["_Pen"], None]
    x: float
    y: float
    size: float
    is_crowd: bool = False


class _Canvas:
    """The colour image and the id image, supersampled and drawn with the same shapes."""

    def __init__(self, rng: np.random.Generator, height: int, width: int):
        self.rng, self.shape = rng, (height, width)
        self.mood = _MOODS[_pick(rng, ["noon", "noon", "evening", "overcast", "morning"])]
        self.sun, self.horizon = rng.uniform(0.05, 0.95), rng.uniform(0.40, 0.48)
        self.sun_side = 1 if self.sun > 0.5 else -1
        self.x = (np.arange(width, dtype=np.float32)[None] + 0.5) / width
        self.y = (np.arange(height, dtype=np.float32)[:, None] + 0.5) / height
        self.unit = min(height, width) * SUPERSAMPLING
        self.scale = np.array([width, height]) * SUPERSAMPLING
        self.color_image = Image.new("RGB", (width * SUPERSAMPLING, height * SUPERSAMPLING))
        self.id_image = Image.new("L", self.color_image.size, SKY)
        self.color, self.id = ImageDraw.Draw(self.color_image), ImageDraw.Draw(self.id_image)

    def below(
        self, x: np.ndarray, y: np.ndarray, color: np.ndarray, id: int, bottom: float = 1.02
    ) -> None:
        """Fill what lies between a line from the left to the right border and the bottom."""
        outline = np.vstack([np.stack([x, y], 1), [[x[-1], bottom], [x[0], bottom]]])
        points = (outline * self.scale).ravel().tolist()
        self.color.polygon(points, fill=_rgb(color))
        self.id.polygon(points, fill=id)

    def pixels(self) -> np.ndarray:
        """The colours at the final size, (3, h, w) in 0 … 255."""
        image = np.asarray(self.color_image.reduce(SUPERSAMPLING))
        return np.ascontiguousarray(image.transpose(2, 0, 1), dtype=np.float32)

    def clear(self) -> None:
        """Make the colours black but keep the ids: what was drawn is blended in later."""
        self.color_image.paste(0, (0, 0, *self.color_image.size))

    def coverage(self, *ids: int) -> np.ndarray:
        """How much of each pixel has one of these ids, (h, w) in 0 … 1."""
        table = bytearray(256)
        for id in ids:
            table[id] = 255
        covered = self.id_image.point(table).reduce(SUPERSAMPLING)
        return np.asarray(covered, dtype=np.float32) / 255

    def ids(self) -> np.ndarray:
        """The id at the centre of each pixel, (h, w)."""
        centre = slice(SUPERSAMPLING // 2, None, SUPERSAMPLING)
        return np.asarray(self.id_image)[centre, centre]

    def noise(self, *grids: tuple[int, int]) -> np.ndarray:
        """Random grids (rows, columns), each half as strong as the one before: (h, w), 0 … 1."""
        total, weight = np.zeros((1, 1), dtype=np.float32), 1.0
        for rows, columns in grids:
            total = _resize(total, (rows, columns))
            total += weight * self.rng.random((rows, columns), dtype=np.float32)
            weight /= 2
        return _resize(total, self.shape) / (2 - 2 * weight)

    def slope(self, field: np.ndarray, axis: int) -> np.ndarray:
        """How steeply a field rises towards the sun, in units of 1/128 of the image."""
        towards = -1 if axis == 0 else self.sun_side
        return np.gradient(field, axis=axis) * (towards * field.shape[axis] / 128)


class _Pen:
    """Draws one thing: x runs to the right (or mirrored) and y up from its foot."""

    def __init__(self, canvas: _Canvas, thing: _Thing, id: int):
        self.canvas, self.rng, self.id = canvas, canvas.rng, id
        mirror = -1 if self.rng.random() < 0.5 else 1
        self.sun_side = canvas.sun_side * mirror
        self.origin = np.array([thing.x, thing.y]) * canvas.scale
        self.unit = thing.size * canvas.unit
        self.axes = np.array([mirror * self.unit, -self.unit])

    def polygon(self, points: Sequence | np.ndarray, color: np.ndarray) -> None:
        flat = (np.asarray(points) * self.axes + self.origin).ravel().tolist()
        self.canvas.color.polygon(flat, fill=_rgb(color))
        self.canvas.id.polygon(flat, fill=self.id)

    def ellipse(self, x: float, y: float, rx: float, ry: float, color: np.ndarray) -> None:
        cx, cy = (self.origin + (x, y) * self.axes).tolist()
        rx, ry = rx * self.unit, ry * self.unit
        box = [cx - rx, cy - ry, cx + rx, cy + ry]
        self.canvas.color.ellipse(box, fill=_rgb(color))
        self.canvas.id.ellipse(box, fill=self.id)

    def box(self, x: float, y: float, width: float, height: float, color: np.ndarray) -> None:
        """An upright rectangle from its lower left corner."""
        self.polygon([(x, y), (x + width, y), (x + width, y + height), (x, y + height)], color)

    def wool(self, turn: int, x: float, y: float, rx: float, ry: float, color: np.ndarray) -> None:
        """A blob with one of eight curly outlines."""
        self.polygon(_WOOL[turn] * (rx, ry) + (x, y), color)

    def foliage(self, blobs: np.ndarray, leaf: np.ndarray) -> None:
        """Round masses of leaves (x, y, radius), dark below and light towards the sun."""
        for shift, shrink, tone in ((0, 1, 0.7), (0.11, 0.83, 0.92), (0.3, 0.5, 1.12)):
            for turn, (x, y, r) in enumerate(blobs.tolist()):
                x, y = x + shift * r * self.sun_side, y + shift * r
                self.wool(turn, x, y, r * shrink, r * shrink, leaf * tone)


class Scenes(Sequence[Sample]):
    """The first `count` scenes of the series `seed`, each drawn when it is asked for.

    In `wide` ones the things differ much more in size: their areas by a factor of 36. In `crowded`
    ones the flocks overlap more: every sheep has a second one close behind it.
    """

    categories = CATEGORIES

    def __init__(
        self,
        seed: int = 0,
        count: int = 200,
        size: int | tuple[int, int] = 128,
        wide: bool = False,
        crowded: bool = False,
    ):
        _check_not_negative(seed=seed, count=count)
        _check_yes_or_no(wide=wide, crowded=crowded)
        self.seed, self.count, self.size = seed, count, _check_size(size)
        self.wide, self.crowded = wide, crowded

    @classmethod
    def train(
        cls,
        count: int = 4000,
        size: int | tuple[int, int] = 128,
        wide: bool = False,
        crowded: bool = False,
    ) -> "Scenes":
        """The training split: seed 0."""
        return cls(seed=0, count=count, size=size, wide=wide, crowded=crowded)

    @classmethod
    def validation(
        cls, size: int | tuple[int, int] = 128, wide: bool = False, crowded: bool = False
    ) -> "Scenes":
        """The validation split: seed 1, scenes 0 … 199."""
        return cls(seed=1, count=200, size=size, wide=wide, crowded=crowded)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        if not -self.count <= index < self.count:
            raise IndexError(f"index {index} is outside of the {self.count} scenes")
        return scene(self.seed, index % self.count, self.size, self.wide, self.crowded)


def scene(
    seed: int,
    index: int,
    size: int | tuple[int, int] = 128,
    wide: bool = False,
    crowded: bool = False,
) -> Sample:
    """Scene number `index` of the series `seed`; `size` is (height, width) or both in one.

    A `wide` one is the same landscape with other sizes of the things, a `crowded` one with twice
    as many sheep, each of them before or behind another.
    Raises ValueError for a negative seed or index, for a side shorter than 32 pixels and for a
    `wide` or `crowded` that is no bool.
    """
    _check_not_negative(seed=seed, index=index)
    _check_yes_or_no(wide=wide, crowded=crowded)
    canvas = _Canvas(np.random.default_rng([seed, index]), *_check_size(size))
    has_lake = canvas.rng.random() < 0.45
    relief = canvas.noise((12, 12), (24, 24), (48, 48), (96, 96))
    grain = canvas.noise((64, 128), (128, 256))

    _draw_ridges(canvas)
    backdrop = _backdrop(canvas, relief + grain / 6)
    canvas.clear()
    if has_lake:
        canvas.id.rectangle((0, canvas.horizon * canvas.scale[1], *canvas.scale), fill=LAKE)
    hills = _draw_hills(canvas, has_lake)
    _draw_tufts(canvas)
    _draw_flowers(canvas, hills)
    things = _compose(canvas, hills)
    if wide:  # by a generator of its own: the other scene stays as it is
        _vary_sizes(np.random.default_rng([seed, index, 1]), things)
    if crowded:
        things = _join(np.random.default_rng([seed, index, 2]), things)
    for id, thing in enumerate(things, start=FIRST_THING):
        thing.draw(_Pen(canvas, thing, id))

    image = canvas.pixels() + canvas.coverage(SKY, MOUNTAIN) * backdrop
    if has_lake:
        image += canvas.coverage(LAKE) * _water(canvas, backdrop)
    light = _meadow_light(canvas, hills, relief, grain) - _shadows(canvas, things)
    image *= 1 + canvas.coverage(MEADOW) * light
    ids = canvas.ids()
    image *= _thing_light(canvas, things, ids, grain)
    image = torch.from_numpy(image).div_(255).clamp_(0, 1)
    return Sample(image, _segments(ids, things))


def _segments(ids: np.ndarray, things: list[_Thing]) -> Segments:
    """The visible parts, things before stuff; what is too small to be seen is void."""
    area = np.bincount(ids.ravel(), minlength=FIRST_THING + len(things))
    found = [(thing.label, id, thing.is_crowd) for id, thing in enumerate(things, FIRST_THING)]
    found += [(label, label, False) for label in (SKY, MOUNTAIN, MEADOW, LAKE)]
    found = sorted(entry for entry in found if area[entry[1]] >= SMALLEST * ids.size)
    labels, numbers, is_crowd = zip(*found, strict=True)
    masks = ids == np.array(numbers, dtype=ids.dtype)[:, None, None]
    return Segments(torch.from_numpy(masks), torch.tensor(labels), is_crowd=torch.tensor(is_crowd))


def _compose(canvas: _Canvas, hills: np.ndarray) -> list[_Thing]:
    """Choose the things of a scene, sorted from far to near."""
    rng, horizon = canvas.rng, canvas.horizon

    def width(y: float) -> float:
        """How wide a sheep is whose feet are at y."""
        return 0.045 + 0.38 * (y - horizon)

    def foot(x: float, farthest: float, nearest: float, reach: float = 0.0) -> float:
        """A y between two distances from the horizon, on the ground from x − reach to x + reach."""
        y = horizon + rng.uniform(farthest, nearest)
        return max(y, *np.interp([x - reach, x, x + reach], _ACROSS, hills.min(0)) + 0.02)

    def places(*counts: int) -> np.ndarray:
        """Places along x, one to a lane; as many as one of the counts."""
        count, lanes = _pick(rng, counts), max(counts)
        return (rng.permutation(lanes)[:count] + rng.uniform(0.1, 0.9, count)) / lanes

    things = []
    for x in places(0, 1, 1, 2, 3):
        size = rng.uniform(0.2, 0.36)
        y = size + rng.uniform(0.03, max(0.05, horizon - size))
        things.append(_Thing(BALLOON, _draw_balloon, x, y, size))
    for x in places(0, 1, 1, 2):
        y = foot(x, 0.07, 0.17, reach=0.12)
        things.append(_Thing(HOUSE, _draw_house, x, y, 2.3 * width(y)))
    for x in places(0, 1, 1, 1, 2, 2, 2, 3, 3, 4):
        y = foot(x, 0.06, 0.24)
        draw = _draw_conifer if rng.random() < 0.45 else _draw_round_tree
        things.append(_Thing(TREE, draw, x, y, rng.uniform(2.4, 3.2) * width(y)))
    for x in places(*[0] + [1] * 11 + [2] * 8):
        things += _flock(rng, x, foot(x, 0.2, 0.46, reach=0.15), width)
    behind = [thing for thing in things if thing.label in (SHEEP, HOUSE)]
    if behind and rng.random() < 0.5:
        cut = _pick(rng, behind)
        x, y = cut.x + rng.uniform(-0.12, 0.12) * cut.size, cut.y + 0.012
        things.append(_Thing(TREE, _draw_birch, x, y, 3.4 * width(y)))
    if rng.random() < 0.16:
        x = rng.uniform(0.2, 0.8)
        y = foot(x, 0.08, 0.13, reach=0.2)
        things.append(_Thing(SHEEP, _draw_crowd, x, y, 0.3, is_crowd=True))
    return _far_to_near(things)


def _far_to_near(things: list[_Thing]) -> list[_Thing]:
    return sorted(things, key=lambda thing: (thing.label != BALLOON, thing.y))


def _vary_sizes(rng: np.random.Generator, things: list[_Thing]) -> None:
    """Make each thing larger or smaller by a factor of its own, on the same foot."""
    for thing in things:
        if not thing.is_crowd:
            thing.size *= float(np.exp(rng.uniform(*np.log(WIDE))))


def _join(rng: np.random.Generator, things: list[_Thing]) -> list[_Thing]:
    """Put a second sheep close behind each, its foot aside and farther by shares of its size."""
    joined = list(things)
    for thing in things:
        if thing.label == SHEEP and not thing.is_crowd:
            aside, farther = (thing.size * rng.uniform(*shares) for shares in BEHIND)
            x, y = thing.x + aside * rng.choice([-1, 1]), thing.y - farther
            joined.append(_Thing(SHEEP, _draw_sheep, x, y, thing.size * rng.uniform(0.9, 1.1)))
    return _far_to_near(joined)


def _flock(
    rng: np.random.Generator, x: float, y: float, width: Callable[[float], float]
) -> list[_Thing]:
    """Sheep in two rows, the far ones half hidden by the near ones."""
    count = rng.integers(2, 7)
    across = (np.arange(count) - (count - 1) / 2) * 0.52 + rng.uniform(-0.12, 0.12, count)
    nearer = (np.arange(count) % 2 - 0.5) * 0.36 + rng.uniform(-0.06, 0.06, count)
    return [
        _Thing(SHEEP, _draw_sheep, x + u, y + v, width(y + v) * rng.uniform(0.9, 1.1))
        for u, v in zip(across * width(y), nearer * width(y), strict=True)
    ]


def _draw_ridges(canvas: _Canvas) -> None:
    """Two or three ridges, the far one higher, paler and with snow."""
    mood, rng = canvas.mood, canvas.rng
    count = rng.integers(2, 4)
    x, bottom = np.linspace(-0.02, 1.02, 129), canvas.horizon + 0.04
    for i in range(count):
        far = 1 - i / count
        y = canvas.horizon - (0.05 + 0.23 * far) * rng.uniform(0.8, 1.15) * _skyline(rng)
        if i == 0:
            canvas.below(x, y, np.array([242, 245, 250]) * mood.light, MOUNTAIN, bottom)
            snow = np.interp(x, np.linspace(0, 1, 40), rng.random(40))
            y = np.maximum(y, y.min() + 0.06 + 0.06 * snow + 0.015 * rng.random(129))
        color = _mix(mood.rock, mood.haze, 0.1 + 0.45 * far)
        canvas.below(x, y, color, MOUNTAIN, bottom)


def _skyline(rng: np.random.Generator) -> np.ndarray:
    """A rough line between 0.2 and 1: straight slopes, then smaller and smaller teeth."""
    x = np.linspace(0, 1, 129)
    line = np.zeros(129)
    for knots, weight in ((6, 1.0), (12, 0.4), (33, 0.12), (65, 0.05)):
        line += weight * np.interp(x, np.linspace(0, 1, knots), rng.random(knots))
    return 0.2 + 0.8 * (line - line.min()) / (line.max() - line.min())


def _draw_hills(canvas: _Canvas, has_lake: bool) -> np.ndarray:
    """Three hills from far to near; returns the heights of their crests, (3, 65)."""
    rng, mood = canvas.rng, canvas.mood
    grass = np.array(mood.grass) * rng.uniform(0.92, 1.08, 3)
    frequency, height = np.array([[0.6], [1.5]]), np.array([[0.025], [0.012]])
    crests = []
    for top in (-0.015, 0.16 if has_lake else 0.1, 0.28):
        waves = height * np.sin(2 * np.pi * (frequency * _ACROSS + rng.random((2, 1))))
        crests.append(canvas.horizon + top + waves.sum(0))
    if has_lake:  # the far hill slopes down into the water
        towards = _ACROSS if rng.random() < 0.5 else 1 - _ACROSS
        crests[0] += np.logaddexp(0, 14 * (towards - rng.uniform(0.15, 0.5))) * 0.035
    for y, tone, haze in zip(crests, (1.0, 0.95, 0.88), (0.4, 0.18, 0.0), strict=True):
        color = _mix(grass * tone, mood.haze, haze * (0.5 + mood.mist))
        canvas.below(_ACROSS, y, color, MEADOW)
    return np.stack(crests)


def _draw_tufts(canvas: _Canvas) -> None:
    """Tufts of grass near us; they are part of the meadow, so only colour is drawn."""
    rng = canvas.rng
    grass, sizes = np.array(canvas.mood.grass), rng.random(25)
    feet = np.stack([rng.random(25), canvas.horizon + 0.25 + 0.4 * sizes], 1) * canvas.scale
    blades = np.array([[-4, 0], [-6, -9], [-1, -3], [0, -13], [2, -3], [7, -8], [4, 0]]) / 400
    tones = rng.choice([0.72, 0.8, 1.12], 25).tolist()
    for foot, size, tone in zip(feet, sizes, tones, strict=True):
        points = blades * (canvas.unit * (0.5 + size)) + foot
        canvas.color.polygon(points.ravel().tolist(), fill=_rgb(grass * tone))


def _draw_flowers(canvas: _Canvas, hills: np.ndarray) -> None:
    """Flowers in drifts; they are part of the meadow, so only colour is drawn."""
    rng = canvas.rng
    color = _pick(rng, [(250, 250, 245), (250, 214, 70), (226, 78, 60), (178, 130, 214)])
    spots = rng.random((4, 2))[rng.integers(4, size=60)] + rng.normal(0, 0.09, (60, 2))
    depth = np.abs(spots[:, 1])
    shore = hills.min(0).max()  # no flower grows in the lake
    y = max(canvas.horizon + 0.12, shore) + 0.02 + 0.45 * depth
    centres = np.stack([spots[:, 0], y], 1) * canvas.scale
    radii = (0.0015 + 0.006 * depth[:, None]) * canvas.unit
    for box in np.hstack([centres - radii, centres + radii]).tolist():
        canvas.color.ellipse(box, fill=color)


def _draw_sheep(pen: _Pen) -> None:
    is_black = pen.rng.random() < 0.1
    has_dark_face = pen.rng.random() < 0.8
    wool = np.array([76, 67, 64] if is_black else [240, 234, 222]) * pen.rng.uniform(0.9, 1.02)
    face = np.array([42, 37, 38] if is_black or has_dark_face else [216, 198, 182])
    turn, head = _pick(pen.rng, range(8)), 0.52 if pen.rng.random() < 0.7 else 0.3
    for x in (-0.3, -0.19, 0.1, 0.21):
        pen.box(x, 0.0, 0.07, 0.26, face * 0.9)
    pen.wool(turn, -0.02, 0.43, 0.41, 0.26, wool * (0.62, 0.62, 0.68))
    pen.wool(turn, 0.02 * pen.sun_side - 0.02, 0.46, 0.365, 0.215, wool)
    pen.ellipse(0.33, head + 0.06, 0.08, 0.035, face * 0.8)
    pen.ellipse(0.43, head, 0.105, 0.135, face)
    pen.ellipse(0.39, head + 0.12, 0.085, 0.06, wool)


def _draw_crowd(pen: _Pen) -> None:
    """A distant flock: one segment, because nobody could tell its sheep apart."""
    spots = pen.rng.uniform(-1, 1, (pen.rng.integers(14, 26), 2)) * (0.38, 0.07)
    for x, y in spots[np.argsort(-spots[:, 1])].tolist():
        pen.ellipse(x, y + 0.05, 0.07, 0.048, np.array([160, 154, 156]))
        pen.ellipse(x, y + 0.06, 0.06, 0.036, np.array([232, 226, 216]))
        pen.ellipse(x + 0.065, y + 0.065, 0.022, 0.024, np.array([60, 54, 56]))


def _draw_round_tree(pen: _Pen) -> None:
    pen.polygon([(-0.055, 0), (0.06, 0), (0.03, 0.5), (-0.03, 0.5)], np.array([104, 78, 58]))
    blobs = np.array([[0, 0.62, 0.24], [-0.17, 0.56, 0.16], [0.18, 0.58, 0.16],
                      [0.06, 0.8, 0.18], [-0.1, 0.76, 0.17]])  # fmt: skip
    pen.foliage(blobs + pen.rng.uniform(-0.03, 0.03, (5, 3)), _leaf(pen.rng))


def _draw_conifer(pen: _Pen) -> None:
    leaf = _leaf(pen.rng) * (0.62, 0.78, 0.85)
    pen.box(-0.035, 0.0, 0.07, 0.2, np.array([88, 66, 52]))
    across = np.linspace(0, 1, 5) * pen.sun_side
    for i in range(5):
        bottom = 0.12 + 0.15 * i
        half = np.stack([across * (0.23 - 0.038 * i), bottom + 0.03 * (np.arange(5) % 2)], 1)
        tip = [[0, bottom + 0.29]]
        pen.polygon(np.vstack([tip, half * (-1, 1)]), leaf * (0.78 + 0.06 * i))
        pen.polygon(np.vstack([tip, half]), leaf * (1.02 + 0.07 * i))


def _draw_birch(pen: _Pen) -> None:
    """Its bare trunk cuts what stands behind it in two."""
    pen.polygon([(-0.03, 0), (0.03, 0), (0.015, 0.8), (-0.015, 0.8)], np.array([228, 222, 212]))
    for y in pen.rng.uniform(0.03, 0.55, 6):
        pen.box(-0.02 if y > 0.3 else 0.0, y, 0.02, 0.012, np.array([84, 78, 76]))
    blobs = np.array([[0, 0.72, 0.13], [0.08, 0.79, 0.1], [-0.08, 0.8, 0.1], [0.01, 0.9, 0.1]])
    pen.foliage(blobs, _leaf(pen.rng) * 1.08)


def _draw_house(pen: _Pen) -> None:
    walls = [(240, 230, 210), (226, 190, 140), (196, 92, 74), (168, 186, 196), (236, 214, 190)]
    roofs = [(168, 84, 62), (94, 92, 104), (122, 78, 58), (146, 66, 60)]
    wall = np.array(_pick(pen.rng, walls)) * pen.rng.uniform(0.94, 1.04)
    roof = np.array(_pick(pen.rng, roofs)) * pen.rng.uniform(0.9, 1.1)
    front, side = (0.76, 1.0) if pen.sun_side > 0 else (1.0, 0.76)
    glass = np.array([255, 214, 120] if pen.canvas.mood.glow > 0.6 else [84, 104, 124])
    frame = np.array([250, 246, 238])
    pen.polygon([(-0.05, 0), (0.5, 0.04), (0.5, 0.42), (-0.05, 0.42)], wall * side)
    pen.polygon(
        [(-0.5, 0.03), (-0.05, 0), (-0.05, 0.42), (-0.275, 0.72), (-0.5, 0.42)], wall * front
    )
    pen.box(0.18, 0.6, 0.1, 0.26, roof * 0.7)
    pen.polygon([(-0.29, 0.77), (0.32, 0.74), (0.57, 0.39), (-0.01, 0.36)], roof)
    pen.polygon([(-0.29, 0.77), (-0.57, 0.39), (-0.52, 0.37), (-0.275, 0.7)], roof * 0.72)
    pen.box(-0.33, 0.02, 0.13, 0.22, roof * 0.55)
    pen.ellipse(-0.27, 0.46, 0.065, 0.065, frame * front)
    pen.ellipse(-0.27, 0.46, 0.045, 0.045, glass)
    for x, y in ((0.08, 0.17), (0.3, 0.18)):
        pen.box(x, y, 0.13, 0.15, frame * side)
        pen.box(x + 0.02, y + 0.02, 0.09, 0.11, glass)


def _draw_balloon(pen: _Pen) -> None:
    palettes = [
        [(222, 72, 60), (250, 240, 224)], [(238, 160, 40), (60, 96, 160)],
        [(52, 128, 150), (246, 226, 150)], [(150, 80, 150), (248, 190, 90)],
        [(230, 110, 70), (252, 214, 110)],
    ]  # fmt: skip
    colors = np.array(_pick(pen.rng, palettes))
    for x in (-0.055, 0.04):
        pen.box(x, 0.08, 0.015, 0.16, np.array([90, 76, 64]))
    pen.box(-0.06, 0.0, 0.12, 0.11, np.array([134, 94, 60]))
    angle = np.radians(np.linspace(90, -40, 11))
    x, y = np.append(0.32 * np.cos(angle), 0.045), np.append(0.68 + 0.32 * np.sin(angle), 0.22)
    meridians = np.sin(np.linspace(-np.pi / 2, np.pi / 2, 8))
    for i, (left, right) in enumerate(zip(meridians, meridians[1:], strict=False)):
        gore = np.vstack([np.stack([x * left, y], 1), np.stack([x * right, y], 1)[::-1]])
        pen.polygon(gore, colors[i % 2])


def _backdrop(canvas: _Canvas, relief: np.ndarray) -> np.ndarray:
    """Sky and mountains at the final size, (3, h, w) in 0 … 255."""
    mood, rocks = canvas.mood, canvas.coverage(MOUNTAIN)
    light = np.clip(2.2 * mood.contrast * canvas.slope(relief, axis=1), -0.35, 0.35)
    mist = mood.mist * np.exp(-np.abs(canvas.horizon - canvas.y) / 0.08)
    image = canvas.pixels() * (1 + rocks * light)
    return _mix(image, _planes(mood.haze), rocks * mist) + canvas.coverage(SKY) * _sky(canvas)


def _sky(canvas: _Canvas) -> np.ndarray:
    """A gradient, the glow of the sun and clouds, (3, h, w) in 0 … 255."""
    mood, horizon = canvas.mood, canvas.horizon
    heights = [0, 0.6 * horizon, horizon]
    stops = zip(mood.zenith, mood.sky, mood.haze, strict=True)
    gradient = _float([np.interp(canvas.y, heights, channel) for channel in stops])
    distance = (canvas.x - canvas.sun) ** 2 + (canvas.y - 0.6 * horizon) ** 2
    glow = mood.glow * (0.6 * np.exp(-distance / 0.04) + 0.4 * np.exp(-((distance / 0.0016) ** 4)))
    clouds = canvas.noise((8, 3), (16, 6), (32, 14), (64, 32))
    density = np.clip(5 * (clouds + mood.cover - 0.8), 0, 0.92)
    light = np.clip(0.96 + 2.5 * canvas.slope(clouds, axis=0), 0.84, 1.02)
    return _mix(
        _mix(gradient, _planes((255, 240, 200)), glow), _planes(mood.cloud) * light, density
    )


def _water(canvas: _Canvas, backdrop: np.ndarray) -> np.ndarray:
    """The backdrop upside down, broken by ripples, (3, h, w) in 0 … 255."""
    height, width = canvas.shape
    ripples = canvas.noise((64, 6), (128, 16), (256, 64)) - 0.5
    depth = np.clip(canvas.y - canvas.horizon, 0, 1)
    rows = np.clip((canvas.horizon - depth * (1.2 + 0.5 * ripples)) * height, 0, None)
    mirrored = backdrop[:, rows.astype(int), np.arange(width)]
    water = _mix(mirrored, _planes(canvas.mood.zenith), 0.3)
    return water * (0.88 + (0.25 + depth) * ripples)


def _meadow_light(
    canvas: _Canvas, hills: np.ndarray, relief: np.ndarray, grain: np.ndarray
) -> np.ndarray:
    """Bright crests, uneven ground and grass that is rougher near us, (h, w) around 0."""
    light = np.zeros(canvas.shape, dtype=np.float32)
    for hill in hills:
        below = canvas.y - _float(np.interp(canvas.x, _ACROSS, hill))
        edge = np.clip(below * canvas.shape[0] + 0.5, 0, 1)
        slope = 0.2 * np.exp(-np.clip(below, 0, 1) / 0.05) - 0.25 * np.clip(below, 0, 0.4)
        light += edge * (canvas.mood.contrast * slope - light)
    near = np.clip((canvas.y - canvas.horizon) / (1 - canvas.horizon), 0, 1)
    return light + 0.4 * (relief - 0.5) + (0.1 + 0.4 * near) * (grain - 0.5)


def _shadows(canvas: _Canvas, things: list[_Thing]) -> np.ndarray:
    """Soft shadows on the ground, away from the sun: (h, w), 0 where there is none."""
    height, width = canvas.shape
    image = Image.new("L", (width, height))
    draw = ImageDraw.Draw(image)
    for thing in things:
        reach = _LOOKS[thing.label].shadow * thing.size * min(height, width)
        x, y = thing.x * width + (0.5 - canvas.sun) * 0.9 * reach, thing.y * height
        draw.ellipse([x - reach, y - 0.28 * reach, x + reach, y + 0.28 * reach], fill=255)
    image = image.filter(ImageFilter.BoxBlur(min(height, width) / 100))
    return np.asarray(image, dtype=np.float32) * (0.5 * canvas.mood.contrast / 255)


def _thing_light(
    canvas: _Canvas, things: list[_Thing], ids: np.ndarray, grain: np.ndarray
) -> np.ndarray:
    """Each thing is lighter towards the sun and rough: factors (3, h, w), 1 elsewhere."""
    height, width = canvas.shape
    shorter = min(height, width)
    table = np.zeros((4, FIRST_THING + len(things)), dtype=np.float32)
    for id, thing in enumerate(things, start=FIRST_THING):
        look = _LOOKS[thing.label]
        middle = thing.y - look.middle * thing.size * shorter / height
        table[:, id] = thing.x, middle, look.shading / thing.size, look.roughness
    x, y, shading, roughness = (np.take(row, ids) for row in table)
    towards = canvas.sun_side * (canvas.x - x) * width + 0.7 * (y - canvas.y) * height
    light = 1 + np.clip(canvas.mood.contrast / shorter * shading * towards, -0.35, 0.3)
    light += roughness * (grain - 0.5)
    return light * (1 + (ids >= FIRST_THING) * (_planes(canvas.mood.light) - 1))


def _woolly(turn: float) -> np.ndarray:
    """The outline of a round blob with eleven curls, (44, 2)."""
    angles = np.linspace(0, 2 * np.pi, 44, endpoint=False)
    radius = 1 + 0.07 * np.abs(np.sin(5.5 * angles + turn))
    return np.stack([radius * np.cos(angles), radius * np.sin(angles)], axis=1)


_WOOL = [_woolly(turn) for turn in np.linspace(0, np.pi, 8, endpoint=False)]
_ACROSS = np.linspace(0, 1, 65)  # where the heights of the hills are given


def _leaf(rng: np.random.Generator) -> np.ndarray:
    greens, yellow = [(86, 138, 58), (112, 146, 54), (66, 122, 70)], (196, 142, 52)
    return np.array(_pick(rng, [*greens * 3, yellow])) * rng.uniform(0.85, 1.1)


def _pick(rng: np.random.Generator, options: Sequence) -> Any:
    return options[rng.integers(len(options))]


def _mix(
    first: Sequence | np.ndarray, second: Sequence | np.ndarray, share: float | np.ndarray
) -> np.ndarray:
    first = _float(first)
    return first + (_float(second) - first) * share


def _planes(color: Sequence) -> np.ndarray:
    return _float(color)[:, None, None]


def _float(values: Sequence | np.ndarray) -> np.ndarray:
    return np.asarray(values, dtype=np.float32)


def _resize(field: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    return np.array(Image.fromarray(field).resize(shape[::-1], Image.Resampling.BICUBIC))


def _rgb(color: np.ndarray) -> tuple[int, ...]:
    return tuple(color.astype(int).tolist())  # Pillow clips to 0 … 255


def _check_size(size: int | tuple[int, int]) -> tuple[int, int]:
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(sides) != 2 or not all(isinstance(side, int) and side >= 32 for side in sides):
        raise ValueError(f"size must be one or two whole numbers of at least 32, not {size}")
    return sides


def _check_not_negative(**arguments: int) -> None:
    for name, value in arguments.items():
        if value < 0:
            raise ValueError(f"{name} must not be negative, it is {value}")


def _check_yes_or_no(**arguments: bool) -> None:
    for name, value in arguments.items():
        if not isinstance(value, bool):
            raise ValueError(f"{name} must be True or False, not {value!r}")
