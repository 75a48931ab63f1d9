"""A download from a local server: whole, resumed, and in every way that a network fails."""

import functools
import hashlib
import http.server
import threading

import pytest

from jaxdiv import download
from jaxdiv.download import fetch
from jaxdiv.errors import InputError
from jaxdiv.probes.registry import load_probe

CONTENT = bytes(range(256)) * 4000
HASH = hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT: `/ranges` from where it is asked to, `/plain` always whole, `/breaks` half of it."""

    asked: list = []  # noqa: RUF012 (what every request of the server asked for)

    def do_GET(self):
        Handler.asked.append((self.path, self.headers.get("Range")))
        if self.path == "/gone":
            self.send_error(404)
            return
        start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-")) if self.headers["Range"] else 0
        start = 0 if self.path == "/plain" else start
        if start and start >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        self.wfile.write(CONTENT[start : len(CONTENT) // 2] if self.path == "/breaks" else CONTENT[start:])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    Handler.asked.clear()
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}"
    running.shutdown()
    running.server_close()


def refusal(call):
    with pytest.raises(InputError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_comes_whole_with_its_progress(server, tmp_path):
    shares = []
    fetch(f"{server}/plain", tmp_path / "deep" / "file", HASH[:8], shares.append)
    assert (tmp_path / "deep" / "file").read_bytes() == CONTENT
    assert shares == sorted(shares) and shares[-1] == 1.0 and len(shares) > 1
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["file"]


@pytest.mark.parametrize("path", ["ranges", "plain"])
def test_a_transfer_that_broke_off_is_resumed(server, tmp_path, path):
    file = tmp_path / "file"
    says = refusal(lambda: fetch(f"{server}/breaks", file, HASH, lambda share: None))
    assert "broke off" in says and str(file) in says and not file.exists()
    half = len(CONTENT) // 2
    assert (tmp_path / "file.part").stat().st_size == half
    fetch(f"{server}/{path}", file, HASH, lambda share: None)
    assert file.read_bytes() == CONTENT
    assert Handler.asked[-1] == (f"/{path}", f"bytes={half}-")


def test_a_part_that_is_whole_already_is_taken(server, tmp_path):
    (tmp_path / "file.part").write_bytes(CONTENT)
    fetch(f"{server}/ranges", tmp_path / "file", HASH, lambda share: None)
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_another_hash_leaves_nothing_behind(server, tmp_path):
    says = refusal(lambda: fetch(f"{server}/plain", tmp_path / "file", "0" * 8, lambda share: None))
    assert HASH[:8] in says and "not 00000000" in says
    assert list(tmp_path.iterdir()) == []


def test_no_network_says_what_to_put_where(server, tmp_path, monkeypatch):
    assert "404" in refusal(lambda: fetch(f"{server}/gone", tmp_path / "file"))
    monkeypatch.setenv("JAXDIV_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("jaxdiv.probes.weights._TORCHVISION", "http://127.0.0.1:9/models/")
    says = refusal(lambda: load_probe("resnet18", "imagenet"))
    assert "http://127.0.0.1:9/models/resnet18-f37072fd.pth" in says
    assert str(tmp_path / "cache" / "resnet18-f37072fd.pth") in says


def test_a_folder_that_cannot_be_written_is_named(server, tmp_path):
    (tmp_path / "taken").write_text("a file")
    assert "JAXDIV_CACHE" in refusal(lambda: fetch(f"{server}/plain", tmp_path / "taken" / "file"))


def test_imagenet_weights_are_taken_from_the_cache_and_checked(server, tmp_path, monkeypatch):
    monkeypatch.setenv("JAXDIV_CACHE", str(tmp_path))
    monkeypatch.setattr("jaxdiv.probes.weights.fetch", functools.partial(pytest.fail, "the cache holds it"))
    (download.cache_folder() / "resnet18-f37072fd.pth").write_bytes(CONTENT)
    assert "not f37072fd as its name says" in refusal(lambda: load_probe("resnet18", "imagenet"))
    assert "resnet18, resnet34, resnet50" in refusal(lambda: load_probe("resnet10_narrow", "imagenet"))
