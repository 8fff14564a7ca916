"""Downloads from a server on this machine: whole, resumed, already there."""

import io
import random
import threading
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from lessons.kit import places
from lessons.kit.data.download import ARCHIVES, download
from lessons.kit.data.real import Nuclei


def zipped(files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


NOISE = random.Random(0).randbytes(300_000)
FILES = {"x/images/x.png": NOISE, "x/masks/a.png": b"one", "x/masks/b.png": b"two"}
ZIP = zipped(FILES)


class Server(ThreadingHTTPServer):
    """Serves `content` as one file, and counts how often it was asked."""

    content = ZIP

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked = 0
        self.url = f"http://127.0.0.1:{self.server_address[1]}/stage1_train.zip"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked += 1
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.content)))
        self.end_headers()
        self.wfile.write(self.server.content)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def files_below(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def is_complete(root):
    """Every file of the data set and nothing else: no archive, no temporary folder."""
    folders = {path.name for path in (root / "nuclei").iterdir()}
    return folders == {"stage1_train"} and files_below(root / "nuclei" / "stage1_train") == FILES


def test_a_whole_download(server, tmp_path, capsys):
    assert download("nuclei", tmp_path, server.url) == tmp_path / "nuclei" / "stage1_train"
    assert is_complete(tmp_path)
    assert server.asked == 1
    shown = capsys.readouterr()
    assert server.url in shown.out and "CC0" in shown.out
    assert "100%" in shown.err and "SHA256" not in shown.err  # the bar, and none of pooch's advice


def test_into_the_data_root(server, tmp_path, monkeypatch):
    monkeypatch.setenv("LESSONS_DATA", str(tmp_path / "new" / "folder"))
    download("nuclei", url=server.url)
    assert is_complete(tmp_path / "new" / "folder")


def test_into_my_data_where_the_package_was_installed_without_its_clone(
    server, tmp_path, monkeypatch
):
    for name in ("LESSONS_DATA", "LESSONS_MY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(places, "ROOT", tmp_path / "site-packages")
    monkeypatch.chdir(tmp_path)
    download("nuclei", url=server.url)
    assert is_complete(tmp_path / "my" / "data") and [*tmp_path.iterdir()] == [tmp_path / "my"]


def test_an_archive_with_a_top_folder_of_known_size(server, tmp_path, monkeypatch):
    files = {f"PennFudanPed/{name}": content for name, content in FILES.items()}
    server.content = zipped(files | {"__MACOSX/PennFudanPed/._x": b"junk", "readme": b"more"})
    size = len(server.content)
    monkeypatch.setitem(ARCHIVES, "pennfudan", replace(ARCHIVES["pennfudan"], size=size))
    assert download("pennfudan", tmp_path, server.url) == tmp_path / "PennFudanPed"
    assert files_below(tmp_path) == files


def test_apples_extra_files_are_left_out(server, tmp_path):
    server.content = zipped(FILES | {"__MACOSX/x/._x.png": b"junk"})
    download("nuclei", tmp_path, server.url)
    assert is_complete(tmp_path)


def test_what_is_there_is_left_alone(server, tmp_path, capsys):
    folder = tmp_path / "nuclei" / "stage1_train"
    folder.mkdir(parents=True)
    (folder / "mine").write_text("kept")
    assert download("nuclei", tmp_path, server.url) == folder
    assert server.asked == 0 and files_below(tmp_path) == {"nuclei/stage1_train/mine": b"kept"}
    assert "already there" in capsys.readouterr().out


def test_a_whole_archive_is_only_unpacked(server, tmp_path):
    kept = tmp_path / "nuclei" / "stage1_train.download" / "archive.zip"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(ZIP)
    download("nuclei", tmp_path, server.url)
    assert server.asked == 0 and is_complete(tmp_path)


def test_the_remains_of_a_killed_run_are_no_part_of_the_result(server, tmp_path):
    work = tmp_path / "nuclei" / "stage1_train.download"
    (work / "unpacked" / "half").mkdir(parents=True)
    (work / "unpacked" / "half" / "a.png").write_bytes(b"half")
    (work / "tmp1234").write_bytes(ZIP[:1000])  # what pooch writes before it has all
    download("nuclei", tmp_path, server.url)
    assert server.asked == 1 and is_complete(tmp_path)


def test_what_is_downloaded_is_the_data_set(server, tmp_path):
    import numpy as np
    from PIL import Image

    def png(values):
        buffer = io.BytesIO()
        Image.fromarray(np.asarray(values, dtype=np.uint8)).save(buffer, "png")
        return buffer.getvalue()

    server.content = zipped({"x/images/x.png": png([[1, 2]]), "x/masks/a.png": png([[0, 255]])})
    download("nuclei", tmp_path, server.url)
    assert Nuclei("all", tmp_path)[0].segments.masks.tolist() == [[[False, True]]]


def test_the_archives_are_the_official_ones():
    assert {name: archive.url for name, archive in ARCHIVES.items()} == {
        "nuclei": "https://data.broadinstitute.org/bbbc/BBBC038/stage1_train.zip",
        "pennfudan": "https://www.cis.upenn.edu/~jshi/ped_html/PennFudanPed.zip",
    }
    assert ARCHIVES["pennfudan"].size == 53_723_336
