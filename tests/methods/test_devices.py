"""Many devices, and many hosts: each does its share, and the numbers are those of one."""

import json
import multiprocessing
import socket
from types import SimpleNamespace

import devices_process
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import multihost_utils
from precision import enable_x64
from small_network import SIZE, WAYS, OneBlock, double, tasks

from jaxdiv.device_memory import Fit, program_bytes
from jaxdiv.methods import evaluate, step
from jaxdiv.methods.maml import MAML
from jaxdiv.methods.parallel import Agreement, agree_after
from jaxdiv.methods.protonet import ProtoNet
from jaxdiv.methods.step import TrainSettings, first_state
from jaxdiv.nets.network import Network

# Forked from a process that has imported everything and started no backend: a second instead of five.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["devices_process", "training_process"])


def start(cache, folder, devices, hosts=1):
    """The numbers found by so many processes of so many devices each."""
    folder.mkdir()
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    how = [(cache, folder, devices, hosts, host, port) for host in range(hosts)]
    started = [processes.Process(target=devices_process.main, args=each, daemon=True) for each in how]
    for process in started:
        process.start()
    for process in started:
        process.join(300)
    assert [process.exitcode for process in started] == [0] * hosts
    return json.loads((folder / "found.json").read_text())


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return str(tmp_path_factory.mktemp("compiled"))


@pytest.fixture(scope="module")
def eight(cache, tmp_path_factory):
    return start(cache, tmp_path_factory.mktemp("eight") / "run", 8)


def check_same(found, wanted):
    """In float64, where devices only add up in another order."""
    for name, mine in found.items():
        np.testing.assert_allclose(mine["losses"], wanted[name]["losses"], rtol=1e-6)
        for accuracy, loss in mine["tests"].values():
            np.testing.assert_array_equal(accuracy, wanted[name]["tests"]["near"][0])
            np.testing.assert_allclose(loss, wanted[name]["tests"]["near"][1], rtol=1e-6)


def test_eight_devices_train_and_test_as_one(eight):
    assert eight["devices"] == 8 and {*eight["all"]} == {"ho_maml_2", "pt"}
    check_same(eight["all"], eight["one"])


def test_two_hosts_of_four_devices_train_and_test_as_one_device(eight, cache, tmp_path):
    found = start(cache, tmp_path / "run", 4, hosts=2)
    assert found["devices"] == 8 and {*found["all"]["ho_maml_2"]["tests"]} == {"near", "on the host"}
    check_same(found["all"], eight["one"])


@pytest.mark.parametrize("kind", ["tasks", "images"])
def test_each_device_draws_its_share_and_asks_no_other(eight, kind):
    """Nothing is moved before the step takes it: the draw is where it is computed."""
    assert eight["draws"][kind] == {"share": devices_process.SIZE / 8, "talks": 0, "stays": True}


# How many tasks at once

MANY = 4


class OfPixels(OneBlock):
    """Of many activations and few parameters, and soon compiled."""

    @nn.compact
    def __call__(self, images, dropblock_scale=0.0):
        features = jnp.tanh(nn.Dense(32)(images)).mean((1, 2))
        return (nn.Dense(self.ways, name="head")(features) if self.ways else features), features


NET = Network(OfPixels(), (SIZE, SIZE, 3))
METHODS = {"ho": MAML(NET, 4, first_order=False), "fo": MAML(NET, 4), "protonet": ProtoNet(NET.with_ways(0), WAYS)}


@pytest.mark.parametrize("name", ["ho", "protonet"])
def test_the_gradient_does_not_depend_on_how_many_tasks_are_computed_at_once(name):
    with enable_x64(True):
        method, batch = METHODS[name], double(tasks(MANY))
        params, model_state = double(method.init(jax.random.key(0)))
        found = []
        for tasks_at_once, remat in ((1, False), (3, True), (4, False)):  # three are no divisor: two at once
            gradient = jax.jit(method.at(Fit(tasks_at_once, remat)).gradient)
            found.append(gradient(params, model_state, batch, jax.random.key(1)))
    (gradient, _, metrics), *others = found
    for other, _, values in others:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), other, gradient)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), values, metrics)


