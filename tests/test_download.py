"""A download from a local server: whole, resumed, and in every way that a network fails."""

import functools
import hashlib
import http.server
import threading
import time

import pytest

from jaxdiv import download
from jaxdiv.download import fetch
from jaxdiv.errors import InputError
from jaxdiv.probes.registry import load_probe

CONTENT = bytes(range(256)) * 4000
HASH = hashlib.sha256(CONTENT).hexdigest()
PAGE = b"\n<!DOCTYPE HTML><title>Moved</title>"
OVER = threading.Event()  # ends what a server waits for


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT from where it is asked to, or fails in the way that its path names."""

    asked: list = []  # noqa: RUF012 (what every request of the server asked for)

    def do_GET(self):
        way = self.path.strip("/")
        Handler.asked.append((self.path, self.headers.get("Range")))
        if way.isdigit():
            self.send_error(int(way))
            return
        content = {"wrong": CONTENT[::-1], "short": CONTENT[:-1], "page": PAGE, "page-as-bytes": PAGE}.get(way, CONTENT)
        start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-")) if self.headers["Range"] else 0
        start = start if way in ("ranges", "breaks", "drops", "stalls", "halts", "shifts", "wrong", "slow") else 0
        if start and start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start + (way == 'shifts')}-{len(content) - 1}/{len(content)}")
        if way != "endless":
            self.send_header("Content-Length", str(len(content) - start))
        self.send_header("Content-Type", "text/html; charset=utf-8" if way == "page" else "application/octet-stream")
        self.end_headers()
        half = len(content) // 2
        if way in ("breaks", "halts"):  # never more than half
            self.wfile.write(content[start:half])
        elif way == "slow":
            for begin in range(start, len(content), 100_000):
                self.wfile.write(content[begin : begin + 100_000])
                time.sleep(0.02)
        elif way in ("drops", "stalls"):  # a quarter at a time
            self.wfile.write(content[start : start + len(content) // 4])
        else:
            self.wfile.write(content[start:])
        if way == "endless":
            for _ in range(100):
                self.wfile.write(content)
        if way in ("stalls", "halts"):
            self.wfile.flush()
            OVER.wait(5)

    def handle_one_request(self):
        try:
            super().handle_one_request()
        except ConnectionError:  # a client that has seen enough
            self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    Handler.asked.clear()
    OVER.clear()
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running.daemon_threads = True
    threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}"
    OVER.set()
    running.shutdown()
    running.server_close()


def refusal(call):
    with pytest.raises(InputError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def get(urls, folder, **given):
    silence = 0.3 if "stalls" in str(urls) or "halts" in str(urls) else 10
    given = {"sha256": HASH, "size": len(CONTENT), "progress": lambda share: None, "silence_s": silence} | given
    fetch(urls, folder / "file", **given)


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


FAILS = {  # the way -> what the line says, and whether what came may stay for the next call
    "breaks": ("broke off (512000 of 1024000 bytes came)", True),
    "halts": ("broke off (nothing came for 0.3 s)", True),
    "404": ("answers 404", False),
    "503": ("answers 503", False),
    "page": ("serves a web page instead", False),
    "page-as-bytes": ("serves a web page instead", False),
    "wrong": ("its sha256 begins", False),
    "short": ("is 1023999 bytes, not 1024000", False),
    "endless": ("is more than 1024000 bytes", False),
}


@pytest.mark.parametrize("way", FAILS)
@pytest.mark.parametrize("size", [len(CONTENT), 0])
def test_a_bad_address_is_named_and_nothing_wrong_is_kept(server, tmp_path, way, size):
    says, stays = FAILS[way]
    if not size and way in ("short", "endless"):
        says = "its sha256 begins"
    line = refusal(lambda: get(f"{server}/{way}", tmp_path, size=size))
    assert (
        f"file cannot be downloaded: {server}/{way} " in line and says in line and f"put it at {tmp_path}/file" in line
    )
    assert [path.name for path in tmp_path.iterdir()] == (["file.part"] if stays else [])
    if stays:
        assert CONTENT.startswith((tmp_path / "file.part").read_bytes())


@pytest.mark.parametrize("way", FAILS)
def test_the_mirror_is_asked_next_and_ends_it_right(server, tmp_path, way):
    get([f"{server}/{way}", f"{server}/ranges"], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == CONTENT
    stays = FAILS[way][1]
    assert Handler.asked[-1] == ("/ranges", f"bytes={len(CONTENT) // 2}-" if stays else None)


def test_all_addresses_that_failed_are_named(server, tmp_path):
    line = refusal(lambda: get([f"{server}/404", f"{server}/page"], tmp_path, by_hand="into a drawer"))
    assert f"{server}/404 answers 404 Not Found; {server}/page serves a web page instead: try again" in line
    assert line.endswith("put it into a drawer")


@pytest.mark.parametrize("way", ["drops", "stalls"])
def test_a_server_that_ends_early_again_and_again_is_asked_for_the_rest_each_time(server, tmp_path, way):
    get(f"{server}/{way}", tmp_path)
    assert (tmp_path / "file").read_bytes() == CONTENT
    quarters = [f"bytes={len(CONTENT) // 4 * i}-" for i in range(1, 4)]
    assert [asked for _, asked in Handler.asked] == [None, *quarters]


def test_a_slow_server_is_left_for_its_mirror_and_asked_again_where_that_fails(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "_PATIENCE_S", 0.03)
    monkeypatch.setattr(download, "_SLOW_BYTES_PER_S", 2**30)
    get([f"{server}/slow", f"{server}/ranges"], tmp_path)
    assert (tmp_path / "file").read_bytes() == CONTENT
    (_, first), (then, rest) = Handler.asked
    assert first is None and then == "/ranges" and 100_000 <= int(rest[6:-1]) < len(CONTENT)  # what came was kept
    Handler.asked.clear()
    get([f"{server}/slow", f"{server}/404"], tmp_path)
    assert [path for path, _ in Handler.asked] == ["/slow", "/404", "/slow"]
    get(f"{server}/slow", tmp_path)  # where there is no other
    assert (tmp_path / "file").read_bytes() == CONTENT


@pytest.mark.parametrize("way", ["ranges", "plain", "shifts"])
def test_a_part_of_another_file_is_found_out_and_gone(server, tmp_path, way):
    (tmp_path / "file.part").write_bytes(b"of another file")
    get(f"{server}/{way}", tmp_path)
    assert (tmp_path / "file").read_bytes() == CONTENT
    (tmp_path / "file.part").write_bytes(bytes(len(CONTENT)))  # as long as the file
    get(f"{server}/ranges", tmp_path)
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_an_md5_is_checked_where_no_sha256_is_known(server, tmp_path):
    right = hashlib.md5(CONTENT).hexdigest()
    get(f"{server}/ranges", tmp_path, sha256="", md5=right)
    line = refusal(lambda: get(f"{server}/wrong", tmp_path, sha256="", md5=right))
    assert f"its md5 begins {hashlib.md5(CONTENT[::-1]).hexdigest()}, not {right}" in line


def test_no_network_says_what_to_put_where(server, tmp_path, monkeypatch):
    assert "answers 404" in refusal(lambda: fetch(f"{server}/404", tmp_path / "file"))
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
