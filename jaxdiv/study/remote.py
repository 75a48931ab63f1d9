"""A workdir in an object store (gs://, s3://, whatever fsspec knows), mirrored on this machine.

The study runs in the mirror, a folder like any other workdir. At the start the mirror gets what the store has and it
lacks; while the study runs, and at its end, the store gets what is new. What is pushed of a unit's folder is its files,
and last its mark, an object that lists the others with their checksums: `result.json` of a finished unit, and
`unfinished.json`, which is in stores alone, of one that has checkpoints. An object appears whole or not at all, so
without its mark nothing counts, and nothing comes into the mirror that is not what its mark says.

Only the driver talks to the store. The lease on it is an object as well.
"""

import contextlib
import hashlib
import json
import os
import posixpath
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from rich.console import Console

from jaxdiv.download import cache_folder
from jaxdiv.errors import InputError
from jaxdiv.files import replacing, writing
from jaxdiv.methods.checkpointing import latest_step, steps
from jaxdiv.methods.train import TERMINATED
from jaxdiv.study import lease, seal
from jaxdiv.study.object_store import LeaseObject, Store, one_line

LOOK_EVERY = 15.0  # seconds between two looks for finished units
CHECKPOINTS_EVERY = 180.0  # seconds between two pushes of unfinished units' checkpoints
_AT_ONCE = 8  # units pulled at the same time
_RESULT, _UNFINISHED = "result.json", "unfinished.json"
_UNSEALED = ("settings.json", "metrics.jsonl")  # of a unit's folder: needed as well, and not in the mark of a result
_ASIDE = "pulled-"  # begins the names of folders of what is being pulled
_REGISTER = "running/pushed.json"  # of the mirror: the sha256 of each mark as the store last had it

Say = Callable[[str], None]
Files = dict[str, list[Any]]  # by name: size, two times, sha256, as in `seal.of_files`


@contextlib.contextmanager
def mirrored(address: str, console: Console, leads: bool | None = True) -> Iterator[Path]:
    """This machine's mirror of the workdir at `address`, up to date.

    Args:
      leads: this process drives the study. What is new in the mirror is pushed, now and then and at the end, also after
        SIGTERM or an error. False: the workdir is only read, whoever drives it. None: only if another one does, or if
        it cannot be written.

    Raises:
      InputError: the store cannot be used, another process drives the study, or at the end not all could be pushed.
    """
    store, folder = Store(address), mirror(address)
    say = lambda line: console.print(line, highlight=False, markup=False, soft_wrap=True)
    say(f"{store.address}: mirrored in {folder}")
    with contextlib.ExitStack() as stack:
        with writing(folder, "JAXDIV_CACHE"), _in_a_line(store):
            (folder / "running").mkdir(parents=True, exist_ok=True)
            place = LeaseObject(store, "running/driver.json")
            mine = None
            if leads is not False:
                try:
                    mine = stack.enter_context(lease.driving(place, say))
                except (InputError, lease.Unreachable) as error:
                    if leads:
                        raise
                    say(f"nothing is pushed: {one_line(error)}")
            elif (there := lease.working(place)) and not lease.working(folder / "running" / "driver.json"):
                say(f"driven by {there}")
            if mine:
                for left in (folder / "running").glob(f"{_ASIDE}*"):
                    shutil.rmtree(left, ignore_errors=True)
            known = _pull(store, folder, say)
            if mine:
                known.keep(folder)
        if mine:
            stack.enter_context(_Pushing(store, folder, known, mine, say))
        yield folder


def mirror(address: str) -> Path:
    """Where this machine keeps its copy of the workdir at `address`."""
    name = PurePosixPath(address.partition("://")[2]).name or "study"
    return cache_folder().absolute() / "workdirs" / hashlib.sha256(address.rstrip("/").encode()).hexdigest()[:12] / name


@dataclass
class _Known:
    """What the store is known to hold whole.

    Attributes:
      marks: the sha256 of marks and of files of no unit, by name.
      files: by the folder of a unit, the sha256 of its files, by name.
    """

    marks: dict[str, str]
    files: dict[str, dict[str, str]]

    def keep(self, folder: Path) -> None:
        """Keep in the mirror which marks it was last the same as."""
        with replacing(folder / _REGISTER) as temporary:
            temporary.write_text(json.dumps(self.marks, indent=0))