def trained(method, limit, **more):
    """What is chosen for a device of this memory."""
    settings = TrainSettings(1)
    state = step.abstract_state(method, settings)
    return step.fit(method, settings, None, state, tasks(MANY), jax.random.key(0), limit, **more)


def need(method, fit):
    settings = TrainSettings(1)
    state = step.abstract_state(method, settings)
    return program_bytes(step.lower(method.at(fit), settings, None, state, tasks(MANY), jax.random.key(0)).compile())


def test_training_takes_as_many_tasks_as_fit_and_recomputes_where_one_does_not():
    method = METHODS["ho"]
    one, lean = need(method, Fit(1)), need(method, Fit(1, True))
    assert lean < one
    assert trained(method, 1e12) == Fit(MANY, False)
    assert trained(method, one * 1.01) == Fit(1, False)
    assert trained(method, (one + lean) / 2).remat
    assert trained(MAML(NET, 4, first_order=False, tasks_at_once=2), (one + lean) / 2) == Fit(2, True)
    assert trained(method, 1e12, first=Fit(2, True)) == Fit(2, True)  # as the run had it before


def test_what_the_user_sets_is_not_chosen():
    kept, lean = MAML(NET, 4, first_order=False, remat=False), MAML(NET, 4, first_order=False, remat=True)
    assert (kept.remats, lean.remats, METHODS["fo"].remats) == ((False,), (True,), (False,))
    assert trained(MAML(NET, 4, tasks_at_once=2), 1) == Fit(2)


def test_an_evaluation_takes_as_many_tasks_as_fit():
    method = METHODS["ho"].tested
    params, model_state = jax.eval_shape(method.init, jax.random.key(0))
    batch, keys = tasks(MANY), jax.random.split(jax.random.key(0), MANY)
    given = (params, model_state, batch, keys)
    of = lambda k: program_bytes(evaluate.lower(method, None, given, k).compile())
    assert evaluate.fit(method, None, given, MANY, 1e12) == Fit(MANY)
    assert evaluate.fit(method, None, given, MANY, 1.01 * of(1)).tasks_at_once == 1
    assert of(1) < of(MANY)
    values = [evaluate._on_tasks(method, None, *(method.init(jax.random.key(0))), batch, keys, k) for k in (1, 2, 4)]
    for other in values[1:]:
        np.testing.assert_allclose(other, values[0], rtol=1e-5)


# One state's memory, and what hosts agree on


def test_the_state_of_a_step_becomes_the_next_one():
    method, settings = METHODS["fo"], TrainSettings(1)
    state = first_state(method, settings, jax.random.key(0))
    after, _ = step.update(method, settings, None, state, tasks(MANY), jax.random.key(1))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state["params"]))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(after))


@pytest.mark.parametrize("pace, messages", [(0.01, 15), (1.0, 70), (20.0, 200)])
def test_hosts_agree_after_twenty_steps_or_five_seconds_and_at_the_same_steps(monkeypatch, pace, messages):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    clocks = SimpleNamespace(theirs=0.0)
    both = lambda mine: np.stack([mine, [False, clocks.theirs]])
    monkeypatch.setattr(multihost_utils, "process_allgather", both)
    mine, theirs, agreed = Agreement(0, 0.0), Agreement(0, 0.0), []
    for number in range(1, 201):
        clocks.theirs = number * pace * 1.1
        assert mine.due(number) == theirs.due(number)
        if mine.due(number):
            # Each has a clock of its own, and both go by the slower.
            agreed.append(number)
            seconds = mine.reach(number, False, number * pace)[1]
            assert seconds == theirs.reach(number, False, clocks.theirs)[1] == pytest.approx(clocks.theirs)
    waits = np.diff([0, *agreed])
    assert len(agreed) <= messages and waits.max() <= 20 and (waits.max() == 1 or waits.max() * pace * 1.1 <= 5)


def test_a_host_that_is_told_to_stop_stops_all(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(multihost_utils, "process_allgather", lambda mine: np.stack([mine, [True, 1.0]]))
    assert Agreement(0, 0.0).reach(1, False, 2.0) == (True, 2.0)


def test_a_first_step_that_compiles_for_minutes_is_followed_by_another_look():
    assert (agree_after(1, 300.0), agree_after(1, 0.5), agree_after(20, 0.2)) == (1, 10, 20)
