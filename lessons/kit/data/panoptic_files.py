"""COCO's panoptic format from `Segments` and back: what the official tools read and score.

A set of answers is one JSON and a folder of PNGs beside it with the JSON's name. The PNG holds
an id for each pixel, R + 256·G + 65536·B, and 0 where there is no segment; the JSON holds the
category of each id. Areas and boxes are written because the format has them, and are not read.
"""

import json
import os
from collections.abc import Sequence
from operator import index as as_int
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int, UInt, UInt8
from PIL import Image
from torch import Tensor

from lessons.kit.data import Category, Segments, is_crowd
from lessons.kit.errors import LessonsError

LARGEST_ID = 256**3 - 1


def write_panoptic(
    path: Path | str,
    answers: Sequence[Segments],
    categories: Sequence[Category],
    *,
    names: Sequence[str] | None = None,
    category_ids: Sequence[int] | None = None,
    ids: Sequence[Int[Tensor, "_"]] | None = None,
) -> Path:
    """Write one answer for each image: `path` (DIR/NAME.json) and the PNGs in DIR/NAME/.

    `names` are those of the PNGs, without ending; 000000, 000001, … if none. Where all are
    numbers they are the images' ids too, else an image's id is its index. `category_ids` has
    the JSON's id of each label (a data set's own: `CocoPanoptic.category_ids`); label + 1 if
    none. `ids` has the ids of each image's segments; 1 … n if none. A mask without a pixel is
    left out. Files that are there are replaced, the JSON last. Returns the JSON's path.

    Raises ValueError, naming the image, for segments that overlap, a label that is no category,
    and an id that is used twice or is not one of 1 … 256³ − 1; LessonsError where the folder
    cannot be written.
    """
    path = Path(path)
    names = [f"{index:06d}" for index in range(len(answers))] if names is None else list(names)
    if len(names) != len(answers) or len(set(names)) < len(names):
        raise ValueError(f"names must be {len(answers)} different ones, one for each image")
    image_ids = [int(name) for name in names] if all(map(str.isdecimal, names)) else range(10**9)
    category_ids = range(1, len(categories) + 1) if category_ids is None else category_ids
    category_ids = [as_int(id_) for id_ in category_ids]  # NumPy's integers are none for JSON
    table: dict[str, list] = {"images": [], "annotations": [], "categories": []}
    for category, id_ in zip(categories, category_ids, strict=True):
        row = {"id": id_, "name": category.name, "isthing": int(category.is_thing)}
        table["categories"].append(row | {"color": list(category.color)})
    try:
        path.with_suffix("").mkdir(parents=True, exist_ok=True)
        for index, (answer, name, image_id) in enumerate(
            zip(answers, names, image_ids, strict=False)
        ):
            numbers = range(1, len(answer) + 1) if ids is None else ids[index].tolist()
            _check(index, answer, len(categories), numbers)
            h, w = answer.size
            image = {"id": image_id, "file_name": f"{name}.jpg", "height": h, "width": w}
            rows, pixels = _paint(index, answer, category_ids, numbers)
            place = {"image_id": image_id, "file_name": f"{name}.png", "segments_info": rows}
            table["images"].append(image)
            table["annotations"].append(place)
            _save_png(path.with_suffix("") / f"{name}.png", pixels)
        part = path.with_name(path.name + ".part")
        part.write_text(json.dumps(table), encoding="utf-8")
        os.replace(part, path)
    except OSError as error:
        raise LessonsError(
            f"{error.filename or path} cannot be written ({error.strerror}): choose another folder"
        ) from error
    return path


def read_panoptic(path: Path | str) -> tuple[list[Segments], list[Category]]:
    """What `write_panoptic` wrote, or COCO: the answers in the JSON's order, and the categories.

    A label is an index into the categories, in the JSON's order. Segments come in the order of
    `segments_info`. Raises LessonsError, naming the file, where it is missing, cannot be read,
    or JSON and PNG disagree.
    """
    path = Path(path)
    try:
        table = json.loads(path.read_bytes())
        categories = [
            Category(c["name"], bool(c["isthing"]), tuple(c.get("color", (128, 128, 128))))
            for c in table["categories"]
        ]
        label_of = {c["id"]: label for label, c in enumerate(table["categories"])}
        images = [
            (
                path.with_suffix("") / image["file_name"],
                [(s["id"], s["category_id"], s.get("iscrowd")) for s in image["segments_info"]],
            )
            for image in table["annotations"]
        ]
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise LessonsError(
            f"{path} cannot be read as panoptic annotations ({type(error).__name__}: {error})"
        ) from error
    return [_read(path, png, rows, label_of) for png, rows in images], categories


