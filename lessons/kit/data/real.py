"""Real images as data sets: nuclei, pedestrians, COCO's panoptic annotations.

Each is a sequence of `Sample` with `.categories`, things before stuff, and `.names`. Which
images there are is read at construction; an image and its masks when they are asked for.
Whatever is wrong with a file ends in a LessonsError that names it and never in half a sample.

Images are read as a viewer shows them: grey, palette and CMYK become RGB, and an EXIF
orientation is applied to image and mask alike. 16 bits and transparent pixels are refused.
"""

import colorsys
import json
import operator
import re
from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int, UInt8
from torch.nn import functional as F

from lessons.kit.data import Category, Sample, Segments
from lessons.kit.data.download import ARCHIVES, data_root
from lessons.kit.data.files import (
    listed,
    must_have,
    read_colors,
    read_ids,
    read_image,
    read_mask,
)
from lessons.kit.data.panoptic_files import masks_of_ids
from lessons.kit.errors import LessonsError

NUCLEI_SPLITS: dict[str, list[str]] = json.loads(
    Path(__file__).with_name("nuclei.json").read_text(encoding="utf-8")
)
_COCO_IMAGES = {"train2017": "train2017.zip (18 GB)", "val2017": "val2017.zip (1 GB)"}
_COCO_MASKS = "panoptic_annotations_trainval2017.zip (821 MB)"


