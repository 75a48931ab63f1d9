"""Who works at a unit, or drives a study: a lease that other processes, and other machines, see and respect.

A lease is a small file in `WORKDIR/running`. Its holder rewrites it every BEAT seconds. A process of this machine is
known by its id and its start, so the lease of one that died is free at once. The process of another machine cannot be
looked at: its lease is free once the file has not changed for SILENCE seconds, counted by the clock of whoever waits.
No two machines' clocks are ever compared, and a clock that jumps harms nothing.

Of a workdir in an object store the lease is an object (`object_store.py`). A `Place` says how either is read and
written.
"""

import contextlib
import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Protocol, runtime_checkable

from jaxdiv.errors import InputError
from jaxdiv.files import locked, replacing

BEAT = 10.0  # seconds between two signs of life
SILENCE = 120.0  # seconds without one after which another machine's process counts as dead


class Unreachable(OSError):
    """Where the lease is cannot be reached now, so that nothing is known of it. The message is one line."""


@runtime_checkable
class Place(Protocol):
    """Where a lease is kept. Whatever goes wrong is an OSError, FileNotFoundError where there is no lease.

    Attributes:
      where: the workdir, for messages.
      settles: seconds after which a lease that was taken is looked at again, as two may have taken it over at once.
    """

    @property
    def where(self) -> str: ...
    @property
    def settles(self) -> float: ...
    def read(self) -> str: ...
    def write(self, text: str, new: bool) -> None:
        """All of it or nothing. new: only if there is none; otherwise FileExistsError."""

    def remove(self) -> None: ...
    def guard(self) -> contextlib.AbstractContextManager[None]:
        """Between looking at the lease and writing it, nobody else does, as far as that can be had."""


@dataclass(frozen=True)
class Holder:
    """The process that has a lease.

    Attributes:
      what: the unit that it works at, or "the study".
      host, process: for a person: the machine's name, and the id of the process there.
      machine: what of a machine makes ids of processes comparable: its boot, and its name space of processes.
      started: the start of the process on that machine's own scale, since ids are used again. Empty: not known.
      since: when the lease was taken, in seconds since 1970; only shown.
      token: of this lease alone.
      beat: signs of life so far.
      share, note: how much is done, 0..1, and a word on how it goes.
    """

    what: str
    host: str
    machine: str
    process: int
    started: str
    since: float
    token: str
    beat: int = 0
    share: float = 0.0
    note: str = ""

    def __str__(self) -> str:
        return (
            f"{self.host} (process {self.process}) since {time.strftime('%Y-%m-%d %H:%M', time.localtime(self.since))}"
        )

    @property
    def alive(self) -> bool | None:
        """Whether the process lives; None where only its signs of life can tell, as it is on another machine."""
        if self.machine != _machine():
            return None
        return _start(self.process) == self.started


class Lease:
    """A lease that this process has; a context manager, at whose end it is given back."""

    def __init__(self, place: Place, mine: Holder):
        self._place, self._mine = place, mine
        self._lost, self._over = False, threading.Event()
        self._beaten = time.monotonic()
        self._thread = threading.Thread(target=self._live, daemon=True)
        self._thread.start()

    def __enter__(self) -> "Lease":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    @property
    def lost(self) -> bool:
        """Whether another process took it over, which it does after SILENCE seconds without a sign of life."""
        return self._lost

    def say(self, share: float, note: str = "") -> None:
        """Tell others how it goes.

        Raises:
          InputError: the lease is another's, since this process was suspended for so long that it counted as dead.
        """
        self._mine = replace(self._mine, share=share, note=note)
        if time.monotonic() - self._beaten > SILENCE / 2:
            self._beat()
        if self._lost:
            raise InputError(
                f"{self._mine.what}: this process was silent for more than {SILENCE:.0f} s, and another one took its "
                "work over; nothing is lost"
            )

    def release(self) -> None:
        """Give it back."""
        self._over.set()
        self._thread.join()
        with contextlib.suppress(OSError), self._place.guard():
            if self._still_mine():
                self._place.remove()

    def _live(self) -> None:
        while not self._lost and not self._over.wait(BEAT):
            self._beat()

    def _beat(self) -> None:
        # A full disk is no reason to stop: the next sign of life may come through.
        with contextlib.suppress(OSError), self._place.guard():
            if self._still_mine():
                self._mine = replace(self._mine, beat=self._mine.beat + 1)
                self._place.write(_text(self._mine), new=False)
                self._beaten = time.monotonic()
            else:
                self._lost = True

    def _still_mine(self) -> bool:
        there = _of_text(_read(self._place))
        return there is not None and there.token == self._mine.token