def _pull(store: Store, folder: Path, say: Say) -> _Known:
    """Bring into the mirror what it lacks. Returns what need not be pushed. Of two whole results of a unit the store's
    counts, unless it is what the mirror had when it was last pushed: then the mirror's is newer."""
    there = {name: size for name, size in store.sizes().items() if _inside(name)}
    before, known = seal.read_json(folder / _REGISTER), _Known({}, {})
    lacking: dict[str, tuple[str, bytes, Files]] = {}
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        # A unit's result comes after the checkpoints that it grew from, which a killed push can have left.
        for last in (_UNFINISHED, _RESULT):
            marks = [name for name in there if posixpath.basename(name) == last]
            for mark, data in zip(marks, pool.map(store.read_if_there, marks), strict=True):
                if data is None:  # a driver removed it since they were listed
                    continue
                unit, files = posixpath.dirname(mark), _files(data)
                if files is None or any(there.get(f"{unit}/{name}") != size for name, (size, *_) in files.items()):
                    say(f"{store.address}/{unit} is not whole: what is missing here of it is made again")
                    continue
                known.marks[mark] = _sha256(data)
                known.files[unit] = {name: entry[-1] for name, entry in files.items()}
                mine = _result(folder / unit)
                if last == _UNFINISHED:
                    lacks = mine is None and latest_step(folder / unit) < _latest(files)
                else:
                    lacks = mine is None or known.marks[mark] not in (_sha256(mine), before.get(mark))
                if lacks:
                    lacking[unit] = last, data, files
        if lacking:
            size = sum(entry[0] for _, _, files in lacking.values() for entry in files.values())
            say(f"pulling {size / 1e6:.1f} MB (units: {len(lacking)})")
        fetch = lambda unit: _fetch(store, folder, unit, there, *lacking[unit])
        for unit, problem in zip(lacking, pool.map(fetch, lacking), strict=True):
            if problem:
                say(f"{store.address}/{unit} is damaged ({problem}): it is made again")
                known.marks.pop(f"{unit}/{lacking[unit][0]}")
                known.files.pop(unit)
        loose = [name for name in there if _is_loose(name)]
        list(pool.map(lambda name: _get(store, folder, name), (n for n in loose if not (folder / n).exists())))
    known.marks |= {name: before[name] for name in loose if name in before}
    return known


def _fetch(
    store: Store, folder: Path, unit: str, there: Mapping[str, int], last: str, data: bytes, files: Files
) -> str | None:
    """Bring a unit's files into the mirror, all of them or none. Returns what is wrong with them, in a line."""
    names = {*files, *(name for name in _UNSEALED if f"{unit}/{name}" in there)}
    with _aside(folder) as aside:
        for name in names:
            (aside / name).parent.mkdir(parents=True, exist_ok=True)
        try:
            store.get({f"{unit}/{name}": aside / name for name in names})
        except FileNotFoundError as error:
            return f"{error} is gone"
        if problems := seal.broken(aside, files, thorough=True):
            return problems[0]
        if last == _RESULT:
            (aside / last).write_bytes(data)
            (folder / unit / last).unlink(missing_ok=True)
        (folder / unit).mkdir(parents=True, exist_ok=True)
        for new in sorted(aside.iterdir(), key=lambda each: each.name == last):
            old = folder / unit / new.name
            if old.is_dir():
                shutil.rmtree(old)
            os.replace(new, old)
    return None


def _get(store: Store, folder: Path, name: str) -> None:
    with _aside(folder) as aside, contextlib.suppress(FileNotFoundError):
        store.get({name: aside / "object"})
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(aside / "object", folder / name)


@contextlib.contextmanager
def _aside(folder: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix=_ASIDE, dir=folder / "running") as temporary:
        yield Path(temporary)


