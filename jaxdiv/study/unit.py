"""A unit of work and its result on disk. Its digest is its only identity.

The digest covers everything that the result depends on: the unit's name, its spec and its inputs' digests. A result is
in `WORKDIR/units/NAME/DIGEST` and complete once `result.json` is there, which is written last and atomically. Those of
other settings are beside it, and none is ever taken for another.
"""

import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxdiv.errors import InputError
from jaxdiv.files import replacing
from jaxdiv.version import __version__

ON_DEVICES = ("select", "embed", "train", "evaluate")  # the stages whose results depend on how a device rounds

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

    @property
    def stage(self) -> str:
        return self.name.split("/")[0]

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What of the spec is identity, as JSON values."""
        return json.loads(json.dumps(_identity(self.spec)))

    @cached_property
    def digest(self) -> str:
        parts = [self.name, self.settings, {unit.name: unit.digest for unit in self.inputs}]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    @property
    def folder(self) -> Path:
        """Where its result is stored, and its checkpoints while it runs."""
        return self.at or self.root / self.name / self.digest[:12]

    @property
    def done(self) -> bool:
        record = _read(self.folder / "result.json")
        if record.get("digest") != self.digest:
            return False
        return self.returns is None or {each.name for each in fields(self.returns)} == record["result"].keys()

    @property
    def result(self) -> dict[str, Any]:
        """The result's values but its arrays."""
        return json.loads((self.folder / "result.json").read_text())["result"]

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
        return _platforms(_read(self.folder / "result.json"))

    @property
    def previous(self) -> dict[str, Any]:
        """The values of whatever result is in its folder: of a unit with a folder `at`, also one of other settings."""
        return _read(self.folder / "result.json").get("result", {})

    def begin(self) -> None:
        """Say in its folder whose it is. By the first host, before any of them executes."""
        self.folder.mkdir(parents=True, exist_ok=True)
        _write(self.folder / "settings.json", self._identity)
        self.on_begin(self)

    def execute(self, progress: ProgressFn) -> None:
        """Do the work and save the result."""
        start = time.monotonic()
        values, arrays = _parted(self.work(self, progress))
        if jax.process_index() != 0:
            return  # of the hosts that ran it together, the first writes
        self.folder.mkdir(parents=True, exist_ok=True)
        if arrays:
            with replacing(self.folder / "arrays.npz") as temporary, temporary.open("wb") as file:
                np.savez(file, **arrays)  # type: ignore[arg-type]
        made = {"seconds": round(time.monotonic() - start, 3), "provenance": provenance(), "result": values}
        _write(self.folder / "result.json", self._identity | made)

    def kin(self, but: str, here: bool = False) -> list[tuple[Any, Path]]:
        """Units that differ from this one in the setting `but` alone: its value there, and their folder.

        Args:
          here: only those whose result is of this platform.
        """
        found = []
        for file in self.folder.parent.glob("*/settings.json"):
            theirs = _read(file)
            settings = theirs.get("settings", {})
            alike = {**settings, but: None} == {**self.settings, but: None}
            if here and _platforms(_read(file.parent / "result.json")) != [jax.default_backend()]:
                continue
            if alike and theirs["inputs"] == self._identity["inputs"] and theirs["digest"] != self.digest:
                found.append((settings[but], file.parent))
        return found

    @property
    def _identity(self) -> dict[str, Any]:
        inputs = {unit.name: unit.digest for unit in self.inputs}
        return {"unit": self.name, "digest": self.digest, "settings": self.settings, "inputs": inputs}


def arrays_in(folder: Path) -> dict[str, np.ndarray]:
    """The arrays of the result in a unit's folder; none where it is not complete."""
    file = folder / "arrays.npz"
    if not file.exists() or not (folder / "result.json").exists():
        return {}
    with np.load(file) as arrays:
        return dict(arrays)


def platforms(units: Iterable[Unit]) -> dict[str, int]:
    """How many of the finished results that a device computed come from each platform."""
    done = (unit for unit in units if unit.stage in ON_DEVICES and unit.done)
    return dict(Counter("+".join(unit.platforms) for unit in done))


def needed(unit: Unit, by: str) -> Unit:
    """`unit`, whose result `by` needs; InputError if it is not there."""
    if not unit.done:
        raise InputError(f"{by} needs the result of {unit.name}: add {unit.stage} to `stages`")
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


def _identity(value: Any) -> Any:
    """A spec as JSON values, less the fields that change no result."""
    if is_dataclass(value):
        mine = (each for each in fields(value) if each.metadata.get("identity", True))
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


def _read(file: Path) -> dict[str, Any]:
    """A record; empty where there is none that can be read."""
    try:
        return json.loads(file.read_text())
    except (FileNotFoundError, NotADirectoryError, PermissionError, json.JSONDecodeError):
        return {}


def _write(file: Path, record: Mapping[str, Any]) -> None:
    with replacing(file) as temporary:
        temporary.write_text(json.dumps(record, indent=1))
