"""The training loop, evaluation and pre-training, on learners small enough to check by hand."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from jaxdiv import evaluate, pretrain
from jaxdiv.data.episodes import Task
from jaxdiv.learner import Learner, accuracy, cross_entropy
from jaxdiv.nets.network import Network, Output
from jaxdiv.train import Diverged, Settings, latest_step, load_params, train

WAYS, FEATURES = 3, 4


def linear_learner():
    def init(key):
        return {"w": 0.1 * jax.random.normal(key, (FEATURES, WAYS)), "b": jnp.zeros(WAYS)}, {"steps": jnp.zeros(())}

    def gradient(params, carried, batch, key):
        x, y = batch
        # Noise from the key: resuming must repeat it too.
        x = x + 0.01 * jax.random.normal(key, x.shape)

        def loss(params):
            logits = x @ params["w"] + params["b"]
            return cross_entropy(logits, y), accuracy(logits, y)

        (value, share), grads = jax.value_and_grad(loss, has_aux=True)(params)
        return grads, {"steps": carried["steps"] + 1}, {"loss": value, "accuracy": share}

    return Learner(init, gradient, lambda params, carried, x, y, key: lambda q: q @ params["w"] + params["b"])


LEARNER = linear_learner()


@jax.jit
def sample(key):
    for_labels, for_noise = jax.random.split(key)
    y = jax.random.randint(for_labels, (16,), 0, WAYS)
    return 2 * jax.nn.one_hot(y, FEATURES) + jax.random.normal(for_noise, (16, FEATURES)), y


def run(folder, steps, sample=sample, every=4, validate=None, identity=None, progress=lambda step, found: None, **more):
    settings = Settings(steps, 0.05, checkpoint_every=every, **more)
    return train(LEARNER, sample, jax.random.key(7), settings, folder, validate, identity, progress=progress)


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
    """Against a plain loop of optax, written anew."""
    for_init, for_steps = jax.random.split(jax.random.key(7))
    params, carried = LEARNER.init(for_init)
    adam = optax.adam(0.05)
    state = adam.init(params)
    for step in range(1, 24):
        for_batch, for_loss = jax.random.split(jax.random.fold_in(for_steps, step))
        gradient, carried, _ = LEARNER.gradient(params, carried, sample(for_batch), for_loss)
        updates, state = adam.update(gradient, state)
        params = optax.apply_updates(params, updates)
    found, counted = load_params(undisturbed[0], LEARNER)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), found, params)
    assert counted == carried == {"steps": 23}


@pytest.mark.parametrize("stop", [8, 10], ids=["at a checkpoint", "between two checkpoints"])
def test_a_resumed_run_equals_an_undisturbed_one_bit_for_bit(tmp_path, undisturbed, stop):
    run(tmp_path, stop)
    assert latest_step(tmp_path) == stop
    last = run(tmp_path, 23)
    assert last_line(last) == last_line(undisturbed[1])
    assert logged(tmp_path) == logged(undisturbed[0])
    same(load_params(tmp_path, LEARNER), load_params(undisturbed[0], LEARNER))


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
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(load_params(tmp_path, LEARNER)))
    assert last_line(run(tmp_path, 23)) == last_line(undisturbed[1])  # with the fault gone it goes on from there
    assert logged(tmp_path) == logged(undisturbed[0])


def test_an_infinite_loss_before_any_checkpoint_says_that_there_is_none(tmp_path):
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


def evaluated(tasks, seed=0, chunk=10, learner=LEARNER, **more):
    return evaluate.evaluate(learner, PARAMS, {}, tasks_to_test_on, jax.random.key(seed), tasks, chunk, **more)


def test_evaluation_equals_a_loop_over_tasks():
    seen = []

    def remember(key, number):
        seen.append(tasks_to_test_on(key, number))
        return seen[-1]

    found = evaluate.evaluate(LEARNER, PARAMS, {}, remember, jax.random.key(0), 20, 10)
    batch = jax.tree.map(lambda *leaves: np.concatenate(leaves), *seen)
    logits = np.asarray(batch.query_images) @ np.eye(FEATURES, WAYS)
    np.testing.assert_allclose(found.accuracy, (logits.argmax(-1) == batch.query_labels).mean(1), rtol=1e-6)
    chosen = np.take_along_axis(logits, batch.query_labels[..., None], -1)[..., 0]
    loss = (np.log(np.exp(logits).sum(-1)) - chosen).mean(1)
    np.testing.assert_allclose(found.loss, loss, rtol=1e-5)
    assert found.accuracy.dtype == found.loss.dtype == np.float64


def test_same_key_same_tasks_whatever_the_method():
    first = evaluated(20)
    same(first, evaluated(20))
    same(first, evaluated(20, learner=linear_learner()))
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


def pretraining(classes=6):
    """A network whose features are the images themselves."""
    forward = lambda params, images, key=None, ramp=0.0: Output(images @ params["w"], images, {})
    init = lambda key: ({"w": 0.1 * jax.random.normal(key, (8, classes))}, {})
    net = Network(init, forward, lambda params, stats, images: forward(params, images))
    return pretrain.learner(net, WAYS), forward


def blobs(key, labels, apart, ways=WAYS):
    centres = apart * jnp.eye(8)[:ways]
    return centres[labels] + jax.random.normal(key, (len(labels), 8))


def test_pretraining_adapts_to_near_perfect_accuracy_on_separable_features():
    learner, _ = pretraining()
    labels = jnp.arange(60) % WAYS
    support = blobs(jax.random.key(0), labels[:15], 8.0)
    predict = learner.adapt({"w": jnp.zeros((8, 6))}, {}, support, labels[:15], jax.random.key(2))
    logits = predict(blobs(jax.random.key(1), labels, 8.0))
    assert logits.shape == (60, WAYS)
    assert float(accuracy(logits, labels)) > 0.98


def test_pretraining_fits_the_last_layer_as_scikit_learn_does():
    linear_model = pytest.importorskip("sklearn.linear_model")
    learner, _ = pretraining()
    labels = jnp.arange(15) % WAYS
    support, queries = blobs(jax.random.key(0), labels, 1.0), blobs(jax.random.key(1), labels, 1.0)
    logits = learner.adapt({"w": jnp.zeros((8, 6))}, {}, support, labels, jax.random.key(2))(queries)
    theirs = linear_model.LogisticRegression(C=1.0, tol=1e-8, max_iter=1000).fit(support, labels)
    np.testing.assert_allclose(jax.nn.softmax(logits), theirs.predict_proba(queries), atol=1e-4)


def test_pretraining_gradient_is_that_of_the_cross_entropy_over_all_train_classes():
    learner, forward = pretraining()
    params, carried = learner.init(jax.random.key(0))
    labels = jnp.arange(24) % 6
    images = blobs(jax.random.key(1), labels, 2.0, ways=6)
    gradient, after, metrics = learner.gradient(params, carried, (images, labels), jax.random.key(2))
    assert after == {"steps": 1}
    p = jax.nn.softmax(forward(params, images).logits)
    by_hand = images.T @ (p - jax.nn.one_hot(labels, 6)) / 24
    np.testing.assert_allclose(gradient["w"], by_hand, atol=1e-6)
    assert float(metrics["loss"]) == pytest.approx(float(-jnp.log(p[jnp.arange(24), labels]).mean()), rel=1e-5)


def test_pretraining_learns_its_classes(tmp_path):
    learner, _ = pretraining()

    def batch(key):
        for_labels, for_images = jax.random.split(key)
        labels = jax.random.randint(for_labels, (32,), 0, 6)
        return blobs(for_images, labels, 4.0, ways=6), labels

    last = train(learner, jax.jit(batch), jax.random.key(0), Settings(40, 0.05), tmp_path)
    assert last["accuracy"] > 0.9
