"""Download the two small real data sets: resumed, checked, and unpacked all or nothing."""

import os
import re
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from tqdm.auto import tqdm

from lessons.kit.errors import LessonsError

_AGAIN = "run the command again, it goes on where it stopped"
_ELSEWHERE = "try later, or unpack the archive from elsewhere yourself"


@dataclass(frozen=True)
class Archive:
    """A zip file on the web and the folder that it becomes."""

    url: str
    size: int | None  # bytes, where they are known
    megabytes: int  # about
    folder: str  # below the data root; it is there if and only if the data set is
    top: str  # the archive's own folder that becomes `folder`; "": all of the archive
    licence: str


ARCHIVES = {
    "nuclei": Archive(
        url="https://data.broadinstitute.org/bbbc/BBBC038/stage1_train.zip",
        size=None,
        megabytes=83,
        folder="nuclei/stage1_train",
        top="",
        licence="BBBC038 (Caicedo et al., Nature Methods 2019), CC0",
    ),
    "pennfudan": Archive(
        url="https://www.cis.upenn.edu/~jshi/ped_html/PennFudanPed.zip",
        size=53_723_336,
        megabytes=54,
        folder="PennFudanPed",
        top="PennFudanPed/",
        licence="Penn-Fudan pedestrians (Wang et al., ACCV 2007), which states no licence",
    ),
}


def data_root() -> Path:
    """The folder of the real images: `$LESSONS_DATA`, else `data/` at the root of the clone.

    Raises LessonsError where the variable is empty or has quotation marks or blanks around its
    path, is a file, or a relative path: that names another folder in a notebook, whose kernel
    works where the notebook is. The command line makes it absolute for all that it starts.
    """
    home = Path(__file__).parents[3] / "data"
    said = os.environ.get("LESSONS_DATA")
    if said is None:
        return home
    if not said.strip():
        raise LessonsError(f"LESSONS_DATA is empty: name a folder, or unset it to use {home}")
    if said != said.strip() or said[0] in "\"'" or said[-1] in "\"'":
        raise LessonsError(f"LESSONS_DATA is {said!r}: leave out what is around the path")
    try:
        root = Path(said).expanduser()
    except RuntimeError as error:  # ~nobody
        raise LessonsError(f"LESSONS_DATA is {said!r}: {error}") from None
    if not root.is_absolute():
        raise LessonsError(
            f"LESSONS_DATA is {said!r}, which would be another folder in each program: name the "
            "whole path"
        )
    if root.exists() and not root.is_dir():
        raise LessonsError(f"LESSONS_DATA is {said!r}, a file: name the folder of the images")
    return root


def download(
    name: str, root: Path | str | None = None, url: str | None = None, timeout: float = 30.0
) -> Path:
    """Fetch and unpack the data set `name`, "nuclei" or "pennfudan"; return its folder.

    `root` is `data_root()` unless given, `url` a mirror, `timeout` the seconds to wait for
    data. What arrives is kept as `….zip.part`, which the next call continues; the folder
    appears under its name only when it is complete. Where it is there, nothing is done.
    Raises LessonsError, naming the address or the file, where anything of it fails.
    """
    if name not in ARCHIVES:
        raise LessonsError(f"no data set {name!r} to download, choose from {', '.join(ARCHIVES)}")
    archive = ARCHIVES[name]
    goal = (data_root() if root is None else Path(root)) / archive.folder
    if goal.is_dir():
        print(f"{name} is already there: {goal}")
        return goal
    url = url or archive.url
    part = goal.with_name(goal.name + ".zip.part")
    print(f"{name}: {archive.licence}\n{url} → {goal}")
    made = [folder for folder in goal.parents if not folder.exists()]
    try:
        goal.parent.mkdir(parents=True, exist_ok=True)
        _fetch(url, part, archive.size, timeout)
        _unpack(part, goal, archive.top, url)
    except OSError as error:  # the network's own are LessonsErrors by now
        raise LessonsError(
            f"{error.filename or goal.parent} cannot be written ({_why(error)}): make room, or "
            "let $LESSONS_DATA name another folder, and run the command again"
        ) from error
    finally:
        for folder in made:  # the innermost first; what holds something stays
            with suppress(OSError):
                folder.rmdir()
    _remove(part)
    return goal


