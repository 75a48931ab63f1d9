"""A unit of work and its result on disk. Its digest is its only identity.

The digest covers everything that is known beforehand of what the result depends on: the unit's name and version, its
spec and its inputs' digests. A result is in `WORKDIR/units/NAME/DIGEST` and complete once `result.json` is there, which
is written last and atomically. Those of other settings are beside it, and none is ever taken for another.

`result.json` also has what is known only afterwards: the seals of itself and of all files of the result (`seal.py`),
the checksum of what the result says, its content, and those of its inputs. A result is used only if all of them hold.
So whatever is damaged is made again, and when an input has changed, what was computed from it is made again as well.
"""

import functools
import hashlib
import importlib.metadata
import io
import json
import os
import platform
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxdiv.errors import InputError
from jaxdiv.files import replacing, unless_full, writing
from jaxdiv.study import seal
from jaxdiv.version import __version__

ON_DEVICES = ("select", "embed", "train", "evaluate")  # the stages whose results depend on how a device rounds
# By stage; raise one when the same settings give another result. It is no release's number: a release that computes
# the same must not cost a study the days that its results took.
VERSIONS = {
    "prepare": 1,
    "select": 2,
    "embed": 1,
    "diversity": 1,
    "train": 1,
    "evaluate": 1,
    "correlate": 1,
    "report": 1,
}

# Called while a unit runs with the share of it that is done, 0..1, and a word on how it goes.
ProgressFn = Callable[[float, str], None]


