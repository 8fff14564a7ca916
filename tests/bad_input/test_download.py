"""What a user is told when a download fails, and what is left behind: nothing half-written."""

import io
import random
import socket
import struct
import threading
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pooch
import pytest

from lessons.kit.data.download import ARCHIVES, download
from lessons.kit.errors import LessonsError


def zipped(files, compression=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


NOISE = random.Random(0).randbytes(300_000)
FILES = {"x/images/x.png": NOISE, "x/masks/a.png": b"one"}
ZIP = zipped(FILES)
HALF = len(ZIP) // 2


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked += 1
        self.server.answer(self)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    """A server at `.url`; a test says in `.answer` what it does with a request."""
    monkeypatch.setenv("no_proxy", "*")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.asked, server.over = 0, threading.Event()
        server.url = f"http://127.0.0.1:{server.server_address[1]}/stage1_train.zip"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.over.set()
        server.shutdown()
        thread.join()


def answer(content, length=None, status=200, then=None, **headers):
    """An answer that announces `length` bytes, sends `content` and then does `then(handler)`."""

    def send(handler):
        handler.send_response(status)
        if length != "untold":
            handler.send_header("Content-Length", str(length or len(content)))
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(content)
        if then:
            then(handler)

    return send


def message(root, url=None, name="nuclei", timeout=5.0):
    """The one sentence that the download ends with; nothing may have its final name."""
    with pytest.raises(LessonsError) as caught:
        download(name, root, url, timeout)
    text = str(caught.value)
    assert "\n" not in text
    assert not (root / "nuclei" / "stage1_train").exists()
    return text


def left(root):
    return {path.name: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def is_complete(root):
    folder = root / "nuclei" / "stage1_train"
    return left(root) == {Path(n).name: c for n, c in FILES.items()} and folder.is_dir()


def test_an_unknown_data_set(tmp_path):
    text = message(tmp_path, name="cityscapes")
    assert "'cityscapes'" in text and "nuclei, pennfudan" in text
    assert left(tmp_path) == {}


@pytest.mark.parametrize("status", [403, 404, 500, 503])
def test_an_error_of_the_server(server, tmp_path, status):
    server.answer = answer(b"<html>", status=status)
    text = message(tmp_path, server.url)
    assert server.url in text and f"answers {status}" in text
    assert left(tmp_path) == {}


def test_a_refused_connection(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/x.zip"
        text = message(tmp_path, url)
    assert url in text and "Connection refused" in text and "check the network" in text
    assert left(tmp_path) == {}


def test_a_name_that_no_server_has(tmp_path, monkeypatch):
    def getaddrinfo(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    text = message(tmp_path)
    assert ARCHIVES["nuclei"].url in text and "Name or service not known" in text


@pytest.mark.parametrize("url", ["nowhere", "http://", "gopher://x/y.zip", "http://a b/c"])
def test_an_address_that_is_none(tmp_path, url):
    assert url in message(tmp_path, url)


def test_a_server_that_is_none(server, tmp_path):
    server.answer = lambda handler: handler.wfile.write(b"hello\r\n\r\n")
    assert server.url in message(tmp_path, server.url)
    server.answer = lambda handler: None  # hangs up at once
    assert server.url in message(tmp_path, server.url)


def test_cut_off_then_fetched_anew(server, tmp_path):
    server.answer = answer(ZIP[:HALF], length=len(ZIP))
    text = message(tmp_path, server.url)
    assert server.url in text and f"{HALF} bytes read" in text and "again" in text
    assert left(tmp_path) == {}
    server.answer = answer(ZIP)
    download("nuclei", tmp_path, server.url)
    assert server.asked == 2 and is_complete(tmp_path)


def test_a_length_that_is_no_number(server, tmp_path):
    server.answer = answer(ZIP, length="many")
    assert server.url in message(tmp_path, server.url)
    assert left(tmp_path) == {}


def test_a_connection_that_is_reset(server, tmp_path):
    def reset(handler):
        handler.wfile.flush()
        linger = struct.pack("ii", 1, 0)
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        handler.connection.close()

    server.answer = answer(ZIP[:HALF], length=len(ZIP), then=reset)
    text = message(tmp_path, server.url)
    assert server.url in text and "again" in text
    assert left(tmp_path) == {}


def test_a_server_that_stalls(server, tmp_path):
    stall = lambda handler: server.over.wait(20)  # noqa: E731
    server.answer = answer(ZIP[:HALF], length=len(ZIP), then=stall)
    text = message(tmp_path, server.url, timeout=0.2)
    assert server.url in text and "timed out" in text and "again" in text
    assert left(tmp_path) == {}


def test_a_server_that_never_answers(server, tmp_path):
    server.answer = lambda handler: server.over.wait(20)
    text = message(tmp_path, server.url, timeout=0.2)
    assert server.url in text and "timed out" in text
    assert left(tmp_path) == {}


@pytest.fixture
def pennfudan(monkeypatch):
    """As if the archive of known size were as small as the one that is served."""
    monkeypatch.setitem(ARCHIVES, "pennfudan", replace(ARCHIVES["pennfudan"], size=len(ZIP)))
    return "pennfudan"


@pytest.mark.parametrize("length", [None, "untold"])
@pytest.mark.parametrize("content", [ZIP + b"more", ZIP[:-9], b"<html>not found</html>"])
def test_a_wrong_size(server, tmp_path, pennfudan, content, length):
    server.answer = answer(content, length=length)
    text = message(tmp_path, server.url, pennfudan)
    assert server.url in text and f"{len(content):,} bytes, not {len(ZIP):,}" in text
    assert left(tmp_path) == {}


def test_cut_off_without_announcement(server, tmp_path):
    server.answer = answer(ZIP[:HALF], length="untold")  # and of a size that is not known here
    assert "no such archive" in message(tmp_path, server.url)
    assert left(tmp_path) == {}


MISPLACED = bytearray(ZIP)
MISPLACED[-6:-2] = b"\xff" * 4  # where its directory is: zipfile raises an OSError
DAMAGED = bytearray(ZIP)
DAMAGED[1000] ^= 1
DEFLATED = bytearray(zipped({"x/a": bytes(range(256)) * 400}, zipfile.ZIP_DEFLATED))
DEFLATED[60:80] = bytes(20)
ENCRYPTED = bytearray(ZIP)
ENCRYPTED[6] |= 1  # the flag of the first file, here and in the directory at the end
ENCRYPTED[ZIP.rindex(b"PK\x01\x02", 0, ZIP.rindex(b"PK\x01\x02")) + 8] |= 1


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>please log in</html>",
        ZIP[:-30],
        bytes(MISPLACED),
        bytes(DAMAGED),
        bytes(DEFLATED),
        bytes(ENCRYPTED),
        zipped({}),
        zipped({"__MACOSX/x": b"only junk"}),
    ],
    ids=[
        "empty",
        "a page",
        "no end",
        "misplaced",
        "a bit",
        "deflate",
        "encrypted",
        "no files",
        "only junk",
    ],
)
def test_not_the_zip_archive(server, tmp_path, content):
    server.answer = answer(content, length=len(content))
    text = message(tmp_path, server.url)
    assert server.url in text and "sent no such archive" in text
    assert left(tmp_path) == {}


def test_an_archive_without_its_folder(server, tmp_path, pennfudan):
    server.answer = answer(ZIP)
    text = message(tmp_path, server.url, pennfudan)
    assert "PennFudanPed/ is not in it" in text
    assert left(tmp_path) == {} and not (tmp_path / "PennFudanPed").exists()


@pytest.mark.parametrize(
    "name", ["../escaped", "x/../../escaped", "x/../../../escaped", "/escaped"]
)
def test_a_path_that_leaves_the_folder_is_bent_back_into_it(server, tmp_path, name):
    server.answer = answer(zipped(FILES | {name: b"out"}))
    root = tmp_path / "a" / "b"
    goal = download("nuclei", root, server.url)
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) == len(FILES) + 1 and all(path.is_relative_to(goal) for path in written)
    assert not Path("/escaped").exists()


def full(*_, **__):
    raise OSError(28, "No space left on device")


def test_a_full_disk_while_downloading(server, tmp_path, monkeypatch):
    class FullDisk(pooch.HTTPDownloader):
        def __call__(self, url, output_file, *_, **__):
            with open(output_file, "wb") as file:
                super().__call__(url, type("Full", (), {"write": full, "flush": file.flush}), None)

    server.answer = answer(ZIP)
    monkeypatch.setattr(pooch, "HTTPDownloader", FullDisk)
    text = message(tmp_path, server.url)
    assert str(tmp_path / "nuclei") in text and "No space left" in text and "make room" in text
    assert left(tmp_path) == {} and server.asked == 1


def extract_then(stop):
    """`ZipFile.extractall` that writes the first file and then does `stop()`."""

    def extractall(archive, folder):
        archive.extract(archive.namelist()[0], folder)
        stop()

    return extractall


def test_a_disk_that_fills_while_unpacking(server, tmp_path, monkeypatch):
    server.answer = answer(ZIP)
    with monkeypatch.context() as patch:
        patch.setattr(zipfile.ZipFile, "extractall", extract_then(full))
        text = message(tmp_path, server.url)
    assert str(tmp_path / "nuclei") in text and "No space left" in text
    assert left(tmp_path) == {"archive.zip": ZIP}  # no need to fetch it again
    download("nuclei", tmp_path, server.url)
    assert server.asked == 1 and is_complete(tmp_path)


def test_an_interrupt_in_the_middle_of_unpacking(server, tmp_path, monkeypatch):
    def interrupt():
        raise KeyboardInterrupt

    server.answer = answer(ZIP)
    monkeypatch.setattr(zipfile.ZipFile, "extractall", extract_then(interrupt))
    with pytest.raises(KeyboardInterrupt):
        download("nuclei", tmp_path, server.url)
    assert left(tmp_path) == {"archive.zip": ZIP}
    assert [path.name for path in (tmp_path / "nuclei").iterdir()] == ["stage1_train.download"]


def test_a_folder_that_may_not_be_written(server, tmp_path, monkeypatch):
    def refuse(self, *_, **__):  # chmod would not stop a test that runs as root
        raise PermissionError(13, "Permission denied", str(self))

    server.answer = answer(ZIP)
    monkeypatch.setattr(Path, "mkdir", refuse)
    text = message(tmp_path, server.url)
    assert str(tmp_path / "nuclei") in text and "Permission denied" in text
    assert "$LESSONS_DATA" in text and server.asked == 0


def test_a_file_in_the_place_of_the_folder(server, tmp_path):
    (tmp_path / "nuclei").write_text("mine")
    server.answer = answer(ZIP)
    text = message(tmp_path, server.url)
    assert str(tmp_path / "nuclei") in text and "Not a directory" in text
    assert left(tmp_path) == {"nuclei": b"mine"}
