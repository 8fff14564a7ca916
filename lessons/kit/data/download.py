"""Download the two small real data sets by pooch, check them, unpack them all or nothing."""

import os
import shutil
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lessons.kit import places
from lessons.kit.errors import LessonsError

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

    Where the package was installed without its clone, it is `data/` in the folder `places.my()`.
    Raises LessonsError where the variable is empty or has quotation marks or blanks around its
    path, is a file, or a relative path: that names another folder in a notebook, whose kernel
    works where the notebook is. The command line makes it absolute for all that it starts.
    """
    home = (places.ROOT if places.is_clone(places.ROOT) else places.my()) / "data"
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
    data. The folder appears under its name only when it is complete; where it is there, nothing
    is done. A transfer that broke off begins anew; an archive that is whole and found no room
    to be unpacked is kept, and is not fetched again.
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
    print(f"{name}: {archive.licence}\n{url} → {goal}")
    work = goal.with_name(goal.name + ".download")
    try:
        work.mkdir(parents=True, exist_ok=True)
        zipped = _fetch(url, work, timeout)
        if fault := _fault(zipped, archive.size) or _unpack(zipped, archive.top, goal):
            zipped.unlink()
            raise LessonsError(f"{url} sent no such archive ({fault}): {_ELSEWHERE}")
        shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        raise LessonsError(
            f"{error.filename or goal.parent} cannot be written ({_why(error)}): make room, or "
            "let $LESSONS_DATA name another folder, and run the command again"
        ) from error
    finally:
        with suppress(OSError):
            work.rmdir()  # unless the archive is kept in it
    return goal


def _fetch(url: str, folder: Path, timeout: float) -> Path:
    """Bring the whole archive into the folder, or nothing; one that is there already is taken."""
    import pooch  # here: all that reads images imports this file, and only this needs the web
    from requests import HTTPError, RequestException

    pooch.get_logger().setLevel("WARNING")  # what is fetched, and from where, has been said
    web = pooch.HTTPDownloader(progressbar=True, timeout=timeout, chunk_size=2**16)
    try:
        return Path(pooch.retrieve(url, None, "archive.zip", folder, downloader=web))
    except HTTPError as error:
        raise LessonsError(f"{url} answers {error.response.status_code}: {_ELSEWHERE}") from error
    except (RequestException, ValueError) as error:  # ValueError: a length that is no number
        raise LessonsError(
            f"{url} cannot be fetched ({_why(error)}): check the network and run the command again"
        ) from error


def _fault(zipped: Path, size: int | None) -> str | None:
    """What is wrong with the archive, if anything: its size, or one of its files."""
    if size not in (None, got := zipped.stat().st_size):
        return f"{got:,} bytes, not {size:,}"
    try:
        with zipfile.ZipFile(zipped) as files:
            damaged = files.testzip()
    except Exception as error:  # zipfile and its decoders raise many kinds on damaged bytes
        return _why(error)
    return damaged and f"{damaged} is damaged"


def _unpack(zipped: Path, top: str, goal: Path) -> str | None:
    """Turn the archive into the folder `goal`, by one rename at the end, or say what it lacks.

    A path that would leave the folder is bent back into it (`ZipFile.extractall`).
    """
    unpacked = zipped.with_name("unpacked")
    shutil.rmtree(unpacked, ignore_errors=True)  # of a run that was killed
    try:
        with zipfile.ZipFile(zipped) as files:
            files.extractall(unpacked)
        shutil.rmtree(unpacked / "__MACOSX", ignore_errors=True)
        if not any((unpacked / top).glob("*")):
            return f"{top or 'any file'} is not in it"
        (unpacked / top).rename(goal)
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)
    return None


def _why(error: BaseException) -> str:
    """The innermost reason in a few words, as in "Connection refused"."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    said = " ".join(str(getattr(error, "strerror", None) or error).split())
    return said[:100] or type(error).__name__
