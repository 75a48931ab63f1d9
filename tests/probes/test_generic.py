"""Any network as a probe: against the ResNet's own path, against closed forms, and on what is no image."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from precision import enable_x64
from random_probe import CASES, WAYS, setting

from jaxdiv.errors import InputError
from jaxdiv.nets.logistic import Head
from jaxdiv.probes.base import Probe
from jaxdiv.probes.generic import probe_from
from jaxdiv.probes.registry import load_probe
from jaxdiv.task2vec import aws, embed, fisher


def as_generic(probe):
    """A ResNet, batch norm frozen, as anybody's network."""
    stats, net = probe.params["batch_stats"], probe.net
    return probe_from(lambda params, x: net.apply({"params": params, "batch_stats": stats}, x), probe.weights)


def by_layer(probe, found, names):
    return np.concatenate([np.asarray(found)[np.array(probe.layer_names) == name] for name in dict.fromkeys(names)])


def test_a_resnet18_as_a_generic_probe_has_the_fisher_of_its_own_path():
    with enable_x64(True):
        probe = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), load_probe("resnet18"))
        rng = np.random.default_rng(0)
        images, head = rng.normal(size=(2, 8, 8, 3)), Head(rng.normal(0, 0.1, (512, 2)), np.zeros(2))
        own, generic = fisher.fisher(probe, images, head), as_generic(probe)
        found = by_layer(generic, fisher.fisher(generic, images, head), probe.layer_names)
    np.testing.assert_allclose(found, own, rtol=1e-5)
    assert sorted(generic.layer_names) == sorted(probe.layer_names)


@pytest.mark.parametrize("estimator", ["exact", "rademacher", "mc"])
def test_every_estimator_draws_as_the_resnets_own_path_does(estimator):
    probe, images, head = setting(*CASES["basic blocks"])
    generic, key = as_generic(probe), jax.random.key(1)
    own = fisher.fisher(probe, images, head, estimator, key, chunk=3)
    found = by_layer(generic, fisher.fisher(generic, images, head, estimator, key, chunk=3), probe.layer_names)
    np.testing.assert_allclose(found, own, rtol=1e-3, atol=1e-5 * float(own.max()))


def perceptron(params, x):
    return jnp.tanh(x @ params["first"]["w"] + params["first"]["b"]) @ params["last"]


def perceptron_setting(units=4, features=3, examples=6):
    rng = np.random.default_rng(3)
    params = {"first": {"w": rng.normal(size=(5, units)), "b": rng.normal(size=units)}}
    params["last"] = rng.normal(size=(units, features))
    head = Head(rng.normal(size=(features, WAYS)), rng.normal(size=WAYS))
    return params, rng.normal(size=(examples, 5)), head


def fisher_in_numpy(params, batch, head):
    """Per unit, written out: log p's gradient in `last` is hidden ⊗ g, in `w` it is x ⊗ (last g · (1 − hidden²))."""
    total = {"first.w": 0, "last": 0}
    for x in batch:
        hidden = np.tanh(x @ params["first"]["w"] + params["first"]["b"])
        scores = np.exp(hidden @ params["last"] @ head.kernel + head.bias)
        p = scores / scores.sum()
        for label in range(WAYS):
            g = head.kernel @ (np.eye(WAYS)[label] - p)
            inner = (params["last"] @ g) * (1 - hidden**2)
            total["last"] += p[label] * (np.outer(hidden, g) ** 2).mean(0) / len(batch)
            total["first.w"] += p[label] * (np.outer(x, inner) ** 2).mean(0) / len(batch)
    return np.concatenate([total["first.w"], total["last"]])


def test_exact_equals_the_closed_form_of_a_perceptron_and_no_chunk_changes_it():
    params, batch, head = perceptron_setting()
    expected = fisher_in_numpy(params, batch, head)
    with enable_x64(True):
        probe = probe_from(perceptron, params)
        assert probe.layer_names == ("first.w",) * 4 + ("last",) * 3
        for chunk in (None, 4, 1):
            np.testing.assert_allclose(fisher.fisher(probe, batch, head, chunk=chunk), expected, rtol=1e-10)


