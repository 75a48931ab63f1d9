"""The state of a study at a glance: what is done, runs, waits or failed, and how long the rest will take."""

import json
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxdiv.methods.checkpointing import latest_step
from jaxdiv.study import lease, worker
from jaxdiv.study.planner import Plan
from jaxdiv.study.progress import kind, minutes
from jaxdiv.study.unit import Unit


@dataclass(frozen=True)
class State:
    """How a unit is.

    Attributes:
      word: `done`, `running`, `failed`, `resume from step N`, `run`, or `wait` where inputs are missing.
      detail: where and since when it runs, why it failed, or what it waits for.
      share: how much of it is done, 0..1.
    """

    word: str
    detail: str = ""
    share: float = 0.0


def overview(plan: Plan, listed: Sequence[Unit]) -> str:
    """A line for each unit of `listed`, and one for all of them. Needs no lease."""
    done = {unit.name: unit.done for unit in plan.units}
    states = {unit.name: state(unit, done) for unit in listed}
    lines = []
    for unit in listed:
        found = states[unit.name]
        detail = f"  {found.detail}" if found.detail else ""
        settings = ", ".join(f"{key}={value}" for key, value in unit.settings.items())
        lines.append(f"{found.word:24} {unit.name}{detail}  ({settings})")
    if driver := lease.working(plan.workdir / "running" / "driver.json"):
        lines.append(f"driven by {driver}")
    return "\n".join([*lines, _sum(listed, states)])


def state(unit: Unit, done: dict[str, bool]) -> State:
    """How a unit is. done: of every unit of the study, by name."""
    if done[unit.name]:
        return State("done", share=1.0)
    if there := lease.working(worker.lease_file(unit)):
        note = f": {there.note}" if there.note else ""
        silent = 0.0 if there.alive else _silent(worker.lease_file(unit))
        unheard = f", not heard of for {minutes(silent)}" if silent > lease.SILENCE else ""
        return State("running", f"on {there}, {there.share:.0%}{note}{unheard}", there.share)
    if why := worker.failure(unit):
        return State("failed", why)
    if step := latest_step(unit.folder):
        return State(f"resume from step {step}", share=min(step / getattr(unit.spec, "steps", step), 1.0))
    if needs := [need.name for need in unit.inputs if not done[need.name]]:
        more = f" and {len(needs) - 2} more" if len(needs) > 2 else ""
        return State("wait", f"for {', '.join(needs[:2])}{more}")
    return State("run")


def seconds_left(units: Sequence[Unit], shares: dict[str, float]) -> tuple[float, float]:
    """How long units will take one after the other, and the share of it that is only guessed.

    A unit's time is its rough cost times the pace of those that are done: of its kind (as all benchmarks of a method),
    else of its stage. Without one, the cost is the guess.
    """
    paces: dict[str, list[float]] = defaultdict(list)
    for unit in units:
        if shares[unit.name] == 1.0 and (seconds := _seconds(unit)):
            paces[kind(unit)].append(seconds / unit.cost)
            paces[unit.stage].append(seconds / unit.cost)
    total = guessed = 0.0
    for unit in units:
        known = paces.get(kind(unit)) or paces.get(unit.stage)
        time_left = (1 - shares[unit.name]) * unit.cost * (sum(known) / len(known) if known else 1.0)
        total += time_left
        guessed += 0.0 if known else time_left
    return total, guessed / total if total else 0.0


def _silent(file: Path) -> float:
    """For how many seconds a lease has not changed, by the clocks of two machines: only shown."""
    try:
        return time.time() - file.stat().st_mtime
    except FileNotFoundError:  # given back since it was read
        return 0.0


def _seconds(unit: Unit) -> float:
    """How long a unit took that is done. Training says it of all its runs, however often it was killed."""
    try:
        record = json.loads((unit.folder / "result.json").read_text())
        return max(record["seconds"], record["result"].get("seconds", 0.0))
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return 0.0


def _sum(units: Sequence[Unit], states: dict[str, State]) -> str:
    """The last line: how many units are how, and the time left."""
    counts = Counter(state.word.split()[0] for state in states.values())
    words = ", ".join(
        f"{counts[word]} {word}" for word in ("done", "running", "failed", "resume", "run", "wait") if counts[word]
    )
    total, guessed = seconds_left(units, {name: state.share for name, state in states.items()})
    if not total:
        return f"{len(units)} units: {words}"
    how = "guessed for two CPU cores" if guessed > 0.99 else "at the pace of what is done"
    if 0.01 < guessed <= 0.99:
        how += f", {guessed:.0%} of it guessed"
    return f"{len(units)} units: {words}; {minutes(total)} of work left, {how}"
