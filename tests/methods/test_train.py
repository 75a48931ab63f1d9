"""The training loop, evaluation and pre-training, on learners small enough to check by hand."""

import json
import struct
from dataclasses import dataclass, replace
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats
from tensorboardX.proto.event_pb2 import Event

from jaxdiv.data.episodes import Task
from jaxdiv.errors import InputError
from jaxdiv.methods import evaluate
from jaxdiv.methods.base import Method, accuracy, cross_entropy
from jaxdiv.methods.checkpointing import latest_step, load_params
from jaxdiv.methods.metrics import Diverged
from jaxdiv.methods.pretrain import PreTraining
from jaxdiv.methods.step import TrainSettings, make_optimizer
from jaxdiv.methods.train import train
from jaxdiv.nets.network import Network

WAYS, FEATURES = 3, 4


@dataclass(frozen=True)
class Linear(Method):
    name: str = "linear"

    def init(self, key):
        return {"w": 0.1 * jax.random.normal(key, (FEATURES, WAYS)), "b": jnp.zeros(WAYS)}, {"steps": jnp.zeros(())}

    def gradient(self, params, model_state, batch, key):
        x, y = batch
        # Noise from the key: resuming must repeat it too.
        x = x + 0.01 * jax.random.normal(key, x.shape)

        def loss(params):
            logits = x @ params["w"] + params["b"]
            return cross_entropy(logits, y), accuracy(logits, y)

        (value, share), grads = jax.value_and_grad(loss, has_aux=True)(params)
        return grads, {"steps": model_state["steps"] + 1}, {"loss": value, "accuracy": share}

    def adapt(self, params, model_state, support, labels, key):
        return lambda queries: queries @ params["w"] + params["b"]


LINEAR = Linear()


@jax.jit
def sample(key):
    for_labels, for_noise = jax.random.split(key)
    y = jax.random.randint(for_labels, (16,), 0, WAYS)
    return 2 * jax.nn.one_hot(y, FEATURES) + jax.random.normal(for_noise, (16, FEATURES)), y


def run(folder, steps, sample=sample, every=4, validate=None, identity=None, progress=lambda step, found: None, **more):
    settings = TrainSettings(steps, 0.05, checkpoint_every=every, **more)
    return train(LINEAR, sample, jax.random.key(7), settings, folder, validate, identity, progress=progress)


def logged(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def last_line(found):
    """The last step's metrics, without what no two runs share."""
    return {name: found[name] for name in ("step", "loss", "accuracy", "ended")}


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    last = run(folder, 23)
    return folder, last


def test_training_lowers_the_loss(undisturbed):
    losses = [line["loss"] for line in logged(undisturbed[0])]
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:5])


def test_metrics_have_a_line_per_step_and_the_last_is_returned(undisturbed):
    folder, last = undisturbed
    assert [line["step"] for line in logged(folder)] == list(range(1, 24))
    assert last_line(last) == {**logged(folder)[-1], "ended": "steps"}
    assert last["seconds"] > 0 and "best_step" not in last


def test_load_params_gives_the_trained_parameters(undisturbed):
    """Against a plain loop of optax, written independently."""
    for_init, for_steps = jax.random.split(jax.random.key(7))
    params, model_state = LINEAR.init(for_init)
    adam = optax.adam(0.05)
    state = adam.init(params)
    for step in range(1, 24):
        for_batch, for_loss = jax.random.split(jax.random.fold_in(for_steps, step))
        gradient, model_state, _ = LINEAR.gradient(params, model_state, sample(for_batch), for_loss)
        updates, state = adam.update(gradient, state)
        params = optax.apply_updates(params, updates)
    found, counted = load_params(undisturbed[0], LINEAR)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), found, params)
    assert counted == model_state == {"steps": 23}