def masks_of_ids(
    rgb: UInt8[np.ndarray, "h w 3"], known: Int[np.ndarray, "n"]
) -> tuple[Bool[np.ndarray, "n h w"], str]:
    """The mask of each id in the colours of a PNG, and how a JSON with these ids is wrong, or "".

    The words stand between the names of the two files: "JSON lists segment 7, of which no pixel
    is in PNG".
    """
    red, green, blue = np.moveaxis(rgb.astype(np.int32), -1, 0)
    ids = red + 256 * green + 65536 * blue
    masks = ids == known[:, None, None]
    if len(set(known.tolist())) < len(known) or 0 in known:
        return masks, "gives two segments one id, or the id 0 of void, in"
    if not (present := masks.any(axis=(1, 2))).all():
        return masks, f"lists segment {known[~present][0]}, of which no pixel is in"
    if (stray := ids[(ids > 0) & ~masks.any(axis=0)]).size:
        return masks, f"does not list segment {stray[0]}, of which {stray.size} pixels are in"
    return masks, ""


def _read(
    path: Path, png: Path, rows: Sequence[tuple[Any, Any, Any]], label_of: dict[int, int]
) -> Segments:
    try:
        with Image.open(png) as image:
            rgb = np.array(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise LessonsError(f"{png} cannot be read as an image ({error})") from error
    known, kinds, crowds = ([row[column] for row in rows] for column in range(3))
    if wrong := [id_ for id_ in known if not _is_id(id_)]:
        problem = f"lists segment {wrong[0]!r}, which three bytes cannot hold, in"
    elif strange := [kind for kind in kinds if kind not in list(label_of)]:
        problem = f"knows no category {strange[0]!r}, which it gives to a segment of"
    elif strange := [crowd for crowd in crowds if crowd not in (None, 0, 1)]:
        problem = f"has iscrowd {strange[0]!r}, neither 0 nor 1, for a segment of"
    else:
        masks, problem = masks_of_ids(rgb, np.array(known, dtype=np.int64))
    if problem:
        raise LessonsError(f"{path} {problem} {png}")
    return Segments(
        torch.from_numpy(masks),
        torch.tensor([label_of[kind] for kind in kinds], dtype=torch.int64),
        is_crowd=torch.tensor([crowd == 1 for crowd in crowds], dtype=torch.bool),
    )


def _is_id(value: object) -> bool:
    """Whether a JSON's value is a whole number of three bytes; some tools write 7 as 7.0."""
    return type(value) in (int, float) and 0 <= value <= LARGEST_ID and value % 1 == 0


def _check(index: int, answer: Segments, num_categories: int, ids: Sequence[int]) -> None:
    """Raises ValueError, naming the image, for labels and ids that the format cannot hold."""
    for label in answer.labels.tolist():
        if not 0 <= label < num_categories:
            raise ValueError(f"image {index}: label {label} is none of {num_categories} categories")
    if len(ids) != len(answer) or len(set(ids)) < len(ids):
        raise ValueError(f"image {index}: ids must be {len(answer)} different ones, not {ids}")
    for id_ in ids:
        if type(id_) is not int or not 0 < id_ <= LARGEST_ID:
            raise ValueError(f"image {index}: id {id_} is not one of 1 … {LARGEST_ID}")


def _paint(
    index: int, answer: Segments, category_ids: Sequence[int], ids: Sequence[int]
) -> tuple[list[dict], UInt[np.ndarray, "h w"]]:
    """The rows of `segments_info`, and the id of each pixel."""
    rows: list[dict] = []
    pixels = np.zeros(answer.size, dtype="<u4")  # the lowest byte first: R, G, B, and a zero
    masks, labels, crowd = answer.masks.cpu().numpy(), answer.labels.tolist(), is_crowd(answer)
    for mask, label, is_group, id_ in zip(masks, labels, crowd.tolist(), ids, strict=True):
        area = int(np.count_nonzero(mask))
        if area:
            np.copyto(pixels, id_, where=mask)
            (y0, y1), (x0, x1) = (
                np.flatnonzero(mask.any(axis))[[0, -1]].tolist() for axis in (1, 0)
            )
            place = {"area": area, "bbox": [x0, y0, x1 - x0 + 1, y1 - y0 + 1]}
            kind = {"category_id": category_ids[label], "iscrowd": int(is_group)}
            rows.append({"id": id_} | kind | place)
    if sum(row["area"] for row in rows) > np.count_nonzero(pixels):
        count = np.count_nonzero(masks.sum(0) > 1)
        raise ValueError(f"image {index}: segments must be disjoint, {count} pixels are in two")
    return rows, pixels


def _save_png(path: Path, pixels: UInt[np.ndarray, "h w"]) -> None:
    rgb = pixels.view(np.uint8).reshape(*pixels.shape, 4)[..., :3]
    path.parent.mkdir(parents=True, exist_ok=True)  # of a name such as sub/000001
    part = path.with_name(path.name + ".part")
    Image.fromarray(np.ascontiguousarray(rgb)).save(part, format="PNG")
    os.replace(part, path)