class _NamedImages(Sequence[Sample]):
    """What the data sets share: images that have names and are read one at a time."""

    names: Sequence[str]
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
    image of `<root>/nuclei/stage1_train`, in the archive 670 of several kinds and sizes, or of
    any other `folder` that has NAME/images/NAME.png and NAME/masks/*.png for each image.

    A mask is where its file is not black, or what is opaque in it; one of more than two values
    (soft edges, noise, a map of ids) is refused. A pixel that two masks claim belongs to the
    mask whose file name comes first; a mask that is left without a pixel is left out.

    Source: https://bbbc.broadinstitute.org/BBBC038, CC0. Raises LessonsError for a split that
    does not exist and for a file that is missing, cannot be read or has another size.
    """

    categories = [Category("nucleus", True, (230, 159, 0))]

    def __init__(
        self,
        split: str = "train",
        root: Path | str | None = None,
        folder: Path | str | None = None,
    ):
        if split not in (*NUCLEI_SPLITS, "all"):
            raise LessonsError(f"Nuclei has no split {split!r}: use train, test or all")
        layout = "NAME/images/NAME.png and NAME/masks/*.png for each image"
        self._folder, self._remedy = _home("nuclei", root, folder, layout)
        there = listed(self._folder, self._remedy)
        if split != "all" and (absent := sorted(set(NUCLEI_SPLITS[split]).difference(there))):
            raise LessonsError(
                f"{self._folder} lacks {len(absent)} of the {len(NUCLEI_SPLITS[split])} images of "
                f"the split {split}, as {absent[0]}: another set of nuclei is measured as "
                f"nuclei:all or nuclei:PATH, and {_elsewhere('nuclei')}"
            )
        # Beside the images' folders there may be files, such as a table of labels.
        self.names = NUCLEI_SPLITS[split] if split != "all" else self._folders(there)

    def _folders(self, there: Sequence[str]) -> list[str]:
        folders = [name for name in there if (self._folder / name).is_dir()]
        if not folders:
            raise LessonsError(f"{self._folder} has no folders of images in it: {self._remedy}")
        return folders

    def read(self, name: str) -> Sample:
        """The image of this name; one segment for each nucleus, in order of the mask files."""
        image = read_image(self._folder / name / "images" / f"{name}.png", self._remedy)
        folder = self._folder / name / "masks"
        files = listed(folder, self._remedy, ".png")
        masks = np.empty((len(files), *image.shape[:2]), dtype=bool)
        free = np.ones(image.shape[:2], dtype=bool)
        for mask, file in zip(masks, files, strict=True):
            np.logical_and(read_mask(folder / file, self._remedy, like=image), free, out=mask)
            free &= ~mask
        return _sample(image, masks[masks.any(axis=(1, 2))])


class PennFudan(_NamedImages):
    """Pedestrians in street scenes (Wang, Shi, Song & Shen, ACCV 2007): 170 images.

    One thing, "pedestrian", and no stuff: the background is void. Below `<root>/PennFudanPed`,
    or another `folder`, `PNGImages/<name>.png` has the image and `PedMasks/<name>_mask.png` a
    map of ids: 0 for the background, 1 … n for the pedestrians. The split "test" is the 33
    images whose number five divides (FudanPed00005, …, PennPed00095), "train" the other 137,
    "all" every image.

    Source: https://www.cis.upenn.edu/~jshi/ped_html/, which states no licence. Raises
    LessonsError for a split that does not exist and for a file that is missing, cannot be read
    or has another size.
    """

    categories = [Category("pedestrian", True, (0, 114, 178))]

    def __init__(
        self,
        split: str = "train",
        root: Path | str | None = None,
        folder: Path | str | None = None,
    ):
        if split not in ("train", "test", "all"):
            raise LessonsError(f"PennFudan has no split {split!r}: use train, test or all")
        layout = "PNGImages/NAME.png and PedMasks/NAME_mask.png for each image"
        self._folder, self._remedy = _home("pennfudan", root, folder, layout)
        images = listed(self._folder / "PNGImages", self._remedy, ".png")
        self._images = {image[: -len(".png")]: image for image in images}  # or .PNG
        masks = [f"{name}_mask.png" for name in self._images]
        must_have(self._folder / "PedMasks", masks, self._remedy)
        self.names = [n for n in self._images if split in ("all", pennfudan_split(n))]

    def read(self, name: str) -> Sample:
        """The image of this name; one segment for each pedestrian, in order of the ids."""
        image = read_image(self._folder / "PNGImages" / self._images[name], self._remedy)
        path = self._folder / "PedMasks" / f"{name}_mask.png"
        ids = read_ids(path, self._remedy, like=image)
        return _sample(image, ids == np.unique(ids[ids > 0])[:, None, None])


def pennfudan_split(name: str) -> str:
    """The split of an image: "test" where five divides the number at the end of its name."""
    number = re.search(r"[0-9]+$", name)
    return "test" if number and int(number[0]) % 5 == 0 else "train"


class CocoPanoptic(_NamedImages):
    """COCO 2017 with panoptic annotations (Lin et al. 2014, Kirillov et al. 2019).

    In the official layout below `<root>/coco`, or another `folder`: images in `<split>/`,
    segments in `annotations/panoptic_<split>.json` and `annotations/panoptic_<split>/`.
    Categories are all of the JSON's (80 things, then 53 stuff) in order of id; `category_ids`
    has the JSON's id of each label. Crowds are marked, void pixels belong to no segment. The
    masks are the PNG's, where a segment's id is R + 256·G + 65536·B; the JSON's areas and boxes
    are not read. Images come in order of their ids and are named as their PNGs.

    Source: https://cocodataset.org, annotations CC BY 4.0, each image under its own licence.
    Raises LessonsError for a split that does not exist, for a file that is missing, cannot be
    read or has another size, and where the JSON and a PNG disagree.
    """

    def __init__(
        self,
        split: str = "train2017",
        root: Path | str | None = None,
        folder: Path | str | None = None,
    ):
        folder = Path(folder) if folder else coco_folder(root)
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
        must_have(self._json.parent, [self._json.name], self._remedy)
        try:
            data = self._json.read_bytes()
            text = data.decode(json.detect_encoding(data))
            del data  # some hundred megabytes, which are not needed twice
            self._keep(json.loads(text, object_hook=_as_rows))
        except (KeyError, TypeError, ValueError, ArithmeticError, RecursionError, OSError) as error:
            raise LessonsError(
                f"{self._json} cannot be read as panoptic annotations "
                f"({type(error).__name__}: {error}): {self._remedy}"
            ) from error
        must_have(self._images, self._image_files.tolist(), self._remedy)
        must_have(self._masks, self._png_files.tolist(), self._remedy)

    def _keep(self, table: Mapping[str, Any]) -> None:
        """What is needed of the JSON, in a few arrays: there may be 118,287 images."""
        for key in ("categories", "images", "annotations"):
            if not isinstance(table, dict) or not table.get(key):
                self._refuse(f"cannot be read as panoptic annotations, it has no {key}")
        categories = sorted(table["categories"], key=lambda c: (not c["isthing"], c["id"]))
        self.category_ids = [category["id"] for category in categories]
        if len(set(self.category_ids)) < len(self.category_ids):
            self._refuse("gives two categories one id")
        self.categories = [
            Category(c["name"], bool(c["isthing"]), tuple(c.get("color", _color(c["id"]))))
            for c in categories
        ]
        annotations = sorted(table["annotations"], key=lambda a: a["image_id"])
        if not isinstance(annotations[0].get("segments_info"), np.ndarray):
            self._refuse("cannot be read as panoptic annotations, it has no segments_info")
        image_of = {image["id"]: image["file_name"] for image in table["images"]}
        for annotation in annotations:
            if annotation["image_id"] not in image_of:
                self._refuse(f"lists no image {annotation['image_id']}, which it has segments of")
        self._image_files = np.array([image_of[a["image_id"]] for a in annotations], dtype=str)
        self._png_files = np.array([a["file_name"] for a in annotations], dtype=str)
        self.names = [str(PurePosixPath(a["file_name"]).with_suffix("")) for a in annotations]
        if len(set(self.names)) < len(self.names):
            twice = Counter(self.names).most_common(1)[0][0]
            self._refuse(f"has two annotations of the name {twice}")
        # Of each segment the id, the label and whether it is a crowd, image after image.
        self._rows = np.concatenate([a["segments_info"] for a in annotations])
        self._first = np.cumsum([0] + [len(a["segments_info"]) for a in annotations])
        ids = np.array(self.category_ids)
        order = np.argsort(ids)
        at = np.searchsorted(ids, self._rows[:, 1], sorter=order).clip(max=len(ids) - 1)
        labels = order[at]
        if (strange := np.flatnonzero(ids[labels] != self._rows[:, 1])).size:
            segment, category, _ = self._rows[strange[0]]
            png = self._png_files[np.searchsorted(self._first, strange[0], side="right") - 1]
            self._refuse(
                f"gives segment {segment} of {png} the category {category}, which its own list "
                "lacks"
            )
        self._rows[:, 1] = labels

    def _refuse(self, what: str) -> None:
        raise LessonsError(f"{self._json} {what}: {self._remedy}")

    def __getitem__(self, index: int) -> Sample:
        return self._read(range(len(self))[operator.index(index)])

    def read(self, name: str) -> Sample:
        """The image of this name; one segment for each of the JSON's, in its order."""
        return self._read(self.names.index(name))

    def _read(self, place: int) -> Sample:
        known, labels, crowd = self._rows[self._first[place] : self._first[place + 1]].T
        png = self._masks / str(self._png_files[place])
        image = read_image(self._images / str(self._image_files[place]), self._remedy)
        masks, problem = masks_of_ids(read_colors(png, self._remedy, like=image), known)
        if problem:
            raise LessonsError(f"{self._json} {problem} {png}: {self._remedy}")
        return _sample(image, masks, labels.copy(), crowd)


def _as_rows(entry: dict[str, Any]) -> dict[str, Any]:
    """An object of the JSON; its segments become an array as soon as they are read."""
    if isinstance(entry.get("segments_info"), list):
        rows = [(s["id"], s["category_id"], s["iscrowd"]) for s in entry["segments_info"]]
        entry["segments_info"] = np.array(rows, dtype=np.int64).reshape(-1, 3)
    return entry


def coco_folder(root: Path | str | None = None) -> Path:
    """The folder with COCO's official layout, whether or not it is there."""
    return (data_root() if root is None else Path(root)) / "coco"


def coco_splits(folder: Path) -> list[str]:
    """Those of train2017 and val2017 of which both images and panoptic annotations are there."""
    return [
        split
        for split in _COCO_IMAGES
        if (folder / split).is_dir()
        and (folder / "annotations" / f"panoptic_{split}.json").exists()
    ]


class Chosen(Sequence[Sample]):
    """Some images of a data set, by index: a split of its own."""

    def __init__(self, source: Sequence[Sample], indices: Sequence[int]):
        self.source, self.indices = source, np.array(indices, dtype=np.int64)
        self.categories = source.categories
        self.names = [source.names[index] for index in self.indices]
        if hasattr(source, "category_ids"):
            self.category_ids = source.category_ids

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self.source[int(self.indices[operator.index(index)])]


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


def _home(
    name: str, root: Path | str | None, folder: Path | str | None, layout: str
) -> tuple[Path, str]:
    """A data set's folder, and what can be done where something in it is wrong.

    Raises LessonsError where it is missing.
    """
    archive = ARCHIVES[name]
    if folder is not None:
        home, remedy = Path(folder), f"a folder of {name} has {layout}"
        listed(home, remedy)
        return home, remedy
    home = (data_root() if root is None else Path(root)) / archive.folder
    get = f"run `lessons download {name}` (about {archive.megabytes} MB from {archive.url}) or"
    listed(home, f"{get} let $LESSONS_DATA name the folder that has {archive.folder}")
    return home, _elsewhere(name)


def _elsewhere(name: str) -> str:
    """How to have the original beside what is there, which stays."""
    return f"with $LESSONS_DATA naming another folder `lessons download {name}` gets the original"


def _color(number: int) -> tuple[int, int, int]:
    """A colour for the JSONs that have none: hues a golden section apart."""
    red, green, blue = colorsys.hsv_to_rgb(number * 0.618034 % 1, 0.65, 0.9)
    return round(255 * red), round(255 * green), round(255 * blue)
