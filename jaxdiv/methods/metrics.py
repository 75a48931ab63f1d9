"""What a training run reports: a line per step in `metrics.jsonl`, TensorBoard, and the end at a loss of NaN."""

import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from jaxtyping import Array

# How many steps' metrics wait on the device before they are fetched: fetching each would stall an accelerator.
_FETCH_EVERY = 10


class Diverged(ArithmeticError):
    """A loss or a parameter became NaN or infinite. The message names the step and what to do."""


class Log:
    """Metrics: on the device until they are fetched, then in `metrics.jsonl` and TensorBoard. A context manager.

    Args:
      folder: gets `metrics.jsonl`, a line per step and per validation, and `tensorboard/`.
      checkpoint: gives the step of the latest checkpoint, None if there is none.
      progress: called with the steps done and the last step's metrics, `steps_per_second` among them.
    """

    def __init__(
        self, folder: Path, checkpoint: Callable[[], int | None], progress: Callable[[int, dict[str, float]], None]
    ):
        self._folder, self._checkpoint, self._progress = folder, checkpoint, progress
        self._mine = jax.process_index() == 0  # of the hosts, the first writes
        self._pending: list[tuple[int, dict[str, Array]]] = []
        self._clock = (0, 0.0)

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *_: Any) -> None:
        if self._mine and hasattr(self, "_lines"):
            self._lines.close()
            self._board.close()

    def begin(self, step: int) -> None:
        """Go on after `step`: what a killed run logged after its last checkpoint is removed."""
        self._clock = (step, time.monotonic())
        file = self._folder / "metrics.jsonl"
        if not self._mine:
            return
        from tensorboardX import SummaryWriter  # half a second, and only training needs it

        kept = file.read_text().splitlines(keepends=True) if file.exists() else []
        file.write_text("".join(line for line in kept if json.loads(line)["step"] <= step))
        self._lines = file.open("a")
        self._board = SummaryWriter(str(self._folder / "tensorboard"), purge_step=step + 1)

    def add(self, step: int, metrics: dict[str, Array]) -> None:
        """A step's metrics, still on the device. Raises Diverged as `fetch`."""
        self._pending.append((step, metrics))
        if len(self._pending) > 1:
            # One step ahead of the device is enough to keep it busy, and SIGTERM then waits for one step, not ten.
            jax.block_until_ready(self._pending[-2][1])
        if len(self._pending) == _FETCH_EVERY or time.monotonic() - self._clock[1] > 1:
            self.fetch()

    def fetch(self) -> None:
        """Log what is pending.

        Raises:
          Diverged: at the first loss that is not finite.
        """
        values: dict[str, float] = {}
        for step, metrics in jax.device_get(self._pending):
            values = {name: float(value) for name, value in metrics.items()}
            if not math.isfinite(values["loss"]):
                good = self._checkpoint()
                kept = f"the checkpoint of step {good} is kept" if good else "no checkpoint was made yet"
                raise Diverged(f"the loss is {values['loss']} at step {step}; {kept}; lower the learning rates")
            self._write(step, "train", values, {"step": step, **values})
        if self._pending:
            step = self._pending[-1][0]
            since, began = self._clock
            self._clock = (step, time.monotonic())
            rate = (step - since) / max(self._clock[1] - began, 1e-9)
            self._progress(step, {**values, "steps_per_second": rate})
        self._pending = []
        if self._mine:
            self._lines.flush()

    def validated(self, step: int, found: dict[str, float]) -> None:
        """A validation's accuracy and loss."""
        self._write(step, "validation", found, {"step": step, "validation": found})
        if self._mine:
            self._lines.flush()
            self._board.flush()

    def last(self) -> dict[str, Any]:
        """The last step's line."""
        lines = map(json.loads, (self._folder / "metrics.jsonl").read_text().splitlines())
        return [line for line in lines if "loss" in line][-1]

    def _write(self, step: int, part: str, values: Mapping[str, float], line: Mapping[str, Any]) -> None:
        if self._mine:
            self._lines.write(json.dumps(line) + "\n")
            for name, value in values.items():
                self._board.add_scalar(f"{part}/{name}", value, step)
