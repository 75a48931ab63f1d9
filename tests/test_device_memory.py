"""How many tasks a device computes at once: on programs whose need is made up, and on compiled ones."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from jaxdiv.device_memory import (
    Fit,
    choose,
    known_bytes,
    largest_divisor,
    out_of_memory,
    peak_bytes,
    program_bytes,
    tree_bytes,
    usable_bytes,
)


def programs(each, fixed=0.0, remat_share=1.0, refuses=float("inf")):
    """Programs that need `fixed` and so much for each task; above `refuses` XLA itself is out of memory."""
    tried = []

    def compile_at(tasks_at_once, remat):
        tried.append((tasks_at_once, remat))
        need = fixed + tasks_at_once * each * (remat_share if remat else 1)
        if need > refuses:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory")
        parts = dict(temp_size_in_bytes=round(need), argument_size_in_bytes=5, output_size_in_bytes=3)
        return SimpleNamespace(memory_analysis=lambda: SimpleNamespace(**parts, alias_size_in_bytes=8))

    return compile_at, tried


@pytest.mark.parametrize("guess", [1e-3, 0.5, 1.0, 3.0, 1e9])
@pytest.mark.parametrize("fixed", [0, 10, 40])
@pytest.mark.parametrize("refuses", [float("inf"), 60])
def test_the_choice_fits_whatever_the_guess_and_more_would_hardly(guess, fixed, refuses):
    for tasks in (1, 4, 25, 32, 36):
        for limit in (3, 45, 50, 1000):
            compile_at, tried = programs(1.0, fixed, refuses=refuses)
            found, _ = choose(compile_at, tasks, limit, guess)
            fit = [k for k in range(1, tasks + 1) if tasks % k == 0 and fixed + k <= min(limit, refuses)]
            assert found in (fit or [1]) and len(tried) == len({*tried}) <= 6
            larger = [k for k in fit if k >= 2 * found]
            # Above it, only what the need that is proportional to the tasks would not let one expect.
            assert not larger or larger[0] * (fixed + found) > limit * found


def test_recomputing_comes_where_one_task_does_not_fit_without_and_not_before():
    compile_at, _ = programs(100.0, remat_share=0.05)
    assert choose(compile_at, 4, 150, 100, (False, True)) == Fit(1, False)
    assert choose(compile_at, 4, 50, 100, (False, True)) == Fit(4, True)
    assert choose(compile_at, 4, 50, 100, (False,)) == choose(compile_at, 4, 50, 100) == Fit(1, False)
    assert choose(compile_at, 4, 1, 100, (False, True)) == Fit(1, True)  # nothing fits: the leanest


def test_a_choice_of_before_stays_while_it_fits():
    compile_at, tried = programs(1.0)
    assert choose(compile_at, 8, 100, first=Fit(2)) == Fit(2) and tried == [(2, False)]
    assert choose(compile_at, 8, 1.5, first=Fit(2)) == Fit(1)
    assert choose(compile_at, 9, 100, first=Fit(2)) == Fit(9)  # of another number of tasks


def test_an_error_that_is_not_of_memory_is_raised():
    def broken(tasks_at_once, remat):
        raise jax.errors.JaxRuntimeError("INTERNAL: no such kernel")

    with pytest.raises(jax.errors.JaxRuntimeError, match="no such kernel"):
        choose(broken, 4, 100)
    assert out_of_memory(MemoryError()) and not out_of_memory(ValueError("out of memory"))


def test_largest_divisor():
    assert [largest_divisor(25, most) for most in (0, 1, 4.9, 5, 24, 25, 1e9)] == [1, 1, 1, 5, 5, 25, 25]


def device(kind="H100", **stats):
    return SimpleNamespace(device_kind=kind, memory_stats=lambda: stats or None)


def test_the_same_device_gives_the_same_number_until_others_hold_much_of_it():
    of = lambda in_use, arguments=0: usable_bytes(device(bytes_limit=1000, bytes_in_use=in_use), arguments)
    assert of(0) == of(140) == of(500, arguments=400) == pytest.approx(800)
    assert of(350) == pytest.approx(600)
    assert usable_bytes(device("TPU v5 lite")) == 0.8 * known_bytes("TPU v5 lite") == 0.8 * 16 * 2**30
    assert known_bytes("TPU v5p") == 95 * 2**30 and known_bytes("something new") == 8 * 2**30


def test_the_trace_tells_about_what_the_compiled_program_needs():
    """Within a factor of three of XLA, which fuses some of it; a loop's stacked activations count for every step."""
    x, w = jnp.zeros((256, 128)), jnp.zeros((128, 128))

    def loss(w, steps):
        return lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, length=steps)[0].sum()

    for steps in (1, 16):
        gradient = lambda w, steps=steps: jax.grad(loss)(w, steps)
        needed = jax.jit(gradient).lower(w).compile().memory_analysis().temp_size_in_bytes
        assert needed / 3 < peak_bytes(gradient, w) < 3 * needed + 4 * tree_bytes(x)


def test_a_donated_argument_counts_once():
    x = jnp.zeros(1000)
    add = lambda x: x + 1
    assert program_bytes(jax.jit(add, donate_argnums=0).lower(x).compile()) < 1.5 * x.nbytes
    assert program_bytes(jax.jit(add).lower(x).compile()) >= 2 * x.nbytes