@pytest.mark.parametrize("stop", [8, 10], ids=["at a checkpoint", "between two checkpoints"])
def test_a_resumed_run_equals_an_undisturbed_one_bit_for_bit(tmp_path, undisturbed, stop):
    run(tmp_path, stop)
    assert latest_step(tmp_path) == stop
    last = run(tmp_path, 23)
    assert last_line(last) == last_line(undisturbed[1])
    assert logged(tmp_path) == logged(undisturbed[0])
    same(load_params(tmp_path, LINEAR), load_params(undisturbed[0], LINEAR))


def test_a_run_killed_after_its_last_checkpoint_resumes_with_one_line_per_step(tmp_path, undisturbed):
    class Killed(Exception):
        pass

    def die(step, metrics):
        if step >= 20:  # metrics of steps up to here are written, the last checkpoint is that of step 16
            raise Killed

    with pytest.raises(Killed):
        run(tmp_path, 23, every=16, progress=die)
    assert latest_step(tmp_path) == 16
    assert len(logged(tmp_path)) > 16
    assert last_line(run(tmp_path, 23, every=16)) == last_line(undisturbed[1])
    assert logged(tmp_path) == logged(undisturbed[0])


def test_a_finished_run_is_not_trained_again(tmp_path, undisturbed):
    run(tmp_path, 4)
    lines = logged(tmp_path)

    def never(key):
        raise AssertionError("sampled a batch")

    assert last_line(run(tmp_path, 4, sample=never)) == {**lines[-1], "ended": "steps"}
    assert logged(tmp_path) == lines


def test_a_loss_of_nan_raises_naming_the_step_and_keeps_the_last_checkpoint(tmp_path, undisturbed):
    calls = []

    def breaks(key):
        calls.append(key)
        x, y = sample(key)
        return (x * jnp.nan if len(calls) == 7 else x), y

    with pytest.raises(Diverged, match=r"loss is nan at step 7; the checkpoint of step 4 is kept"):
        run(tmp_path, 23, sample=breaks)
    assert latest_step(tmp_path) == 4
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(load_params(tmp_path, LINEAR)))
    assert last_line(run(tmp_path, 23)) == last_line(undisturbed[1])  # with the fault gone it goes on from there
    assert logged(tmp_path) == logged(undisturbed[0])


def test_an_infinite_loss_before_any_checkpoint_says_that_there_is_none(tmp_path):
    with pytest.raises(Diverged, match=r"loss is nan at step 1; no checkpoint .* labels are below the method's ways"):
        run(tmp_path, 23, sample=lambda key: (sample(key)[0], sample(key)[1] + WAYS))
    calls = []

    def breaks(key):
        calls.append(key)
        x, y = sample(key)
        return (x.at[0].set(1e38 * jnp.arange(FEATURES)) * 1e3 if len(calls) == 2 else x), y

    with pytest.raises(Diverged, match=r"at step 2; no checkpoint was made yet"):
        run(tmp_path, 23, sample=breaks)
    assert latest_step(tmp_path) == 0


def test_a_folder_without_checkpoints_is_at_step_0(tmp_path):
    assert latest_step(tmp_path) == 0
    assert latest_step(tmp_path / "absent") == 0


def test_progress_hears_of_the_last_step_with_its_metrics(tmp_path):
    heard = []
    last = run(tmp_path, 6, progress=lambda step, metrics: heard.append((step, metrics)))
    steps = [step for step, _ in heard]
    assert steps == sorted(set(steps)) and {4, 6} <= set(steps)  # at checkpoints, and whenever a second has passed
    assert heard[-1][1].pop("steps_per_second") > 0
    assert heard[-1][1] == {name: last[name] for name in ("loss", "accuracy")}


# Validation, ends, optimizers


def validating(accuracies):
    """A `validate` that gives these accuracies, one after the other."""
    left = list(accuracies)
    return lambda params, model_state: {"accuracy": left.pop(0), "loss": 1.0}


