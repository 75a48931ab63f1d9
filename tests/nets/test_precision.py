"""Every product and convolution has the precision that was asked for, in the programs that an accelerator gets."""

import dataclasses
import re
from functools import partial
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_probe import TINY, WAYS

from jaxdiv import Task, embed, embed_benchmark, evaluate, probe_from, table_from, train
from jaxdiv.methods.base import Method
from jaxdiv.methods.maml import MAML
from jaxdiv.methods.pretrain import PreTraining
from jaxdiv.methods.protonet import ProtoNet
from jaxdiv.methods.train import TrainSettings
from jaxdiv.nets.conv import conv_general_dilated
from jaxdiv.nets.network import make_network
from jaxdiv.nets.precision import default_precision, full_precision
from jaxdiv.probes import vit as transformer
from jaxdiv.probes.resnet_probe import ResNetProbe, random_params

LAYOUT = ("NHWC", "HWIO", "NHWC")


def precisions(f, *args):
    """Of every convolution and product in `f`'s program for a TPU; those of the classifier's fit are apart."""
    text = jax.jit(f).trace(*args).lower(lowering_platforms=("tpu",)).as_text()
    found, fitting = [], []
    for function in re.split(r"\n  func\.func ", text):
        within = fitting if re.match(r"private @fit\b", function) else found
        for line in function.splitlines():
            if "stablehlo.convolution" in line or "stablehlo.dot_general" in line:
                kind = "convolution" if "stablehlo.convolution" in line else "product"
                operands = re.findall(r"DEFAULT|HIGHEST|HIGH", line)
                within.append((kind, *sorted(set(operands or ["DEFAULT"]))))
    return found, fitting


def resnet():
    return ResNetProbe("tiny", TINY, random_params(jax.random.key(0), TINY))


def vit():
    net = transformer.ViT(width=8, depth=1, heads=2, patch=4, grid=2)
    return transformer.ViTProbe("tiny", net, transformer.random_params(jax.random.key(0), net))


def generic():
    net = nn.Conv(4, (3, 3))
    images = jnp.zeros((1, 8, 8, 3))
    return probe_from(net.apply, net.init(jax.random.key(0), images), features=lambda maps: maps.mean((1, 2)))


def of_embedding(probe, estimator):
    """A task's embedding."""

    def program():
        make = lambda probe, images, labels: embed(probe, images, labels, WAYS, estimator, jax.random.key(0))
        return make, jax.eval_shape(probe), np.zeros((6, 8, 8, 3), np.float32), np.arange(6) % WAYS

    return program


def of_training(method):
    """A step of training."""

    def program():
        params, state = jax.eval_shape(method.init, jax.random.key(0))
        batch = (IMAGES16, jnp.arange(6)) if isinstance(method, PreTraining) else TASKS
        return lambda params, state: method.gradient(params, state, batch, jax.random.key(0)), params, state

    return program


def of_test(method):
    """A test task, as `evaluate` adapts to it."""

    def program():
        params, state = jax.eval_shape(method.init, jax.random.key(0))
        predict = lambda params, state: method.adapt(params, state, IMAGES16, jnp.arange(6) % 3, jax.random.key(0))
        return lambda params, state: predict(params, state)(IMAGES16), params, state

    return program


IMAGES16 = jnp.zeros((6, 16, 16, 3))
TASKS = Task(IMAGES16[None], jnp.arange(6)[None] % 3, IMAGES16[None], jnp.arange(6)[None] % 3)
NET = make_network("conv4", 3, 16, width=4)
PROGRAMS = {
    "a ResNet's exact Fisher": of_embedding(resnet, "exact"),
    "the reference's": of_embedding(resnet, "reference"),
    "a transformer's": of_embedding(vit, "exact"),
    "any network's": of_embedding(generic, "exact"),
    "a step of MAML": of_training(MAML(NET, 1)),
    "a step of pre-training": of_training(PreTraining(NET, 3)),
    "a step of ProtoNet": of_training(ProtoNet(NET.with_ways(0), 3)),
    "a test of MAML": of_test(MAML(NET, 1)),
    "a test of pre-training": of_test(PreTraining(NET, 3)),
    "a test of ProtoNet": of_test(ProtoNet(NET.with_ways(0), 3)),
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_product_and_convolution_is_at_full_precision_where_nothing_is_said(program):
    f, *args = PROGRAMS[program]()
    found, fitting = precisions(full_precision(f), *args)
    assert {precision for _, precision in found} == {"HIGHEST"}
    assert {precision for _, precision in fitting} <= {"HIGHEST"}


@pytest.mark.parametrize("program", ["any network's", "a test of pre-training"])
def test_every_product_and_convolution_but_the_classifiers_fit_is_at_the_precision_that_is_said(program):
    f, *args = PROGRAMS[program]()
    with jax.default_matmul_precision("high"):
        found, fitting = precisions(full_precision(f), *args)
    assert {precision for _, precision in found} == {"HIGH"}
    assert {precision for _, precision in fitting} == {"HIGHEST"}


def test_a_convolutions_own_precision_is_that_of_its_derivatives_too():
    x, w = jnp.zeros((2, 6, 6, 3)), jnp.zeros((3, 3, 3, 4))
    conv = partial(conv_general_dilated, window_strides=(1, 1), padding="SAME", dimension_numbers=LAYOUT)
    first = jax.grad(lambda x, w: jnp.sum(conv(x, w, precision="high") ** 3), (0, 1))
    found, _ = precisions(jax.grad(lambda x, w: sum(jnp.sum(g**2) for g in first(x, w)), (0, 1)), x, w)
    assert {precision for _, precision in found} == {"HIGH"} and len(found) > 4


class Enough(Exception):
    """What was to be seen was seen."""


@dataclasses.dataclass(frozen=True)
class Seen(Method):
    """A method that notes the precision at which it is trained and tested."""

    found: ClassVar[list] = []
    name = "seen"

    def init(self, key):
        return {"w": jnp.zeros(2)}, {}

    def gradient(self, params, model_state, batch, key):
        self.found.append(default_precision())
        return params, model_state, {"loss": jnp.zeros(()), "accuracy": jnp.zeros(())}

    def adapt(self, params, model_state, support, labels, key):
        self.found.append(default_precision())
        return lambda queries: jnp.zeros((len(queries), 3))


@pytest.fixture
def probe():
    """A probe that notes the precision at which its network is traced, which it then leaves."""
    seen = []

    def apply(params, images):
        seen.append(default_precision())
        raise Enough

    network = lambda params, images: images.mean((1, 2)) @ params["kernel"]
    return dataclasses.replace(probe_from(network, {"kernel": jnp.ones((3, 4))}), apply=apply), seen


def test_the_librarys_entry_points_are_at_full_precision(probe, tmp_path):
    probe, seen = probe
    table = table_from(np.zeros((12, 8, 8, 3), np.uint8), np.arange(12) % 3)
    with pytest.raises(Enough):
        embed_benchmark(probe, table, tasks=1, ways=2, shots=1, queries=1)
    Seen.found.clear()
    train(Seen(), lambda key: TASKS, jax.random.key(0), TrainSettings(1), tmp_path)
    evaluate(Seen(), {}, {}, lambda key, count: TASKS, jax.random.key(0), tasks=1, chunk=1)
    assert [*seen, *Seen.found] == ["highest"] * 3
    assert default_precision() is None


def test_a_precision_that_a_user_chose_stays(probe):
    probe, seen = probe
    with jax.default_matmul_precision("default"), pytest.raises(Enough):
        probe.features(jnp.zeros((2, 8, 8, 3)))
    assert seen == ["default"]