class _Pushing:
    """Pushes what is new in the mirror, in a thread of its own; a context manager, at whose end the store has it all.

    It looks at the folders alone, so it is the same for every launcher.
    """

    def __init__(self, store: Store, folder: Path, known: _Known, mine: lease.Lease, say: Say):
        self._store, self._folder, self._known, self._lease, self._say = store, folder, known, mine, say
        self._seen: dict[str, tuple[int, int]] = {}  # results that the store has, by unit: size and time
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._live, daemon=True)
        self._leads_signals = threading.current_thread() is threading.main_thread()  # who alone may handle them

    def __enter__(self) -> "_Pushing":
        if self._leads_signals:
            self._before = signal.signal(signal.SIGTERM, self._terminated)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._over.set()
        self._thread.join()
        try:
            self._check()
            self._push()
            self._say(f"{self._store.address} has all of it")
        except OSError as error:
            line = (
                f"{self._store.address} does not have all of it ({one_line(error)}): it is in {self._folder}, and the "
                "same command pushes it"
            )
            if kind is None:
                raise InputError(line) from None
            self._say(line)
        finally:
            if self._leads_signals:
                signal.signal(signal.SIGTERM, self._before)

    def _terminated(self, *_: object) -> None:
        # While units train, training has SIGTERM, and saves. Whatever else runs ends here, but for the last push.
        if not self._over.is_set():
            raise SystemExit(TERMINATED)

    def _live(self) -> None:
        told, checkpoints = False, time.monotonic()
        while not self._over.wait(LOOK_EVERY):
            if self._lease.lost and self._leads_signals:
                os.kill(os.getpid(), signal.SIGTERM)  # saves and ends, as if the machine were taken away
                return
            due = time.monotonic() - checkpoints > CHECKPOINTS_EVERY
            try:
                self._push(checkpoints=due)
                told, checkpoints = False, time.monotonic() if due else checkpoints
            except OSError as error:  # also of a file that went away meanwhile, which the next look will not see
                if not told:
                    self._say(
                        f"{self._store.address} is behind ({one_line(error)}): the study goes on, and pushes later"
                    )
                told = True

    def _push(self, checkpoints: bool = True) -> None:
        """Push what is finished; also everything else that is pushed at all."""
        units = [*_units(self._folder / "units"), self._folder / "report"]
        for folder in units:
            self._result(folder)
        if checkpoints:
            for folder in units:
                self._checkpoints(folder)
            for name in _loose_in(self._folder):
                if self._known.marks.get(name) != (sha := _sha256((self._folder / name).read_bytes())):
                    self._check()
                    self._store.put({name: self._folder / name})
                    self._pushed(name, sha)

    def _result(self, folder: Path) -> None:
        unit = folder.relative_to(self._folder).as_posix()
        try:
            found = (folder / _RESULT).stat()
        except FileNotFoundError:
            return
        if self._seen.get(unit) != (state := (found.st_size, found.st_mtime_ns)):
            data = _result(folder)
            if data and self._known.marks.get(f"{unit}/{_RESULT}") != _sha256(data):
                self._send(unit, _RESULT, data)
            self._seen[unit] = state

    def _checkpoints(self, folder: Path) -> None:
        """The checkpoints of an unfinished unit: those that Orbax completed, which then have their final names."""
        unit, found = folder.relative_to(self._folder).as_posix(), steps(folder)
        if found and not (folder / _RESULT).exists() and _latest(self._known.files.get(unit, {})) != found[-1]:
            files = seal.of_files(folder, ["settings.json", *(f"checkpoints/{step}" for step in found)])
            self._send(unit, _UNFINISHED, json.dumps(seal.of_record({"files": files})).encode())

    def _send(self, unit: str, last: str, data: bytes) -> None:
        """Push a unit's files that the store lacks, then its mark; then remove what is no longer of it."""
        mark, had = f"{unit}/{last}", self._known.files.get(unit, {})
        files = {name: entry[-1] for name, entry in (_files(data) or {}).items()}
        unsealed = [name for name in _UNSEALED if name not in files and (self._folder / unit / name).is_file()]
        self._check()
        if any(had.get(name, sha) != sha for name, sha in files.items()):  # no mark may speak of half of them
            self._store.remove([f"{unit}/{_UNFINISHED}", f"{unit}/{_RESULT}"])
            self._known.files.pop(unit)
        new = [name for name, sha in files.items() if had.get(name) != sha]
        self._store.put({f"{unit}/{name}": self._folder / unit / name for name in (*new, *unsealed)})
        self._check()
        self._store.write(mark, data)
        self._known.files[unit] = files
        self._pushed(mark, _sha256(data))
        kept = {f"{unit}/{name}" for name in (*files, *unsealed, last)}
        self._store.remove([name for name in self._store.sizes(unit) if name not in kept])

    def _check(self) -> None:
        if self._lease.lost:
            raise lease.Unreachable("this process was silent for so long that another one took the study over")

    def _pushed(self, name: str, sha: str) -> None:
        self._known.marks[name] = sha
        self._known.keep(self._folder)


def _units(root: Path) -> Iterator[Path]:
    """The folders of units, which have their settings."""
    for folder, inner, files in os.walk(root):
        if "settings.json" in files:
            inner.clear()
            yield Path(folder)


def _result(folder: Path) -> bytes | None:
    """A unit's `result.json`; None where its result is not there, or not whole."""
    try:
        data = (folder / _RESULT).read_bytes()
    except OSError:
        return None
    files = _files(data)
    return None if files is None or seal.broken(folder, files) else data


def _files(data: bytes) -> Files | None:
    """The seals of files in a mark; None where it is not as it was written, or leads out of its folder."""
    files = seal.record_in(data).get("files")
    fits = isinstance(files, dict) and all(_inside(n) and isinstance(e, list) and len(e) == 4 for n, e in files.items())
    return files if fits else None


def _latest(names: Iterable[str]) -> int:
    """The step of the latest checkpoint among names of files, 0 if there is none."""
    parts = [name.split("/") for name in names if name.startswith("checkpoints/")]
    return max((int(part[1]) for part in parts if part[1].isdecimal()), default=0)


def _inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and path != PurePosixPath()


def _is_loose(name: str) -> bool:
    """Whether it is of no unit, and for people alone: what was asked for last, and what was prepared."""
    return name == "study.json" or posixpath.dirname(name) == "data"


def _loose_in(folder: Path) -> list[str]:
    files = (path for path in (folder / "study.json", *folder.glob("data/[!.]*")) if path.is_file())
    return [path.relative_to(folder).as_posix() for path in files]


@contextlib.contextmanager
def _in_a_line(store: Store) -> Iterator[None]:
    try:
        yield
    except (lease.Unreachable, FileNotFoundError) as error:
        raise InputError(
            f"--workdir={store.address} cannot be used ({one_line(error)}): nothing was lost, on this machine or there"
        ) from None


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
