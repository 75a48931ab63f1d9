"""One file from the network to its place: with progress, mirrors, resumed where it broke off, and checked."""

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from jaxdiv.errors import InputError
from jaxdiv.progress_bar import bar

_BLOCK = 2**18
_SILENCE_S = 30.0
# An address that sends less than this after so many seconds is left for the next one, which sends the rest.
_SLOW_BYTES_PER_S = 2**18
_PATIENCE_S = 20.0


class _Wrong(Exception):
    """What came is not the file, and goes."""


class _Slow(Exception):
    """What came is right, but another address may be faster."""


def cache_folder() -> Path:
    """Where downloads are kept: `$JAXDIV_CACHE`, otherwise `~/.cache/jaxdiv`.

    Raises:
      InputError: there is no home folder.
    """
    if given := os.environ.get("JAXDIV_CACHE"):
        return Path(given)
    try:
        return Path.home() / ".cache" / "jaxdiv"
    except RuntimeError:
        raise InputError(
            "there is no home folder to keep downloads in: set HOME, or JAXDIV_CACHE to a folder"
        ) from None


def fetch(
    urls: str | Sequence[str],
    file: Path,
    sha256: str = "",
    progress: Callable[[float], None] | None = None,
    *,
    md5: str = "",
    size: int = 0,
    by_hand: str = "",
    place: str = "JAXDIV_CACHE",
    silence_s: float = _SILENCE_S,
) -> None:
    """Download `file`, which appears only whole and checked; what has come stays beside it as `.part`.

    Args:
      urls: where it is, and its mirrors, tried in this order. One that breaks off is asked for the rest, as long as
        anything comes. One that is slow is left for the next, and asked again after the last.
      sha256: what its sha256 begins with; empty: not known. So too `md5`, and `size` in bytes.
      progress: called with the share done, 0..1; None: a bar in a terminal or a notebook.
      by_hand: where a person may put the file instead, for errors; empty: as `file`.
      place: the setting that names another folder, for errors.
      silence_s: seconds without a byte after which a server counts as gone, however long the whole takes.

    Raises:
      InputError: what went wrong at each address: none or no network, broke off (the next call resumes), a web page,
        another size or hash (then removed); or a folder that cannot be written.
    """
    part = file.with_name(file.name + ".part")
    reasons = {}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with bar(f"downloading {file.name}", progress) as report:
            queue = [(url, True) for url in ([urls] if isinstance(urls, str) else urls)]
            may_leave = len(queue) > 1 and bool(sha256 or md5)  # parts of two addresses are one file only by its hash
            wrong = lambda: differs(part, sha256, md5, size)
            for url, first in queue:
                try:
                    reasons[url] = _attempt(url, part, report, size, silence_s, first and may_leave, wrong)
                except _Slow:
                    queue.append((url, False))
                    continue
                if not reasons[url]:
                    part.replace(file)
                    return
    except OSError as error:
        raise InputError(
            f"{file} cannot be written ({error.strerror or error}): set {place} to another folder"
        ) from None
    told = "; ".join(f"{url} {reason}" for url, reason in reasons.items())
    by_hand = by_hand or f"at {file}"
    raise InputError(
        f"{file.name} cannot be downloaded: {told}: try again, or get it by other means and put it {by_hand}"
    )


def _attempt(
    url: str,
    part: Path,
    report: Callable[[float], None],
    size: int,
    silence_s: float,
    may_leave: bool,
    wrong: Callable[[], str],
) -> str:
    """Get what is missing of `part` from one address; why that failed, or nothing."""
    while True:
        have = _size(part)
        try:
            _transfer(url, part, report, size, silence_s, may_leave)
            if reason := wrong():
                raise _Wrong(reason)
            return ""
        except _Wrong as error:
            part.unlink(missing_ok=True)
            if not have:
                return str(error)
            # What lay there was perhaps of another file: once more, from its beginning.
        except HTTPError as error:
            return f"answers {error.code} {error.reason}"
        except (URLError, HTTPException, TimeoutError, ConnectionError) as error:
            if _size(part) <= have:
                reason = str(getattr(error, "reason", None) or error) or type(error).__name__
                return f"cannot be reached or broke off ({reason})"


def _transfer(
    url: str, part: Path, report: Callable[[float], None], size: int, silence_s: float, may_leave: bool
) -> None:
    if size and _size(part) > size:
        part.unlink()
    if (have := _size(part)) and have == size:
        return
    asked = {"User-Agent": "jaxdiv"} | ({"Range": f"bytes={have}-"} if have else {})  # some refuse Python's own name
    try:
        response = urlopen(Request(url, headers=asked), timeout=silence_s)
    except HTTPError as error:
        if error.code == 416 and have:  # nothing is left to send: the part is whole, or no part of this file
            return
        raise
    with response:
        if response.status != 206:  # a server that ignores ranges sends everything again
            have = 0
        elif not response.headers.get("Content-Range", f"bytes {have}-").startswith(f"bytes {have}-"):
            raise _Wrong(f"sends another part than asked for ({response.headers['Content-Range']})")
        total = have + int(response.headers.get("Content-Length") or 0)
        expected = max(total, size)
        start, begun = time.monotonic(), have
        block = _read(response, silence_s)
        if (not have and is_page(block)) or response.headers.get_content_type() == "text/html":
            raise _Wrong("serves a web page instead")
        if size and total > have and total != size:
            raise _Wrong(f"is {total} bytes, not {size}")
        with part.open("ab" if have else "wb") as out:
            while block:
                out.write(block)
                have += len(block)
                if size and have > size:
                    raise _Wrong(f"is more than {size} bytes")
                report(min(have / expected, 1.0) if expected else 0.0)
                took = time.monotonic() - start
                if may_leave and took > _PATIENCE_S and have - begun < took * _SLOW_BYTES_PER_S:
                    raise _Slow
                block = _read(response, silence_s)
        if have < expected:
            raise ConnectionError(f"{have} of {expected} bytes came")


def is_page(start: bytes) -> bool:
    """Whether a file that begins so is a web page, as servers send in place of a file."""
    return start.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html"))


def _read(response: HTTPResponse, silence_s: float) -> bytes:
    """What is there; nothing at the end. An error of the network is not one of the disk."""
    try:
        return response.read1(_BLOCK)
    except TimeoutError:
        raise TimeoutError(f"nothing came for {silence_s:g} s") from None
    except OSError as error:
        raise ConnectionError(str(error)) from None


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def differs(file: Path, sha256: str, md5: str, size: int) -> str:
    """What is wrong with a file that should be the one of this hash and size, in words; nothing where it is that."""
    with file.open("rb") as content:
        if is_page(content.read(256)):
            return "is a web page"
    if size and _size(file) != size:
        return f"is {_size(file)} bytes, not {size}"
    for kind, expected in (("sha256", sha256), ("md5", md5)):
        if expected:
            with file.open("rb") as content:
                found = hashlib.file_digest(content, kind).hexdigest()[: len(expected)]
            if found != expected:
                return f"has another file: its {kind} begins {found}, not {expected}"
    return ""