@dataclass(frozen=True)
class Unit:
    """One piece of work.

    Attributes:
      name: says what it is; the first part is its stage.
      spec: a dataclass with all that the result depends on besides `inputs`. A field whose metadata has
        `identity: False` changes no result.
      work: does the work and returns a dataclass, whose arrays and other values are stored apart.
      root: `WORKDIR/units`.
      inputs: the units whose results it needs.
      cost: the seconds that it takes on two cores, roughly: only for the estimate of the time left.
      on_begin: called before `work`, by the first host alone.
      at: its folder, where that is not one for each digest: only the latest result is then kept.
      returns: the dataclass that `work` returns. A result with other fields, which an earlier version left, is made
        again. None: its fields are not looked at.
      keeps: the files and folders inside `folder` that belong to a result, by its values, besides its arrays.
    """

    name: str
    spec: Any
    work: Callable[["Unit", ProgressFn], Any]
    root: Path
    inputs: tuple["Unit", ...] = ()
    cost: float = 1.0
    on_begin: Callable[["Unit"], None] = lambda unit: None
    at: Path | None = None
    returns: type | None = None
    keeps: Callable[[Mapping[str, Any]], Sequence[str]] = lambda result: ()

    @property
    def stage(self) -> str:
        return self.name.split("/")[0]

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What of the spec is identity, as JSON values."""
        return json.loads(json.dumps(_identity(self.spec)))

    @cached_property
    def digest(self) -> str:
        version = VERSIONS.get(self.stage, 1)
        parts = [self.name, version, self.settings, {unit.name: unit.digest for unit in self.inputs}]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    @property
    def folder(self) -> Path:
        """Where its result is stored, and its checkpoints while it runs."""
        return self.at or self.root / self.name / self.digest[:12]

    @property
    def done(self) -> bool:
        """Whether its result is there, whole, and made from its inputs as they are now."""
        return bool(self._record) and not self.problems()

    def problems(self, thorough: bool = False) -> list[str]:
        """Why a result that is there cannot be used, in lines; none where it can be, or where there is none.

        Args:
          thorough: read every file, instead of those alone whose size or times have changed.
        """
        record = self._record
        if not record:
            there = self.at is None and os.path.lexists(self.folder / "result.json")
            return ["result.json is damaged"] if there else []
        if self.returns and {each.name for each in fields(self.returns)} != record["result"].keys():
            return ["it is of another version of jaxdiv"]
        # An input that is gone cannot differ: a study may be kept without the tables that it was made from.
        now = {need.name: need.content for need in self.inputs}
        lines = [
            f"{name} is no longer what it was made from"
            for name, content in record["contents"].items()
            if now[name] not in (None, content)
        ]
        return lines + seal.broken(self.folder, record["files"], thorough)

    @property
    def content(self) -> str | None:
        """The checksum of what its result says; None where there is none."""
        return self._record.get("content")

    @property
    def result(self) -> dict[str, Any]:
        """The result's values but its arrays."""
        return self._record["result"]

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The result's arrays by their names."""
        return arrays_in(self.folder)

    def load(self, kind: Callable[..., Any]) -> Any:
        """The result as the dataclass that it was."""
        return kind(**self.result, **self.arrays)

    @property
    def platforms(self) -> list[str]:
        """Where its result was computed, such as "gpu"; of a result that an earlier version left, unknown."""
        return _platforms(seal.read_record(self.folder / "result.json"))

    @property
    def previous(self) -> dict[str, Any]:
        """The values of whatever whole result is in its folder: with a folder `at`, also one of other settings."""
        return seal.read_record(self.folder / "result.json").get("result", {})

    def begin(self) -> None:
        """Say in its folder whose it is. By the first host, before any of them executes.

        Raises:
          InputError: the folder cannot be written.
        """
        with writing(self.folder, "`folder`"):
            if not self.at and seal.read_json(self.folder / "settings.json").get("contents") != self._contents:
                shutil.rmtree(self.folder, ignore_errors=True)  # begun with inputs that were not what they are now
            self.folder.mkdir(parents=True, exist_ok=True)
            for name in ("settings.json", "result.json", "arrays.npz"):
                if (self.folder / name).is_dir():  # in the way of a file, which would be known hours later
                    shutil.rmtree(self.folder / name)
            if not self.at:
                _write(self.folder / "settings.json", self._identity)
            self.on_begin(self)

    def execute(self, progress: ProgressFn) -> None:
        """Do the work and save the result.

        Raises:
          InputError: the disk is full, or has become read-only; and as the work does.
        """
        start, identity = time.monotonic(), self._identity  # an input may be made again, or deleted, meanwhile
        with unless_full(self.folder, "`folder`"):
            result = self.work(self, progress)
            if jax.process_index() != 0:
                return  # of the hosts that ran it together, the first writes
            values, arrays = _parted(result)
            self.folder.mkdir(parents=True, exist_ok=True)
            if arrays:
                with replacing(self.folder / "arrays.npz") as temporary, temporary.open("wb") as file:
                    np.savez(file, **arrays)  # type: ignore[arg-type]
            said = json.loads(json.dumps(_identity(result, arrays)))
            made = {
                "seconds": round(time.monotonic() - start, 3),
                "provenance": provenance(),
                "result": values,
                "content": seal.of_values(said, arrays),
                "files": seal.of_files(self.folder, [*(["arrays.npz"] if arrays else []), *self.keeps(values)]),
            }
            _write(self.folder / "result.json", seal.of_record(json.loads(json.dumps(identity | made))))

    def kin(self, but: str, here: bool = False) -> list[tuple[Any, Path]]:
        """Units that differ from this one in the setting `but` alone: its value there, and their folder.

        Args:
          here: only those whose result is of this platform.
        """
        found = []
        for file in sorted(self.folder.parent.glob("*/settings.json")):
            theirs = seal.read_json(file)
            settings = theirs.get("settings")
            if not isinstance(settings, dict) or but not in settings or theirs.get("digest") == self.digest:
                continue
            mine = {**self._identity, "settings": {**self.settings, but: None}, "digest": None}
            alike = {**theirs, "settings": {**settings, but: None}, "digest": None} == mine
            where = _platforms(seal.read_record(file.parent / "result.json")) if alike and here else []
            if alike and (not here or where == [jax.default_backend()]):
                found.append((settings[but], file.parent))
        return found

    @property
    def _record(self) -> dict[str, Any]:
        """What `result.json` says; empty where it is not of this unit, or damaged."""
        record = seal.read_record(self.folder / "result.json")
        return record if record.get("digest") == self.digest and "contents" in record else {}

    @property
    def _contents(self) -> dict[str, str | None]:
        return {unit.name: unit.content for unit in self.inputs}

    @property
    def _identity(self) -> dict[str, Any]:
        return {
            "unit": self.name,
            "version": VERSIONS.get(self.stage, 1),
            "digest": self.digest,
            "settings": self.settings,
            "inputs": {unit.name: unit.digest for unit in self.inputs},
            "contents": self._contents,
        }


