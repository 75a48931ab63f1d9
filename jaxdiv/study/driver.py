"""The driver of a study: units handed out as their inputs are done, to this process or to a launcher."""

import contextlib
import threading
import time
from dataclasses import dataclass, field

from ml_collections import ConfigDict
from rich.console import Console

from jaxdiv.methods.checkpointing import latest_step
from jaxdiv.methods.train import TERMINATED, sigterm
from jaxdiv.study import checks, lease, worker
from jaxdiv.study.launchers import Handle, Launcher
from jaxdiv.study.planner import Plan
from jaxdiv.study.progress import Watch
from jaxdiv.study.unit import Unit
from jaxdiv.study.worker import Outcome

_LATE = 90.0  # seconds after which a result that was written elsewhere must be seen here
_LOOK_EVERY = 0.2  # seconds between two looks at what runs elsewhere


@dataclass
class Work:
    """The units of a run: what waits, what runs, and what failed.

    Attributes:
      waiting: units to run, each after its inputs.
      launcher: runs them elsewhere; None: this process does.
      config: the configuration behind the plan; each worker process makes its own plan from it.
      held: the lease of the study, under which it is driven; InputError once it is another's.
      running: by name, the unit and what the launcher gave for it.
      failed: why, by name.
      deaths: by name, how many processes died without getting further, and at which step of training.
      unseen: by name, since when a worker says that it is done while its result cannot be seen here.
      lookout: knows who works at units besides this driver's workers.
    """

    plan: Plan
    waiting: list[Unit]
    launcher: Launcher | None
    config: ConfigDict
    console: Console
    held: lease.Lease | None = None
    running: dict[str, tuple[Unit, Handle]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    deaths: dict[str, tuple[int, int]] = field(default_factory=dict)
    unseen: dict[str, float] = field(default_factory=dict)
    lookout: lease.Lookout = field(default_factory=lease.Lookout)

    def done(self) -> list[dict[str, str]]:
        """Run them all. Returns the units that failed in a way that must not cost the others, and why."""
        with Watch(self.console, self.waiting, self.launcher.at_once if self.launcher else 1) as self.watch:
            if self.launcher:
                with contextlib.closing(self.launcher), sigterm() as terminated:
                    self._elsewhere(self.launcher, terminated)
            else:
                self._here()
        return [{"unit": name, "reason": reason} for name, reason in self.failed.items()]

    def _here(self) -> None:
        while self.waiting:
            self._still_drives()
            unit = self.waiting.pop(0)
            progress = self.watch.start(unit)
            self._ended(unit, self._lost(unit) or worker.perform(unit, progress))

    def _elsewhere(self, launcher: Launcher, terminated: threading.Event) -> None:
        looked = time.monotonic()
        while self.waiting or self.running:
            if terminated.is_set():
                raise SystemExit(TERMINATED)
            self._still_drives()
            changed = self._hand_out(launcher)
            for unit, handle in list(self.running.values()):
                outcome = Outcome() if unit.name in self.unseen else handle.outcome()
                if not outcome or (not outcome.reason and not self._seen(unit)):
                    continue
                changed = True
                del self.running[unit.name]
                if outcome.died and self._try_again(unit, launcher.retries):
                    self.watch.stop(unit)
                    self.waiting.insert(0, unit)
                elif unit.done:  # its process may have died after that
                    self._ended(unit, None)
                elif outcome.reason:
                    if outcome.died:  # the others tell themselves
                        worker.note_failure(unit, outcome.reason)
                    self._ended(unit, outcome.reason)
                else:
                    self._ended(unit, "its result cannot be seen here: is --workdir on a disk that all workers share?")
            if time.monotonic() - looked > 5:
                looked = time.monotonic()
                for unit, _ in self.running.values():
                    if there := lease.holder(worker.lease_file(unit)):
                        self.watch.report(unit, there.share, there.note)
            if not changed:
                time.sleep(_LOOK_EVERY)

    def _still_drives(self) -> None:
        if self.held:
            self.held.say(0.0)

    def _hand_out(self, launcher: Launcher) -> bool:
        """Give the launcher what is ready. Whether anything changed."""
        open_, before = {unit.name for unit in self.waiting} | self.running.keys(), len(self.waiting)
        ready: list[Unit] = []
        for unit in list(self.waiting):
            if reason := self._lost(unit):
                self.waiting.remove(unit)
                self.watch.start(unit)
                self._ended(unit, reason)
            elif len(ready) < launcher.room() and not any(need.name in open_ for need in unit.inputs):
                # Whoever else works at it, by a command or for a driver that was killed, goes on.
                if self.lookout.working(worker.lease_file(unit)):
                    continue
                self.waiting.remove(unit)
                if unit.done:
                    self.watch.start(unit)
                    self._ended(unit, None)
                else:
                    ready.append(unit)
        if ready:
            jobs = [(unit, worker.job(self.config, self.plan.workdir, unit)) for unit in ready]
            for unit, handle in zip(ready, launcher.submit(jobs), strict=True):
                self.watch.start(unit)
                self.running[unit.name] = unit, handle
        return len(self.waiting) != before

    def _seen(self, unit: Unit) -> bool:
        """Whether a result is here, or has not come for so long that it will not. NFS can be a minute late."""
        if unit.done:
            self.unseen.pop(unit.name, None)
            return True
        return time.monotonic() - self.unseen.setdefault(unit.name, time.monotonic()) > _LATE

    def _lost(self, unit: Unit) -> str | None:
        """Why a unit cannot be run: an input of it failed."""
        return next((f"{need.name} failed" for need in unit.inputs if need.name in self.failed), None)

    def _try_again(self, unit: Unit, retries: int) -> bool:
        """Whether a unit whose process died is tried again. Only deaths since it last got further count."""
        step = latest_step(unit.folder)
        count, before = self.deaths.get(unit.name, (0, step))
        self.deaths[unit.name] = count + 1 if step == before else 1, step
        return self.deaths[unit.name][0] <= retries

    def _ended(self, unit: Unit, reason: str | None) -> None:
        self.watch.end(unit, f"failed: {reason}" if reason else "done")
        if reason:
            self.failed[unit.name] = reason
        elif unit.stage == "prepare" and not any(each.stage == "prepare" for each in self.waiting):
            checks.check_sizes(self.plan, self.waiting)
