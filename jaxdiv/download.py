"""One file from the network to its place: with progress, resumed where it broke off, and checked before it counts."""

import hashlib
import os
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from jaxdiv.errors import InputError
from jaxdiv.progress_bar import bar

_BLOCK = 2**18
_TIMEOUT_S = 30


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


def fetch(url: str, file: Path, sha256: str = "", progress: Callable[[float], None] | None = None) -> None:
    """Download `url` to `file`, which appears only whole and checked; what has come stays beside it as `.part`.

    Args:
      sha256: what its sha256 begins with; empty: not known.
      progress: called with the share done, 0..1; None: a bar in a terminal or a notebook.

    Raises:
      InputError: no network or no such address (saying what to get from where and where to put it), a transfer that
        broke off (the next call resumes it), another hash, a folder that cannot be written.
    """
    part = file.with_name(file.name + ".part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with bar(f"downloading {file.name}", progress) as report:
            _transfer(url, part, report)
        with part.open("rb") as done:
            found = hashlib.file_digest(done, "sha256").hexdigest()
    except HTTPError as error:
        raise InputError(f"{url}: the server answers {error.code} {error.reason}; {_by_hand(url, file)}") from None
    except (URLError, HTTPException, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", None) or error
        raise InputError(
            f"{url} cannot be reached or broke off ({reason}): try again, or {_by_hand(url, file)}"
        ) from None
    except OSError as error:
        raise InputError(
            f"{file} cannot be written ({error.strerror or error}): set JAXDIV_CACHE to another folder"
        ) from None
    if not found.startswith(sha256):
        part.unlink()
        raise InputError(
            f"{url}: its sha256 begins {found[: len(sha256)]}, not {sha256}: removed; {_by_hand(url, file)}"
        )
    part.replace(file)


def _transfer(url: str, part: Path, report: Callable[[float], None]) -> None:
    have = part.stat().st_size if part.exists() else 0
    try:
        response = urlopen(Request(url, headers={"Range": f"bytes={have}-"} if have else {}), timeout=_TIMEOUT_S)
    except HTTPError as error:
        if error.code == 416 and have:  # nothing is left to send: the part is whole, or no part of this file
            return
        raise
    with response:
        # A server that ignores ranges sends everything again.
        have = have if response.status == 206 else 0
        total = have + int(response.headers.get("Content-Length") or 0)
        with part.open("ab" if have else "wb") as out:
            while block := response.read(_BLOCK):
                out.write(block)
                have += len(block)
                report(have / total if total else 0.0)
        if have < total:
            raise ConnectionError(f"{have} of {total} bytes came")


def _by_hand(url: str, file: Path) -> str:
    return f"get {url} by other means and put it at {file}"
