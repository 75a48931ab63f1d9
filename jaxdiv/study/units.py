"""Units of work and their results on disk.

A unit's result lies in its own folder, `WORKDIR/units/NAME`, and is complete once `result.json` is there, which is
written last and atomically. The file holds a digest of everything that the result depends on, inputs included: a unit
is run again exactly when its digest changed, and a result of other settings is never taken for its own.
"""

import hashlib
import importlib.metadata
import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxdiv.errors import InputError
from jaxdiv.files import replacing
from jaxdiv.version import __version__

Result = tuple[dict[str, Any], dict[str, np.ndarray]]  # JSON values, arrays
# Called while a unit runs with the share of it that is done, 0..1, and a word on how it goes.
Report = Callable[[float, str], None]


@dataclass(frozen=True)
class Unit:
    """One piece of work.

    Attributes:
      name: its folder under `WORKDIR/units`; the first part is its stage.
      settings: all that its result depends on besides `inputs`, as JSON values.
      run: the work itself.
      folder: where its result and its unfinished state lie.
      cost: the seconds that it takes on two cores, roughly: only for the estimate of the time left.
    """

    name: str
    settings: dict[str, Any]
    run: Callable[["Unit", Report], Result]
    folder: Path
    inputs: tuple["Unit", ...] = ()
    cost: float = 1.0

    @property
    def stage(self) -> str:
        return self.name.split("/")[0]

    @cached_property
    def digest(self) -> str:
        parts = [self.name, self.settings, {unit.name: unit.digest for unit in self.inputs}]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    @property
    def scratch(self) -> Path:
        """Where a run keeps checkpoints: named by the digest, so that no run of other settings resumes from them."""
        return self.folder / self.digest[:12]

    @property
    def done(self) -> bool:
        try:
            return self._record["digest"] == self.digest
        except (FileNotFoundError, NotADirectoryError, PermissionError, json.JSONDecodeError, KeyError):
            return False

    @property
    def result(self) -> dict[str, Any]:
        return self._record["result"]

    def arrays(self) -> dict[str, np.ndarray]:
        with np.load(self.folder / "arrays.npz") as file:
            return dict(file)

    def execute(self, report: Report) -> None:
        """Run and save the result."""
        start = time.monotonic()
        values, arrays = self.run(self, report)
        if jax.process_index() != 0:
            return  # of the hosts that ran it together, the first writes
        self.folder.mkdir(parents=True, exist_ok=True)
        if arrays:
            with replacing(self.folder / "arrays.npz") as temporary, temporary.open("wb") as file:
                np.savez(file, **arrays)  # type: ignore[arg-type]
        record = {
            "unit": self.name,
            "digest": self.digest,
            "settings": self.settings,
            "inputs": {unit.name: unit.digest for unit in self.inputs},
            "seconds": round(time.monotonic() - start, 3),
            "provenance": provenance(),
            "result": values,
        }
        with replacing(self.folder / "result.json") as temporary:
            temporary.write_text(json.dumps(record, indent=1))

    @property
    def _record(self) -> dict[str, Any]:
        return json.loads((self.folder / "result.json").read_text())


def needed(unit: Unit, by: str) -> Unit:
    """`unit`, whose result `by` needs; InputError if it is not there."""
    if not unit.done:
        raise InputError(f"{by} needs the result of {unit.name}: add {unit.stage} to `stages`")
    return unit


def provenance() -> dict[str, str]:
    """What a result was made with and on."""
    names = ("jax", "jaxlib", "flax", "optax", "numpy", "scipy")
    versions = {"jaxdiv": __version__} | {name: importlib.metadata.version(name) for name in names}
    device = jax.devices()[0]
    where = f"{jax.device_count()} x {device.device_kind} ({device.platform}), {os.cpu_count()} CPU cores"
    return {**versions, "python": platform.python_version(), "device": where}
