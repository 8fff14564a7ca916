"""Downloads from a server on this machine: whole, resumed, already there."""

import io
import random
import threading
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

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
    """Serves `content` as one file with an ETag, and remembers what it was asked for."""

    content = ZIP
    etag = '"first"'
    knows_ranges = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked = []  # the Range and If-Range of each request
        self.sent = []  # the status and the number of bytes of each answer
        self.url = f"http://127.0.0.1:{self.server_address[1]}/stage1_train.zip"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        content, wanted = self.server.content, self.headers["Range"]
        unchanged = self.headers["If-Range"] in (None, self.server.etag)
        self.server.asked.append((wanted, self.headers["If-Range"]))
        start = int(wanted[6:-1]) if wanted and unchanged and self.server.knows_ranges else 0
        status = 416 if start >= len(content) else 206 if start else 200
        body = b"" if status == 416 else content[start:]
        self.server.sent.append((status, len(body)))  # before the client can have it all
        place = "*" if status == 416 else f"{start}-{len(content) - 1}"
        self.send_response(status)
        if status != 200:
            self.send_header("Content-Range", f"bytes {place}/{len(content)}")
        self.send_header("ETag", self.server.etag)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

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


@pytest.fixture
def begun(tmp_path):
    """The first 100,000 bytes are there, with the ETag that came with them."""
    part = tmp_path / "nuclei" / "stage1_train.zip.part"
    part.parent.mkdir()
    part.write_bytes(ZIP[:100_000])
    part.with_suffix(".etag").write_text('"first"')
    return part


def files_below(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def is_complete(root):
    """Every file of the archive and nothing else: no archive, no part, no temporary folder."""
    folders = {path.name for path in (root / "nuclei").iterdir()}
    return folders == {"stage1_train"} and files_below(root / "nuclei" / "stage1_train") == FILES


def test_a_whole_download(server, tmp_path, capsys):
    assert download("nuclei", tmp_path, server.url) == tmp_path / "nuclei" / "stage1_train"
    assert is_complete(tmp_path)
    assert server.asked == [(None, None)] and server.sent == [(200, len(ZIP))]
    shown = capsys.readouterr()
    assert server.url in shown.out and "CC0" in shown.out
    assert "stage1_train.zip" in shown.err and "100%" in shown.err  # the bar


def test_into_the_data_root(server, tmp_path, monkeypatch):
    monkeypatch.setenv("LESSONS_DATA", str(tmp_path / "new" / "folder"))
    download("nuclei", url=server.url)
    assert is_complete(tmp_path / "new" / "folder")


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
    assert server.asked == [] and files_below(tmp_path) == {"nuclei/stage1_train/mine": b"kept"}
    assert "already there" in capsys.readouterr().out


def test_a_download_is_resumed(server, tmp_path, begun):
    download("nuclei", tmp_path, server.url)
    assert server.asked == [("bytes=100000-", '"first"')]
    assert server.sent == [(206, len(ZIP) - 100_000)]
    assert is_complete(tmp_path)


def test_a_download_is_resumed_without_an_etag(server, tmp_path, begun):
    begun.with_suffix(".etag").unlink()
    download("nuclei", tmp_path, server.url)
    assert server.asked == [("bytes=100000-", None)]
    assert server.sent == [(206, len(ZIP) - 100_000)]
    assert is_complete(tmp_path)


def test_a_server_that_ignores_the_range_sends_all(server, tmp_path, begun):
    server.knows_ranges = False
    download("nuclei", tmp_path, server.url)
    assert server.asked == [("bytes=100000-", '"first"')] and server.sent == [(200, len(ZIP))]
    assert is_complete(tmp_path)


def test_a_file_that_has_changed_is_fetched_anew(server, tmp_path, begun):
    begun.write_bytes(bytes(100_000))
    server.etag = '"second"'
    download("nuclei", tmp_path, server.url)
    assert server.asked == [("bytes=100000-", '"first"')] and server.sent == [(200, len(ZIP))]
    assert is_complete(tmp_path)


def test_a_whole_archive_is_only_unpacked(server, tmp_path, begun):
    begun.write_bytes(ZIP)
    download("nuclei", tmp_path, server.url)
    assert server.sent == [(416, 0)]
    assert is_complete(tmp_path)


def test_a_part_longer_than_the_file_is_fetched_anew(server, tmp_path, begun):
    begun.write_bytes(ZIP + b"more")
    download("nuclei", tmp_path, server.url)
    assert server.sent == [(416, 0), (200, len(ZIP))]
    assert is_complete(tmp_path)


def test_the_remains_of_a_killed_run_are_no_part_of_the_result(server, tmp_path):
    remains = tmp_path / "nuclei" / "stage1_train.unpacking" / "half"
    remains.mkdir(parents=True)
    (remains / "a.png").write_bytes(b"half")
    download("nuclei", tmp_path, server.url)
    assert is_complete(tmp_path)


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