def test_the_best_checkpoint_by_validation_is_kept_beside_the_latest_two(tmp_path):
    found = run(tmp_path, 24, validate=validating([0.3, 0.9, 0.5, 0.6, 0.9, 0.2]), validate_every=4)
    assert (found["best_step"], found["best_accuracy"]) == (8, 0.9)  # of equals the first
    kept = sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir())
    assert kept == [8, 20, 24]
    run(tmp_path / "eight", 8)
    same(load_params(tmp_path, LINEAR), load_params(tmp_path / "eight", LINEAR))
    validations = [line["validation"]["accuracy"] for line in logged(tmp_path) if "validation" in line]
    assert validations == [0.3, 0.9, 0.5, 0.6, 0.9, 0.2]


def test_training_ends_when_validation_has_not_improved_for_patience_times(tmp_path):
    found = run(tmp_path, 100, validate=validating([0.3, 0.5, 0.4, 0.5, 0.9]), validate_every=4, patience=2)
    assert (found["ended"], found["step"], found["best_step"]) == ("patience", 16, 8)
    again = run(tmp_path, 100, validate=validating([]), validate_every=4, patience=2)
    assert last_line(again) == last_line(found)  # the wait is remembered: it stays ended


def test_a_resumed_run_remembers_the_best_and_the_wait(tmp_path):
    run(tmp_path, 8, validate=validating([0.5, 0.4]), validate_every=4, patience=3)
    found = run(tmp_path, 100, validate=validating([0.45, 0.3, 0.9]), validate_every=4, patience=3)
    assert (found["ended"], found["step"], found["best_step"]) == ("patience", 16, 4)


def test_training_ends_after_its_minutes_and_stays_ended(tmp_path):
    found = run(tmp_path, 10**6, minutes=0.02)
    assert found["ended"] == "minutes" and 1.2 <= found["seconds"] < 30
    assert latest_step(tmp_path) == found["step"]
    assert last_line(run(tmp_path, 10**6, minutes=0.02)) == last_line(found)


def test_a_checkpoint_of_another_configuration_is_refused_and_named(tmp_path):
    run(tmp_path, 4, identity={"unit": "train/omniglot"})
    for other, words in (
        (dict(identity={"unit": "train/flower"}), ["unit (train/omniglot there, train/flower asked for)"]),
        (
            dict(identity={"unit": "train/omniglot"}, grad_clip_norm=1.0),
            ["grad_clip_norm (0.0 there, 1.0 asked for)", "another folder"],
        ),
    ):
        with pytest.raises(InputError) as refused:
            run(tmp_path, 8, **other)
        assert all(word in str(refused.value) for word in words) and str(tmp_path) in str(refused.value)
    assert latest_step(tmp_path) == 4


def test_tensorboard_has_every_steps_loss_and_every_validation(tmp_path):
    run(tmp_path, 8, validate=validating([0.25, 0.5]), validate_every=4)
    found = {}
    for file in (tmp_path / "tensorboard").iterdir():
        data = file.read_bytes()
        while data:  # records: length, its checksum, an event, its checksum
            (size,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + size])
            data = data[16 + size :]
            for value in event.summary.value:
                found.setdefault(value.tag, {})[event.step] = value.simple_value
    assert found["validation/accuracy"] == {4: 0.25, 8: 0.5}
    losses = {line["step"]: line["loss"] for line in logged(tmp_path) if "loss" in line}
    assert found["train/loss"] == pytest.approx(losses, rel=1e-6)


def test_schedules_rise_from_zero_and_fall_to_zero():
    """One parameter under SGD without momentum's past: the first update is the rate times the gradient."""

    def rates(**settings):
        optimizer = make_optimizer(TrainSettings(100, 0.5, optimizer="sgd", **settings))
        state, found, before = optimizer.init(jnp.zeros(())), [], 0.0
        for _ in range(101):
            update, state = optimizer.update(jnp.ones(()), state)
            trace = 0.9 * before + 1
            found.append(-float(update) / trace)
            before = trace
        return np.array(found)

    np.testing.assert_allclose(rates(), 0.5, rtol=1e-5)
    cosine = rates(schedule="cosine")
    np.testing.assert_allclose(cosine, 0.25 * (1 + np.cos(np.pi * np.arange(101) / 100)), atol=1e-6)
    warm = rates(schedule="cosine", warmup=20)
    np.testing.assert_allclose(warm[:21], 0.5 * np.arange(21) / 20, atol=1e-6)
    assert warm[-1] < 1e-6 and (np.diff(warm[20:]) < 0).all()
    np.testing.assert_allclose(rates(warmup=20)[20:], 0.5, rtol=1e-5)


