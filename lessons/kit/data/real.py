"""Real images as data sets: nuclei, pedestrians, COCO's panoptic annotations.

Each is a sequence of `Sample` with `.categories`, things before stuff, and `.names`. Which
images there are is read at construction; an image and its masks when they are asked for.
Whatever is wrong with a file ends in a LessonsError that names it and never in half a sample.
"""

import colorsys
import io
import json
import operator
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Int, UInt8
from PIL import Image
from torch.nn import functional as F

from lessons.kit.data import Category, Sample, Segments
from lessons.kit.data.download import ARCHIVES, data_root
from lessons.kit.data.panoptic_files import masks_of_ids
from lessons.kit.errors import LessonsError

_COCO_IMAGES = {"train2017": "train2017.zip (18 GB)", "val2017": "val2017.zip (1 GB)"}
_COCO_MASKS = "panoptic_annotations_trainval2017.zip (821 MB)"


class _NamedImages(Sequence[Sample]):
    """What the data sets share: images that have names and are read one at a time."""

    names: list[str]
    categories: list[Category]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        return self.read(self.names[operator.index(index)])

    @abstractmethod
    def read(self, name: str) -> Sample:
        """The image of this name with its segments."""


class Nuclei(_NamedImages):
    """Cell nuclei in microscope images (BBBC038: the Data Science Bowl of 2018, stage 1).

    One thing, "nucleus", and no stuff: the background is void. The splits "train" and "test"
    are the 160 and 40 fluorescence images, 256×256, that `nuclei.json` lists; "all" is every
    image of `<root>/nuclei/stage1_train`, in the archive 670 of several kinds and sizes.
    A pixel that two masks claim belongs to the mask whose file name comes first; a mask that
    is left without a pixel is left out.

    Source: https://bbbc.broadinstitute.org/BBBC038, CC0. Raises LessonsError for a split that
    does not exist and for a file that is missing, cannot be read or has another size.
    """

    def __init__(self, split: str = "train", root: Path | str | None = None):
        splits = json.loads(Path(__file__).with_name("nuclei.json").read_text())
        if split not in (*splits, "all"):
            raise LessonsError(f"Nuclei has no split {split!r}: use train, test or all")
        self._folder = _unpacked("nuclei", root)
        self._remedy = _again("nuclei", self._folder)
        self.names = splits[split] if split != "all" else _list(self._folder, self._remedy)
        _check(self._folder, self.names, self._remedy)
        self.categories = [Category("nucleus", True, (230, 159, 0))]

    def read(self, name: str) -> Sample:
        """The image of this name; one segment for each nucleus, in order of the mask files."""
        image = _pixels(self._folder / name / "images" / f"{name}.png", self._remedy, "RGB")
        folder = self._folder / name / "masks"
        files = _list(folder, self._remedy, ".png")
        masks = np.empty((len(files), *image.shape[:2]), dtype=bool)
        free = np.ones(image.shape[:2], dtype=bool)
        for mask, file in zip(masks, files, strict=True):
            grey = _pixels(folder / file, self._remedy, "L", like=image)
            np.logical_and(grey, free, out=mask)
            free &= ~mask
        return _sample(image, masks[masks.any(axis=(1, 2))])


class PennFudan(_NamedImages):
    """Pedestrians in street scenes (Wang, Shi, Song & Shen, ACCV 2007): 170 images.

    One thing, "pedestrian", and no stuff: the background is void. Below `<root>/PennFudanPed`,
    `PNGImages/<name>.png` has the image and `PedMasks/<name>_mask.png` a map of ids: 0 for the
    background, 1 … n for the pedestrians.

    Source: https://www.cis.upenn.edu/~jshi/ped_html/, which states no licence. Raises
    LessonsError for a file that is missing, cannot be read or has another size.
    """

    def __init__(self, root: Path | str | None = None):
        self._folder = _unpacked("pennfudan", root)
        self._remedy = _again("pennfudan", self._folder)
        images = _list(self._folder / "PNGImages", self._remedy, ".png")
        self.names = [image.removesuffix(".png") for image in images]
        masks = [f"{name}_mask.png" for name in self.names]
        _check(self._folder / "PedMasks", masks, self._remedy)
        self.categories = [Category("pedestrian", True, (0, 114, 178))]

    def read(self, name: str) -> Sample:
        """The image of this name; one segment for each pedestrian, in order of the ids."""
        image = _pixels(self._folder / "PNGImages" / f"{name}.png", self._remedy, "RGB")
        path = self._folder / "PedMasks" / f"{name}_mask.png"
        ids = _pixels(path, self._remedy, like=image)
        if ids.ndim != 2:
            raise LessonsError(f"{path} is a colour image, not a map of ids: {self._remedy}")
        return _sample(image, ids == np.unique(ids[ids > 0])[:, None, None])