def _fetch(url: str, part: Path, size: int | None, timeout: float) -> None:
    """Bring `part` to the whole file at `url`, going on after the bytes that are there."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"Range": f"bytes={have}-"} if have else {}
    if have and _etag(part).exists():
        headers["If-Range"] = _etag(part).read_text()  # if it changed, it is sent from its start
    try:
        response = urlopen(Request(url, headers=headers), timeout=timeout)
    except HTTPError as error:
        error.close()
        if error.code != 416 or not have:  # 416: the file has nothing after those bytes
            raise LessonsError(f"{url} answers {error.code}: {_ELSEWHERE}") from error
        if error.headers.get("Content-Range") != f"bytes */{have}" or size not in (None, have):
            _remove(part)
            _fetch(url, part, size, timeout)
    except (OSError, HTTPException, ValueError) as error:
        raise LessonsError(f"{url} cannot be reached ({_why(error)}): check the network") from error
    else:
        with response:
            _save(response, url, part, have, size)


def _save(response: HTTPResponse, url: str, part: Path, have: int, size: int | None) -> None:
    """Write the body behind the `have` bytes of `part`, or from the start if that is sent."""
    start, total = _extent(response, size)
    if start not in (0, have) or size not in (None, total):
        _remove(part)
        raise LessonsError(
            f"{url} offers bytes {start} to {total}, not {have} to {size or total}: {_ELSEWHERE}"
        )
    _etag(part).unlink(missing_ok=True)
    if (etag := response.headers.get("ETag", "")).startswith('"'):  # W/"…" promises too little
        _etag(part).write_text(etag)
    bar = tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=part.stem)
    with part.open("ab" if start else "wb") as file, bar:
        for block in _blocks(response, url):
            file.write(block)
            bar.update(len(block))
    if total and (got := part.stat().st_size) != total:
        if got > total:
            _remove(part)
        raise LessonsError(f"{url} sent {got:,} of {total:,} bytes: {_AGAIN}")


def _extent(response: HTTPResponse, size: int | None) -> tuple[int, int | None]:
    """The first byte that is sent and the size of the whole file, `size` where it is not told."""
    if response.status == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
        return (int(match[1]), int(match[2])) if match else (-1, size)
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdigit() else size


def _blocks(response: HTTPResponse, url: str) -> Iterator[bytes]:
    try:
        while block := response.read(1 << 16):
            yield block
    except (OSError, HTTPException) as error:
        raise LessonsError(f"{url} broke off ({_why(error)}): {_AGAIN}") from error


def _unpack(part: Path, goal: Path, top: str, url: str) -> None:
    """Turn the archive into the folder `goal`, which appears by one rename at the end."""
    unpacked = goal.with_name(goal.name + ".unpacking")
    shutil.rmtree(unpacked, ignore_errors=True)  # of a run that was killed
    try:
        names = _members(part, top)
    except Exception as error:  # zipfile and its decoders raise many kinds on damaged bytes
        _remove(part)
        raise LessonsError(f"{url} sent no such archive ({_why(error)}): {_ELSEWHERE}") from error
    try:
        with zipfile.ZipFile(part) as archive:
            for name in tqdm(names, desc=f"unpacking {goal.name}", unit="file"):
                archive.extract(name, unpacked)
        (unpacked / top).rename(goal)
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)


def _members(part: Path, top: str) -> list[str]:
    """The names below `top` in the archive; raises where one is damaged or leaves the folder."""
    with zipfile.ZipFile(part) as archive:
        if damaged := archive.testzip():
            raise zipfile.BadZipFile(f"{damaged} is damaged")
        names = [n for n in archive.namelist() if n.startswith(top) and "__MACOSX/" not in n]
    if outside := [n for n in names if ".." in Path(n).parts or Path(n).is_absolute()]:
        raise zipfile.BadZipFile(f"{outside[0]} would leave the folder")
    if not names:
        raise zipfile.BadZipFile(f"{top or 'any file'} is not in it")
    return names


def _etag(part: Path) -> Path:  # the server's name for the version of the file in `part`
    return part.with_suffix(".etag")


def _remove(part: Path) -> None:
    for file in (part, _etag(part)):
        file.unlink(missing_ok=True)


def _why(error: BaseException) -> str:
    reason = getattr(error, "reason", error)
    said = " ".join(str(getattr(reason, "strerror", None) or reason).split())
    return said[:100] or type(reason).__name__