def test_clipping_cuts_the_global_norm():
    gradient = {"a": jnp.array([3.0]), "b": jnp.array([4.0])}
    optimizer = make_optimizer(TrainSettings(10, 1.0, optimizer="sgd", grad_clip_norm=1.0))
    update, _ = optimizer.update(gradient, optimizer.init(gradient), gradient)
    np.testing.assert_allclose([update["a"][0], update["b"][0]], [-0.6, -0.8], rtol=1e-6)


# Evaluation


def tasks_to_test_on(key, number):
    """A `sample` for `evaluate`: tasks of different difficulty."""

    def one(key):
        for_noise, for_queries = jax.random.split(key)
        labels = jnp.arange(15) % WAYS
        images = lambda key, y: jax.nn.one_hot(y, FEATURES) + jax.random.normal(key, (len(y), FEATURES))
        return Task(images(for_noise, labels), labels, images(for_queries, labels), labels)

    return jax.vmap(one)(jax.random.split(key, number))


PARAMS = {"w": jnp.eye(FEATURES, WAYS), "b": jnp.zeros(WAYS)}


def evaluated(tasks, seed=0, chunk=10, method=LINEAR, **more):
    return evaluate.evaluate(method, PARAMS, {}, tasks_to_test_on, jax.random.key(seed), tasks, chunk, **more)


def test_evaluation_equals_a_loop_over_tasks():
    seen = []

    def remember(key, number):
        seen.append(tasks_to_test_on(key, number))
        return seen[-1]

    found = evaluate.evaluate(LINEAR, PARAMS, {}, remember, jax.random.key(0), 20, 10)
    batch = jax.tree.map(lambda *leaves: np.concatenate(leaves), *seen)
    logits = np.asarray(batch.query_images) @ np.eye(FEATURES, WAYS)
    np.testing.assert_allclose(found.accuracy, (logits.argmax(-1) == batch.query_labels).mean(1), rtol=1e-6)
    chosen = np.take_along_axis(logits, batch.query_labels[..., None], -1)[..., 0]
    loss = (np.log(np.exp(logits).sum(-1)) - chosen).mean(1)
    np.testing.assert_allclose(found.loss, loss, rtol=1e-5)
    assert found.accuracy.dtype == found.loss.dtype == np.float64


def test_labels_of_more_ways_than_the_method_has_are_refused_and_never_a_loss_of_nan():
    one_more = lambda key, number: replace(tasks_to_test_on(key, number), query_labels=jnp.full((number, 15), WAYS))
    with pytest.raises(
        InputError, match=rf"has a label {WAYS}; the method is of {WAYS} ways, so labels are 0 to {WAYS - 1}"
    ):
        evaluate.evaluate(LINEAR, PARAMS, {}, one_more, jax.random.key(0), 20, 10)


def test_a_test_that_diverges_says_so():
    infinite = jax.tree.map(lambda leaf: leaf * jnp.inf, PARAMS)
    with pytest.raises(Diverged, match="the loss on a test task is not finite after adaptation"):
        evaluate.evaluate(LINEAR, infinite, {}, tasks_to_test_on, jax.random.key(0), 20, 10)


def test_same_key_same_tasks_whatever_the_method():
    first = evaluated(20)
    same(first, evaluated(20))
    same(first, evaluated(20, method=Linear("another")))
    assert not np.array_equal(first.loss, evaluated(20, seed=1).loss)