class CocoPanoptic(_NamedImages):
    """COCO 2017 with panoptic annotations (Lin et al. 2014, Kirillov et al. 2019).

    In the official layout below `<root>/coco`: images in `<split>/`, segments in
    `annotations/panoptic_<split>.json` and `annotations/panoptic_<split>/`. Categories are
    all of the JSON's (80 things, then 53 stuff) in order of id; `category_ids` has the JSON's
    id of each label. Crowds are marked, void pixels belong to no segment. The masks are the
    PNG's, where a segment's id is R + 256·G + 65536·B; the JSON's areas and boxes are not read.

    Source: https://cocodataset.org, annotations CC BY 4.0, each image under its own licence.
    Raises LessonsError for a split that does not exist, for a file that is missing, cannot be
    read or has another size, and where the JSON and a PNG disagree.
    """

    def __init__(self, split: str = "train2017", root: Path | str | None = None):
        folder = (data_root() if root is None else Path(root)) / "coco"
        self._remedy = (
            f"unpack {_COCO_IMAGES[split]} and {_COCO_MASKS}, with the zip for {split} that is "
            f"in it, from https://cocodataset.org/#download into {folder} or let $LESSONS_DATA "
            "name the folder in which coco/ has them"
            if split in _COCO_IMAGES
            else f"COCO has the splits {' and '.join(_COCO_IMAGES)}, not {split!r}"
        )
        self._images = folder / split
        self._masks = folder / "annotations" / f"panoptic_{split}"
        self._json = self._masks.with_suffix(".json")
        _check(self._json.parent, [self._json.name], self._remedy)
        try:
            self._read_json(json.loads(self._json.read_bytes()))
        except (KeyError, TypeError, ValueError, OverflowError, OSError) as error:
            raise LessonsError(
                f"{self._json} cannot be read as panoptic annotations "
                f"({type(error).__name__}: {error}): {self._remedy}"
            ) from error
        _check(self._images, [image for image, _, _ in self._files.values()], self._remedy)
        _check(self._masks, [png for _, png, _ in self._files.values()], self._remedy)

    def _read_json(self, table: dict) -> None:
        categories = sorted(table["categories"], key=lambda c: (not c["isthing"], c["id"]))
        self.category_ids = [category["id"] for category in categories]
        self.categories = [
            Category(c["name"], bool(c["isthing"]), tuple(c.get("color", _color(c["id"]))))
            for c in categories
        ]
        label_of = {id_: label for label, id_ in enumerate(self.category_ids)}
        image_of = {image["id"]: image["file_name"] for image in table["images"]}
        self._files = {}  # by name: image, PNG, and id, label, iscrowd of each segment
        for annotation in sorted(table["annotations"], key=lambda a: a["image_id"]):
            png, segments = annotation["file_name"], annotation["segments_info"]
            for segment in segments:
                if segment["category_id"] not in label_of:
                    raise LessonsError(
                        f"{self._json} gives segment {segment['id']} of {png} the category "
                        f"{segment['category_id']}, which its own list lacks: {self._remedy}"
                    )
            rows = [(s["id"], label_of[s["category_id"]], s["iscrowd"]) for s in segments]
            rows = np.array(rows, dtype=np.int64).reshape(-1, 3)
            self._files[Path(png).stem] = image_of[annotation["image_id"]], png, rows
        self.names = list(self._files)

    def read(self, name: str) -> Sample:
        """The image of this name; one segment for each of the JSON's, in its order."""
        image_file, png, segments = self._files[name]
        known, labels, crowd = segments.T
        image = _pixels(self._images / image_file, self._remedy, "RGB")
        rgb = _pixels(self._masks / png, self._remedy, "RGB", like=image)
        masks, problem = masks_of_ids(rgb, known)
        if problem:
            raise LessonsError(f"{self._json} {problem} {self._masks / png}: {self._remedy}")
        return _sample(image, masks, labels, crowd)


