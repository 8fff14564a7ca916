"""Folders and image files of real data: read rightly, or refused in a sentence that names them.

`remedy` is how such a sentence ends: what the user can do. It never is to delete something.
"""

import io
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from lessons.kit.errors import LessonsError

_JUNK = {"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "icon\r"}
_IMAGES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp")


def listed(folder: Path, remedy: str, suffix: str = "") -> list[str]:
    """The names in the folder that end in `suffix`, sorted; what systems leave there is not.

    Hidden files, Thumbs.db, desktop.ini and __MACOSX are left out. Raises LessonsError where
    the folder is missing, cannot be read or has no such name, and, with a suffix, where it has
    an image of another kind: that would otherwise be overlooked.
    """
    try:
        names = os.listdir(folder)
    except FileNotFoundError as error:
        raise LessonsError(f"{folder} is missing: {remedy}") from error
    except OSError as error:
        raise LessonsError(
            f"{folder} cannot be read ({error.strerror}): make it a folder that you may read"
        ) from error
    names = sorted(name for name in names if name[0] != "." and name.lower() not in _JUNK)
    if suffix:
        for name in names:
            if name.lower().endswith(_IMAGES) and not name.lower().endswith(suffix):
                raise LessonsError(f"{folder / name} is an image, but no {suffix}: {remedy}")
        names = [name for name in names if name.lower().endswith(suffix)]
    if not names:
        raise LessonsError(f"{folder} has no {suffix or 'images'} in it: {remedy}")
    return names


def must_have(folder: Path, needed: Iterable[str], remedy: str) -> None:
    """Raises LessonsError where one of the needed files, "x.png" or "sub/x.png", is not there."""
    by_folder: dict[str, set[str]] = {}
    for file in needed:
        parent, _, name = file.rpartition("/")
        by_folder.setdefault(parent, set()).add(name)
    absent = []
    for parent, names in by_folder.items():
        there = listed(folder / parent, remedy)
        absent += [folder / parent / name for name in names.difference(there)]
    if absent:
        more = f" and {len(absent) - 1} more are" if len(absent) > 1 else " is"
        raise LessonsError(f"{min(absent)}{more} missing: {remedy}")


def read_image(path: Path, remedy: str) -> UInt8[np.ndarray, "h w 3"]:
    """The image's RGB values: grey, palette and CMYK are converted, an EXIF orientation applied.

    Raises LessonsError where it cannot be read, where a channel has more than 8 bits, which
    Pillow would clip, and where a pixel is transparent: its colour is nobody's.
    """
    image = _opened(path, remedy)
    _must_have_8_bits(image, path, remedy)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema()[0] < 255:
            raise LessonsError(f"{path} is transparent in places, save it without: {remedy}")
    return np.array(image.convert("RGB"))


def read_mask(path: Path, remedy: str, like: UInt8[np.ndarray, "h w 3"]) -> Bool[np.ndarray, "h w"]:
    """Where the mask's file is not black; where all that is opaque has one colour: the opaque.

    So palettes, 1, 8 or 16 bits and alpha channels mean what is seen. A file of more than two
    values (a soft edge, the noise of a JPEG, a map of ids) is refused and not thresholded:
    which of its pixels are inside is not known. Raises LessonsError for it, and where the file
    cannot be read or has another size than the image `like`.
    """
    image = _opened(path, remedy)
    opaque = None
    if image.mode[0] in "IF":
        values = np.array(image)
    else:
        if image.has_transparency_data:
            image = image.convert("RGBA")
            alpha = np.array(image.getchannel("A"))
            if not alpha.any():
                raise LessonsError(f"{path} is wholly transparent: {remedy}")
            opaque = _two_values(alpha, path, "degrees of transparency", remedy)
        if image.mode not in ("L", "1"):
            rgb = np.array(image.convert("RGB"), dtype=np.int32)
            values = rgb[..., 0] + 256 * rgb[..., 1] + 65536 * rgb[..., 2]
        else:
            values = np.array(image)
    _must_be_like(values, like, path, remedy)
    if opaque is None or opaque.all():
        return _two_values(values, path, "values", remedy)
    inside = values[opaque]
    if inside.min() == inside.max():
        return opaque
    return opaque & _two_values(values * opaque, path, "values", remedy)


def _two_values(values: np.ndarray, path: Path, what: str, remedy: str) -> Bool[np.ndarray, "h w"]:
    """Where the values are not 0. Raises LessonsError where they are not 0 and one other."""
    inside = values != 0
    if (values[inside] != values.max()).any():
        count = len(np.unique(values))
        raise LessonsError(
            f"{path} has {count} {what}, a mask is 0 outside and has one value inside: {remedy}"
        )
    return inside


def read_ids(path: Path, remedy: str, like: UInt8[np.ndarray, "h w 3"]) -> Int[np.ndarray, "h w"]:
    """The numbers that are stored: grey levels, or the entries of a palette, not its colours.

    Raises LessonsError where the file cannot be read, has colours or fractions, or another
    size than the image `like`.
    """
    ids = np.array(_opened(path, remedy))
    if ids.ndim != 2 or ids.dtype.kind == "f":
        kind = "a colour image" if ids.ndim != 2 else "of fractions"
        raise LessonsError(f"{path} is {kind}, not a map of ids: {remedy}")
    _must_be_like(ids, like, path, remedy)
    return ids.astype(np.int32)


def read_colors(
    path: Path, remedy: str, like: UInt8[np.ndarray, "h w 3"]
) -> UInt8[np.ndarray, "h w 3"]:
    """The colours, in which COCO's ids are. As `read_image`, of the size of the image `like`."""
    rgb = read_image(path, remedy)
    _must_be_like(rgb, like, path, remedy)
    return rgb


def _opened(path: Path, remedy: str) -> Image.Image:
    """The image, decoded, its checksums verified and turned as its EXIF orientation says."""
    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            image.verify()  # the checksums, which decoding does not look at
        with Image.open(io.BytesIO(data)) as image:
            return ImageOps.exif_transpose(image)
    except FileNotFoundError as error:
        raise LessonsError(f"{path} is missing: {remedy}") from error
    except UnidentifiedImageError as error:
        raise LessonsError(
            f"{path} cannot be read as an image (of no known kind): {remedy}"
        ) from error
    except Exception as error:  # Pillow's decoders raise many kinds on damaged bytes
        why = " ".join(str(getattr(error, "strerror", None) or error).split())[:100]
        why = why or type(error).__name__
        raise LessonsError(f"{path} cannot be read as an image ({why}): {remedy}") from error


def _must_have_8_bits(image: Image.Image, path: Path, remedy: str) -> None:
    if image.mode[0] in "IF":
        raise LessonsError(
            f"{path} has more than 8 bits per channel, and which of them count is not known, "
            f"save it with 8: {remedy}"
        )


def _must_be_like(
    values: np.ndarray, like: UInt8[np.ndarray, "h w 3"], path: Path, remedy: str
) -> None:
    if values.shape[:2] != like.shape[:2]:
        (h, w), (height, width) = values.shape[:2], like.shape[:2]
        raise LessonsError(f"{path} is {h}×{w} but its image is {height}×{width}: {remedy}")