@pytest.mark.parametrize("tasks", [1, 10, 12])
def test_the_first_tasks_do_not_depend_on_how_many_are_asked(tasks):
    few, many = evaluated(tasks), evaluated(30)
    assert len(few.loss) == len(few.accuracy) == tasks
    same(few, jax.tree.map(lambda leaf: leaf[:tasks], many))
    assert len(np.unique(many.loss)) == 30  # no task comes twice


def test_evaluation_reports_progress_up_to_the_number_asked():
    heard = []
    evaluated(25, progress=heard.append)
    assert heard == [10, 20, 25]


@pytest.mark.parametrize("level", [0.95, 0.8])
def test_mean_interval_is_students(level):
    values = np.random.default_rng(0).normal(0.6, 0.1, 37)
    mean, half = evaluate.mean_interval(values, level)
    low, high = stats.t.interval(level, 36, values.mean(), stats.sem(values))
    np.testing.assert_allclose([mean - half, mean + half], [low, high], rtol=1e-12)


# Pre-training


class Features(nn.Module):
    """A network whose features are the images themselves."""

    ways: int = 6

    @nn.compact
    def __call__(self, images, dropblock_scale=0.0):
        return images @ self.param("w", nn.initializers.normal(0.1), (8, self.ways)), images


PRETRAINING = PreTraining(Network(Features(), (8,)), WAYS)


def blobs(key, labels, apart, ways=WAYS):
    centres = apart * jnp.eye(8)[:ways]
    return centres[labels] + jax.random.normal(key, (len(labels), 8))


def test_pretraining_adapts_to_near_perfect_accuracy_on_separable_features():
    labels = jnp.arange(60) % WAYS
    support = blobs(jax.random.key(0), labels[:15], 8.0)
    predict = PRETRAINING.adapt({"w": jnp.zeros((8, 6))}, {}, support, labels[:15], jax.random.key(2))
    logits = predict(blobs(jax.random.key(1), labels, 8.0))
    assert logits.shape == (60, WAYS)
    assert float(accuracy(logits, labels)) > 0.98


def test_pretraining_fits_the_last_layer_as_scikit_learn_does():
    linear_model = pytest.importorskip("sklearn.linear_model")
    labels = jnp.arange(15) % WAYS
    support, queries = blobs(jax.random.key(0), labels, 1.0), blobs(jax.random.key(1), labels, 1.0)
    logits = PRETRAINING.adapt({"w": jnp.zeros((8, 6))}, {}, support, labels, jax.random.key(2))(queries)
    # In float64: scikit-learn computes in its input's type, and its float32 is off by up to 4e-4.
    support, queries = (np.asarray(x, np.float64) for x in (support, queries))
    theirs = linear_model.LogisticRegression(C=1.0, tol=1e-10, max_iter=10_000).fit(support, labels)
    np.testing.assert_allclose(jax.nn.softmax(logits), theirs.predict_proba(queries), atol=1e-5)


def test_pretraining_gradient_is_that_of_the_cross_entropy_over_all_train_classes():
    params, model_state = PRETRAINING.init(jax.random.key(0))
    labels = jnp.arange(24) % 6
    images = blobs(jax.random.key(1), labels, 2.0, ways=6)
    gradient, after, metrics = PRETRAINING.gradient(params, model_state, (images, labels), jax.random.key(2))
    assert after == {"steps": 1}
    p = jax.nn.softmax(images @ params["w"])
    by_hand = images.T @ (p - jax.nn.one_hot(labels, 6)) / 24
    np.testing.assert_allclose(gradient["w"], by_hand, atol=1e-6)
    assert float(metrics["loss"]) == pytest.approx(float(-jnp.log(p[jnp.arange(24), labels]).mean()), rel=1e-5)


def test_pretraining_learns_its_classes(tmp_path):

    def batch(key):
        for_labels, for_images = jax.random.split(key)
        labels = jax.random.randint(for_labels, (32,), 0, 6)
        return blobs(for_images, labels, 4.0, ways=6), labels

    last = train(PRETRAINING, jax.jit(batch), jax.random.key(0), TrainSettings(40, 0.05), tmp_path)
    assert last["accuracy"] > 0.9