class Smaller(Sequence[Sample]):
    """The first `count` images of a data set, shrunk until the longer side is `side` pixels.

    Images that are no larger stay as they are. A pixel's segment is that at its centre, so a
    segment may lose its last pixel: it is then left out. Raises ValueError for a side or a count
    below 1.
    """

    def __init__(self, source: Sequence[Sample], side: int, count: int):
        if side < 1 or count < 1:
            raise ValueError(f"side and count must be at least 1, not {side} and {count}")
        self.source, self.side, self.categories = source, side, source.categories
        self.names = source.names[:count]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        sample = self.source[range(len(self))[index]]
        height, width = sample.segments.size
        scale = self.side / max(height, width)
        if scale >= 1:
            return sample
        size = max(1, round(height * scale)), max(1, round(width * scale))
        image = F.interpolate(sample.image[None], size, mode="bilinear", antialias=True)[0]
        masks = F.interpolate(sample.segments.masks[None].byte(), size, mode="nearest-exact")[0] > 0
        kept = masks.flatten(1).any(dim=1)
        return Sample(image.clamp(0, 1), replace(sample.segments, masks=masks)[kept])


def _sample(
    image: UInt8[np.ndarray, "h w 3"],
    masks: Bool[np.ndarray, "n h w"],
    labels: Int[np.ndarray, "n"] | None = None,
    crowd: Int[np.ndarray, "n"] | None = None,
) -> Sample:
    """The same as tensors; without `labels` all are of class 0, without `crowd` none is one."""
    none = np.zeros(len(masks), dtype=np.int64)
    segments = Segments(
        masks=torch.from_numpy(masks),
        labels=torch.from_numpy(none if labels is None else labels),
        is_crowd=torch.from_numpy((none if crowd is None else crowd) > 0),
    )
    pixels = torch.from_numpy(image).permute(2, 0, 1).contiguous()
    return Sample(pixels.float() / 255, segments)


def _pixels(
    path: Path, remedy: str, mode: str | None = None, like: np.ndarray | None = None
) -> np.ndarray:
    """The image's values, (h, w) or (h, w, c), in Pillow's `mode` or as they are stored.

    Raises LessonsError where it cannot be read or has another height or width than `like`.
    """
    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            image.verify()  # the checksums, which decoding does not look at
        with Image.open(io.BytesIO(data)) as image:
            if mode and image.mode[0] in "IF":  # which Pillow would clip to 8 bits
                raise ValueError("it has more than 8 bits per channel")
            values = np.array(image.convert(mode) if mode else image)
    except FileNotFoundError as error:
        raise LessonsError(f"{path} is missing: {remedy}") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise LessonsError(f"{path} cannot be read as an image ({error}): {remedy}") from error
    if like is not None and values.shape[:2] != like.shape[:2]:
        (h, w), (height, width) = values.shape[:2], like.shape[:2]
        raise LessonsError(f"{path} is {h}×{w} but its image is {height}×{width}: {remedy}")
    return values


def _list(folder: Path, remedy: str, suffix: str = "") -> list[str]:
    """The names in the folder that end in `suffix`, sorted; hidden ones are left out."""
    try:
        names = [entry.name for entry in folder.iterdir() if entry.name.endswith(suffix)]
    except FileNotFoundError as error:
        raise LessonsError(f"{folder} is missing: {remedy}") from error
    except OSError as error:
        raise LessonsError(
            f"{folder} cannot be read ({error.strerror}): make it a folder that you may read"
        ) from error
    names = sorted(name for name in names if not name.startswith("."))
    if not names:
        raise LessonsError(f"{folder} has no {suffix or 'images'} in it: {remedy}")
    return names


def _check(folder: Path, needed: Iterable[str], remedy: str) -> None:
    """Raises LessonsError where one of the needed names is not in the folder."""
    if absent := sorted(set(needed) - set(_list(folder, remedy))):
        more = f" and {len(absent) - 1} more are" if len(absent) > 1 else " is"
        raise LessonsError(f"{folder / absent[0]}{more} missing: {remedy}")


def _unpacked(name: str, root: Path | str | None) -> Path:
    """The folder of a data set that `lessons download` knows; LessonsError where it is missing."""
    archive = ARCHIVES[name]
    folder = (data_root() if root is None else Path(root)) / archive.folder
    remedy = (
        f"run `lessons download {name}` (about {archive.megabytes} MB from {archive.url}) or let "
        f"$LESSONS_DATA name the folder that has {archive.folder}"
    )
    _list(folder, remedy)
    return folder


def _again(name: str, folder: Path) -> str:
    return f"remove {folder} and run `lessons download {name}`"


def _color(number: int) -> tuple[int, int, int]:
    """A colour for the JSONs that have none: hues a golden section apart."""
    red, green, blue = colorsys.hsv_to_rgb(number * 0.618034 % 1, 0.65, 0.9)
    return round(255 * red), round(255 * green), round(255 * blue)