def test_reference_is_the_squared_mean_gradient_of_the_network_as_it_is(monkeypatch):
    monkeypatch.setattr(aws, "_BATCHES", 2)
    params, batch, head = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), perceptron_setting())
    probe, total = probe_from(perceptron, params), 0
    for of_batch in jax.random.split(jax.random.key(3), 2):  # the draws, as the estimator makes them
        for_rows, for_labels = jax.random.split(of_batch)
        rows = jax.random.randint(for_rows, (64,), 0, len(batch))
        hidden = jnp.tanh(batch[rows] @ params["first"]["w"] + params["first"]["b"])
        logits = hidden @ params["last"] @ head.kernel + head.bias
        drawn = jax.nn.one_hot(jax.random.categorical(for_labels, logits), WAYS)
        g = (jax.nn.softmax(logits) - drawn) @ head.kernel.T / 64
        total += jnp.square(hidden.T @ g).mean(0) / 2
    np.testing.assert_allclose(fisher.reference(probe, batch, head, jax.random.key(3))[4:], total, rtol=1e-3)


def test_weights_of_pytorchs_layout_have_the_units_that_output_axes_names():
    params, batch, head = perceptron_setting()
    turned = {"w": params["first"]["w"].T, "b": params["first"]["b"], "last": params["last"].T}
    apply = lambda p, x: perceptron({"first": {"w": p["w"].T, "b": p["b"]}, "last": p["last"].T}, x)
    with enable_x64(True):
        probe = probe_from(apply, turned, output_axes=lambda name, shape: (0,) if len(shape) > 1 else ())
        found = by_layer(probe, fisher.fisher(probe, batch, head), ["w", "last"])
    np.testing.assert_allclose(found, fisher_in_numpy(params, batch, head), rtol=1e-10)


class Reader(nn.Module):
    """Tokens with a mask -> a feature vector for each token."""

    @nn.compact
    def __call__(self, batch):
        x = nn.Embed(11, 6)(batch["tokens"])
        x = nn.MultiHeadDotProductAttention(2)(x, mask=batch["mask"][:, None, None, :])
        return nn.LayerNorm()(x) * batch["mask"][..., None]


def of_tokens(out):
    return out.sum(1)


def sentences(tasks=2, examples=7, length=5):
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 11, (tasks, examples, length))
    return {"tokens": tokens, "mask": np.arange(length) < rng.integers(1, length + 1, (tasks, examples, 1))}


def test_tasks_of_tokens_are_embedded_as_each_alone_whatever_the_chunk():
    batches, labels = sentences(), np.tile(np.arange(7) % WAYS, (2, 1))
    first = jax.tree.map(lambda leaf: leaf[0], batches)
    net = Reader()
    probe = probe_from(net.apply, net.init(jax.random.key(0), first), of_tokens)
    assert isinstance(probe, Probe)
    together = embed.embed_tasks(probe, batches, labels, WAYS, chunk=2)
    for i in range(2):
        alone = embed.embed(probe, jax.tree.map(lambda leaf, i=i: leaf[i], batches), labels[i], WAYS)
        np.testing.assert_allclose(together[i], alone, rtol=1e-3, atol=1e-5 * float(alone.max()))
    assert "params.Embed_0" in probe.layer_names and "params.LayerNorm_0" in probe.layer_names


def test_memory_is_bounded_by_the_chunk():
    params, _, head = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), perceptron_setting(200, 300))
    batch = jax.random.normal(jax.random.key(0), (64, 9, 5))
    probe = probe_from(perceptron, params, lambda out: out.max(1))
    gradients = 2 * 4 * sum(weight.size for weight in probe.weights.values())  # of both columns

    def needed(chunk):
        lowered = fisher._fisher.lower(probe, batch, head, None, fisher.EXACT, chunk)
        return lowered.compile().memory_analysis().temp_size_in_bytes

    assert gradients < probe.bytes_per_example(batch[:1], columns=2)
    assert needed(1) < 3 * gradients < 0.1 * needed(64)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"features": lambda out: out[:, None]}, "features must be [examples, d], not (6, 1, 3): give `probe_from`"),
        ({"features": lambda out: out[:2]}, "features must be [examples, d], not (2, 3)"),
        ({"features": lambda out: (out, out)}, "features must be [examples, d], not ((6, 3), (6, 3))"),
        ({"output_axes": lambda name, shape: ()}, "no parameter has entries"),
        ({"batch": np.full((6, 5), np.nan, np.float32)}, "the batch: NaN or infinity in 30 of 30 numbers"),
        ({"batch": np.zeros((0, 5), np.float32)}, "one row for each example, at least one, in every array, not (0, 5)"),
        ({"batch": {"a": np.zeros((6, 5)), "b": np.zeros(4)}}, "not (6, 5), (4,)"),
    ],
)
def test_what_is_unusable_is_named_in_one_line(change, says):
    params, batch, head = perceptron_setting()
    batch = change.pop("batch", batch)
    with pytest.raises(InputError) as caught:
        fisher.fisher(probe_from(perceptron, params, **change), batch, head)
    assert says in str(caught.value) and "\n" not in str(caught.value)
