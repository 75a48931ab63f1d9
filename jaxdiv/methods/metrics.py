"""What a training run reports: a line per step in `metrics.jsonl`, TensorBoard, and the end at a loss of NaN.

The files are a log that nothing depends on: where they are damaged or cannot be written, training goes on without.
"""

import contextlib
import json
import math
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from jaxtyping import Array

from jaxdiv.errors import Damage
from jaxdiv.files import replacing

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
        self._checkpoint, self._progress = checkpoint, progress
        self._files = _Files(folder) if jax.process_index() == 0 else None  # of the hosts, the first writes
        self._pending: list[tuple[int, dict[str, Array]]] = []
        self._clock = (0, 0.0)
        self._last: dict[str, Any] = {}

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *_: Any) -> None:
        if self._files:
            self._files.close()

    def begin(self, step: int, last: Mapping[str, Any] | None = None) -> None:
        """Go on after `step`, whose metrics were `last`: what a killed run logged after its last checkpoint is
        removed."""
        self._clock, self._last = (step, time.monotonic()), dict(last or {})
        if self._files:
            self._files.open(step)

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
                # The first loss is one of the parameters that training began with.
                first = "see that labels are below the method's ways and images finite, or " if step == 1 else ""
                raise Diverged(f"the loss is {values['loss']} at step {step}; {kept}; {first}lower the learning rates")
            self._last = {"step": step, **values}
            self._write(step, "train", values, self._last)
        if self._pending:
            step = self._pending[-1][0]
            since, began = self._clock
            self._clock = (step, time.monotonic())
            rate = (step - since) / max(self._clock[1] - began, 1e-9)
            self._progress(step, {**values, "steps_per_second": rate})
        self._pending = []
        if self._files:
            self._files.flush()

    def validated(self, step: int, found: dict[str, float]) -> None:
        """A validation's accuracy and loss."""
        self._write(step, "validation", found, {"step": step, "validation": found})
        if self._files:
            self._files.flush(board=True)

    def last(self) -> dict[str, Any]:
        """The last step's number and metrics."""
        return dict(self._last)

    def _write(self, step: int, part: str, values: Mapping[str, float], line: Mapping[str, Any]) -> None:
        if self._files:
            self._files.write(step, {f"{part}/{name}": value for name, value in values.items()}, line)


def read_lines(file: Path) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl` that are whole: a cut or damaged one is left out, and a missing file has none."""
    found = []
    with contextlib.suppress(OSError):
        for line in file.read_bytes().splitlines():
            with contextlib.suppress(ValueError, RecursionError):
                found.append(json.loads(line))
    return [line for line in found if isinstance(line, dict) and isinstance(line.get("step"), int)]


class _Files:
    """`metrics.jsonl` and TensorBoard's events in a folder, until one of them cannot be written.

    TensorBoard's file is written by its `EventsWriter`, here and now. The usual `SummaryWriter` hands events to a
    thread: if that dies, as of a full disk, its queue fills, and the training would wait for ever.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._lines: Any = None
        self._events: Any = None

    def open(self, step: int) -> None:
        """Keep the lines up to `step`, and write after them."""
        from tensorboardX.event_file_writer import EventsWriter  # half a second, and only training needs it
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        file, board = self._folder / "metrics.jsonl", self._folder / "tensorboard"
        try:
            kept = [line for line in read_lines(file) if line["step"] <= step]
            with replacing(file) as temporary:
                temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))
            board.mkdir(parents=True, exist_ok=True)
            self._lines = file.open("a")
            # The step is in the file's name: its time alone is that of an earlier file where the clock jumped back.
            self._events = EventsWriter(str(board / "events"), f".{step}")
            # TensorBoard then forgets what a killed run logged of later steps.
            start = SessionLog(status=SessionLog.SessionStatus.Value("START"))
            self._events.write_event(Event(wall_time=time.time(), step=step + 1, session_log=start))
        except OSError as error:
            self._give_up(error)

    def write(self, step: int, values: Mapping[str, float], line: Mapping[str, Any]) -> None:
        """A line, and TensorBoard's scalars."""
        if self._lines is None:
            return
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        try:
            self._lines.write(json.dumps(line) + "\n")
            for name, value in values.items():
                self._events.write_event(Event(wall_time=time.time(), step=step, summary=scalar(name, value)))
        except OSError as error:
            self._give_up(error)

    def flush(self, board: bool = False) -> None:
        """The lines that are written can be read; and TensorBoard's events, which waits for the disk."""
        if self._lines is not None:
            try:
                self._lines.flush()
                if board:
                    self._events.flush()
            except OSError as error:
                self._give_up(error)

    def close(self) -> None:
        """No more is written. What cannot be flushed is lost."""
        for file in (self._lines, self._events):
            with contextlib.suppress(OSError):
                if file is not None:
                    file.close()
        self._lines = self._events = None

    def _give_up(self, error: OSError) -> None:
        self.close()
        warnings.warn(
            f"{self._folder}/metrics.jsonl cannot be written ({error.strerror or error}): training goes on without",
            Damage,
            stacklevel=2,
        )