def arrays_in(folder: Path) -> dict[str, np.ndarray]:
    """The arrays of the result in a unit's folder; none where it is not complete, or damaged."""
    known = seal.read_record(folder / "result.json").get("files", {}).get("arrays.npz")
    try:
        data = (folder / "arrays.npz").read_bytes() if known else b""
    except OSError:
        return {}
    if not known or hashlib.sha256(data).hexdigest() != known[-1]:
        return {}
    with np.load(io.BytesIO(data)) as arrays:
        return dict(arrays)


def platforms(units: Iterable[Unit]) -> dict[str, int]:
    """How many of the finished results that a device computed come from each platform."""
    done = (unit for unit in units if unit.stage in ON_DEVICES and unit.done)
    return dict(Counter("+".join(unit.platforms) for unit in done))


def needed(unit: Unit, by: str) -> Unit:
    """`unit`, whose result `by` needs; InputError if it is not there."""
    if not unit.done:
        damaged = "; ".join(unit.problems()[:1])
        why = f", which cannot be used ({damaged})" if damaged else ""
        raise InputError(f"{by} needs the result of {unit.name}{why}: add {unit.stage} to `stages`")
    return unit


def in_its_precision(run: Callable[..., Any]) -> Callable[..., Any]:
    """A stage's function of a spec whose `compute` says at which precision products and convolutions are computed."""

    @functools.wraps(run)
    def at_precision(spec: Any, *inputs: Any) -> Any:
        with jax.default_matmul_precision(spec.compute.precision):
            return run(spec, *inputs)

    return at_precision


def provenance() -> dict[str, str]:
    """What a result was made with and on."""
    names = ("jax", "jaxlib", "flax", "optax", "numpy", "scipy")
    versions = {"jaxdiv": __version__} | {name: importlib.metadata.version(name) for name in names}
    device = jax.devices()[0]
    where = f"{jax.device_count()} x {device.device_kind} ({device.platform}), {os.cpu_count()} CPU cores"
    flags = os.environ.get("XLA_FLAGS", "")  # deterministic kernels, for one
    found = {"platform": device.platform, "device": where, "XLA_FLAGS": flags}
    return {**versions, "python": platform.python_version(), **found}


def _identity(value: Any, but: Mapping[str, Any] | None = None) -> Any:
    """A spec or result as JSON values, less the fields that change no result, and less those in `but`."""
    if is_dataclass(value):
        mine = (each for each in fields(value) if each.metadata.get("identity", True) and each.name not in (but or {}))
        return {each.name: _identity(getattr(value, each.name)) for each in mine}
    if isinstance(value, Mapping):
        return {name: _identity(inner) for name, inner in value.items()}
    return [_identity(inner) for inner in value] if isinstance(value, tuple | list) else value


def _platforms(record: Mapping[str, Any]) -> list[str]:
    return record.get("result", {}).get("platforms") or [record.get("provenance", {}).get("platform", "unknown")]


def _parted(result: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """A result's values and its arrays."""
    given = asdict(result)
    arrays = {name: value for name, value in given.items() if isinstance(value, np.ndarray)}
    return {name: value for name, value in given.items() if name not in arrays}, arrays


def _write(file: Path, record: Mapping[str, Any]) -> None:
    with replacing(file) as temporary:
        temporary.write_text(json.dumps(record, indent=1))
