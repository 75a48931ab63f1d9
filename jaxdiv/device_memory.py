"""How many tasks a device computes at once: as many as its memory holds, by what XLA says that the program needs.

All are pure functions of numbers and of compiled programs, so that the choice for a device that is not at hand, or for
an imagined one, is made as on the device itself.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
from jax.extend import core
from jaxtyping import PyTree

# The share of a device's memory that is planned for. The rest is for the allocator's gaps, for what XLA does not count
# (cuDNN's workspaces), and for what else the process keeps there.
FILL = 0.8
_ASIDE = 0.95 - FILL  # the share that others may hold before it lowers what is planned for
_GIB = 2**30
# Of devices that do not tell their memory, by the beginning of their kind.
_KNOWN = {"TPU v2": 8, "TPU v3": 16, "TPU v4": 32, "TPU v5 lite": 16, "TPU v5e": 16, "TPU v5": 95, "TPU v6": 32}
_UNKNOWN = 8


@runtime_checkable
class Compiled(Protocol):
    """What `jax.jit(f).lower(...).compile()` gives."""

    def memory_analysis(self) -> Any: ...


class Fit(NamedTuple):
    """How many tasks a device computes at once, and whether activations are recomputed in the backward pass."""

    tasks_at_once: int
    remat: bool = False


def choose(
    compile_at: Callable[[int, bool], Compiled],
    tasks: int,
    limit_bytes: float,
    task_bytes: float = 1.0,
    remats: Sequence[bool] = (False,),
    first: Fit | None = None,
) -> Fit:
    """The most tasks at once whose compiled program fits.

    It begins with the estimate and lets the compiled need correct it: down until the program fits, and up where twice
    as many would still fit. One to three programs are compiled as a rule. The numbers of tasks are divisors of
    `tasks`, so that a program is a loop of equal rounds.

    Args:
      compile_at: tasks at once, remat -> the compiled program. An error of XLA that says it is out of memory counts
        as a program that does not fit.
      tasks: of one device.
      limit_bytes: what the program may need, its arguments and results included.
      task_bytes: of one task, a guess (`peak_bytes`), for where to begin.
      remats: what may be chosen from, in order: a later one where even one task does not fit under those before.
      first: a choice of before, which stays if it fits.

    Returns:
      The choice; one task under the last of `remats` where nothing fits.
    """
    if first and tasks % first.tasks_at_once == 0 and first.remat in remats and _need(compile_at, first) <= limit_bytes:
        return first
    for remat in remats:
        best, least_too_many = 0, tasks + 1
        now = largest_divisor(tasks, limit_bytes / max(task_bytes, 1))
        while best < now < least_too_many:
            need = _need(compile_at, Fit(now, remat))
            ratio = limit_bytes / need if 0 < need < math.inf else 0.5
            if need <= limit_bytes:
                best, now = now, largest_divisor(tasks, min(now * ratio, least_too_many - 1))
                if now < 2 * best:
                    break
            else:
                least_too_many, now = now, largest_divisor(tasks, now * min(ratio, 0.5))
        if best:
            return Fit(best, remat)
    return Fit(1, remats[-1])


def largest_divisor(tasks: int, most: float) -> int:
    """The largest divisor of `tasks` that is at most `most`, and at least 1."""
    return max(number for number in range(1, tasks + 1) if tasks % number == 0 and (number <= most or number == 1))


def program_bytes(compiled: Compiled) -> int | None:
    """What a compiled program needs on each device: arguments, results and temporaries; None: XLA does not say."""
    found = compiled.memory_analysis()
    if found is None:
        return None
    shared = found.alias_size_in_bytes
    return found.temp_size_in_bytes + found.argument_size_in_bytes + found.output_size_in_bytes - shared


def usable_bytes(device: Any, arguments: int = 0) -> float:
    """What a program may need on a device, its arguments included, of which `arguments` bytes are there already.

    A fixed share of the memory, so that a run that is repeated gets the same number. Only where others hold much of
    the memory does it get less.
    """
    stats = device.memory_stats() or {}
    total = stats.get("bytes_limit") or known_bytes(device.device_kind)
    others = max(stats.get("bytes_in_use", 0) - arguments, 0)
    return total * FILL - max(others - total * _ASIDE, 0)


def known_bytes(device_kind: str) -> int:
    """The memory of a kind of device that does not tell it."""
    names = [name for name in _KNOWN if device_kind.startswith(name)]
    return _GIB * (_KNOWN[max(names, key=len)] if names else _UNKNOWN)


def tree_bytes(tree: PyTree) -> int:
    """Of all arrays in a pytree, abstract ones too."""
    return sum(_bytes(leaf) for leaf in jax.tree.leaves(tree))


def peak_bytes(function: Callable[..., Any], *arguments: PyTree) -> int:
    """About what a function needs besides its arguments, from its trace alone: the most that is alive at a time.

    XLA fuses what this counts as arrays, so that it is rather too much: where to begin, not what to rely on.
    """
    return _peak(jax.make_jaxpr(function)(*arguments).jaxpr)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error of XLA, in compiling or running, or of the host says that memory was short."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or (
        isinstance(error, jax.errors.JaxRuntimeError)
        and any(words in text for words in ("resource_exhausted", "out of memory", "ran out of memory"))
    )


def _need(compile_at: Callable[[int, bool], Compiled], fit: Fit) -> float:
    """The bytes of the program; infinitely many where XLA itself finds that it does not fit; 0 where it cannot say."""
    try:
        return program_bytes(compile_at(*fit)) or 0.0
    except jax.errors.JaxRuntimeError as error:
        if not out_of_memory(error):
            raise
        return math.inf


def _peak(jaxpr: core.Jaxpr) -> int:
    last = {var: at for at, eqn in enumerate(jaxpr.eqns) for var in eqn.invars if isinstance(var, core.Var)}
    last |= {var: len(jaxpr.eqns) for var in jaxpr.outvars if isinstance(var, core.Var)}
    ends: dict[int, int] = {}  # bytes that end after an equation
    alive = peak = 0
    for at, eqn in enumerate(jaxpr.eqns):
        made = 0
        for var in eqn.outvars:
            size = _bytes(var.aval)
            made += size
            end = last.get(var, at)
            ends[end] = ends.get(end, 0) + size
        inside = max((_peak(inner) for value in eqn.params.values() for inner in _jaxprs(value)), default=0)
        alive += made
        peak = max(peak, alive + inside)
        alive -= ends.pop(at, 0)
    return peak


def _jaxprs(value: Any) -> list[core.Jaxpr]:
    """The programs inside a parameter of an equation."""
    if isinstance(value, core.ClosedJaxpr):
        return [value.jaxpr]
    if isinstance(value, core.Jaxpr):
        return [value]
    return [inner for each in value for inner in _jaxprs(each)] if isinstance(value, tuple | list) else []


def _bytes(leaf: Any) -> int:
    """Of an array or what stands for one; a random key counts as nothing."""
    itemsize = getattr(getattr(leaf, "dtype", None), "itemsize", 0)
    return int(getattr(leaf, "size", 0)) * itemsize