def take(
    file: Path | Place, what: str, wait: bool = False, told: Callable[[Holder], object] = lambda there: None
) -> Lease | Holder:
    """The lease `file`, or who has it. A path is one of this machine's.

    Of a holder on another machine it takes up to SILENCE seconds to know whether it lives.

    Args:
      what: the unit, or "the study".
      wait: until whoever has it gives it back or dies.
      told: called once with each holder that is waited for, or watched for a sign of life.

    Raises:
      InputError: the folder cannot be written.
      Unreachable: the place cannot be reached.
    """
    place = _at(file)
    seen: Holder | None = None
    since = time.monotonic()
    while True:
        silent = seen if seen and time.monotonic() - since > SILENCE else None
        if (found := _try(place, what, silent)) is None:
            time.sleep(0.2)
            continue
        if isinstance(found, Lease) or (found.alive and not wait):
            return found
        if not seen or found.token != seen.token:
            told(found)
        elif found.beat != seen.beat and not wait:
            return found
        if not seen or (found.token, found.beat) != (seen.token, seen.beat):
            seen, since = found, time.monotonic()
        time.sleep(0.2 if found.alive else 1.0)


def holder(file: Path | Place) -> Holder | None:
    """Who has the lease `file` as far as the file tells; None where nobody has, or it cannot be read. Raises
    Unreachable."""
    try:
        return _of_text(_read(_at(file)))
    except Unreachable:
        raise
    except OSError:
        return None


def working(file: Path | Place) -> Holder | None:
    """Who works under the lease `file`; None where nobody does, or only a process that is known to be dead. Raises
    Unreachable."""
    there = holder(file)
    return None if there is None or there.alive is False else there


class Lookout:
    """Looks at leases again and again, and so knows which of other machines' processes have fallen silent."""

    def __init__(self) -> None:
        self._signs: dict[Path, tuple[tuple[str, int], float]] = {}

    def working(self, file: Path) -> Holder | None:
        """As `working`; None also where the last sign of life was seen more than SILENCE seconds ago."""
        there = working(file)
        if there is None or there.alive:
            return there
        sign, now = (there.token, there.beat), time.monotonic()
        last, since = self._signs.get(file, (None, now))
        if sign != last:
            self._signs[file] = sign, now
            return there
        return None if now - since > SILENCE else there


@contextlib.contextmanager
def driving(file: Path | Place, say: Callable[[str], object]) -> Iterator[Lease]:
    """While this process drives the study, no other does. say: prints a line.

    Raises:
      InputError: another one does.
      Unreachable: as `take`.
    """
    told = lambda there: say(f"waiting for a sign of life of {there}") if there.alive is None else None
    taken = take(file, "the study", told=told)
    if isinstance(taken, Holder):
        raise InputError(
            f"workdir {_at(file).where} is at work: {taken}; wait for it or stop it; --dry_run and --stages=report can "
            "be used"
        )
    with taken:
        yield taken


def _try(place: Place, what: str, silent: Holder | None) -> Lease | Holder | None:
    """Take the lease if it is free; None: it is not known yet. silent: whoever was watched for long enough without a
    sign of life."""
    me = os.getpid()
    whose = what, platform.node(), _machine(), me, _start(me) or ""
    mine = Holder(*whose, since=time.time(), token=uuid.uuid4().hex)
    with place.guard():
        try:
            text = _read(place)
            there = _of_text(text)
            is_silent = there and silent and (there.token, there.beat) == (silent.token, silent.beat)
            if there and there.alive is not False and not is_silent:
                return there
            if text is not None:  # a dead one's, or a damaged one
                place.remove()
            place.write(_text(mine), new=True)
        except FileExistsError:
            return None
        except Unreachable:
            raise
        except OSError as error:
            raise InputError(
                f"{place.where} cannot be written ({error.strerror or error}): make room there, or choose another "
                "--workdir"
            ) from None
    if place.settles:
        time.sleep(place.settles)
        if (now := holder(place)) is None or now.token != mine.token:
            return now
    return Lease(place, mine)


@dataclass(frozen=True)
class _File:
    """A lease on a disk: rewritten by a rename, and guarded where files can be locked."""

    file: Path
    settles = 0.0

    @property
    def where(self) -> str:
        return str(self.file.parent.parent)

    def read(self) -> str:
        return self.file.read_text()

    def write(self, text: str, new: bool) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self.file) as temporary:
            temporary.write_text(text)

    def remove(self) -> None:
        self.file.unlink(missing_ok=True)

    @contextlib.contextmanager
    def guard(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(OSError):
                stack.enter_context(locked(self.file.parent / "leases"))
            yield


def _at(file: Path | Place) -> Place:
    return _File(file) if isinstance(file, Path) else file


def _read(place: Place) -> str | None:
    """What a lease says, "" where it is no text; None where there is none. Raises OSError where that cannot be known
    now, which does not make it free."""
    try:
        return place.read()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    except UnicodeDecodeError:
        return ""


def _of_text(text: str | None) -> Holder | None:
    try:
        given = json.loads(text or "")
        return Holder(**{each.name: given[each.name] for each in fields(Holder)})
    except (ValueError, TypeError, KeyError):
        return None


def _text(mine: Holder) -> str:
    return json.dumps(asdict(mine))


@cache
def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{platform.node()} {boot} {os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return platform.node()


def _start(process: int) -> str | None:
    """When a process of this machine began; empty where that cannot be known, None if it is dead."""
    try:
        # After the name in brackets: the state is the third field, the start in ticks since the boot the 22nd.
        found = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return None if found[0] in "ZX" else found[19]
    except (OSError, IndexError):
        if Path("/proc/self/stat").exists():
            return None
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return None
    except OSError:
        pass  # it is another user's
    return ""
