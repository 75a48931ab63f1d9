"""The door: what comes in is checked whole, each mistake by its flag, and what goes out is a frozen value."""

from dataclasses import FrozenInstanceError, asdict
from typing import get_type_hints

import numpy as np
import pytest
from test_study import tiny

from jaxdiv.configs import default
from jaxdiv.errors import InputError
from jaxdiv.study import config, sections
from jaxdiv.study.flags import last_of_each


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"learner.dropout": 1.0}, "--config.learner.dropout is 1.0: it must be below 1"),
        ({"learner.dropout": -0.1}, "--config.learner.dropout is -0.1: it must be at least 0"),
        ({"pt.learning_rate": -1e-3}, "--config.pt.learning_rate is -0.001: it must be at least 0"),
        ({"maml.learning_rate": float("nan")}, "--config.maml.learning_rate is nan: it must be a finite number"),
        ({"protonet.meta_batch": 0}, "--config.protonet.meta_batch is 0: it must be at least 1"),
        ({"maml.inner_lr": -0.1}, "--config.maml.inner_lr is -0.1: it must be at least 0"),
        ({"training.weight_decay": -1.0}, "--config.training.weight_decay is -1.0: it must be at least 0"),
        ({"training.weight_decay": 0.1}, "--config.training.weight_decay is 0.1, which optimizer 'adam' does not use"),
        ({"training.grad_clip_norm": -1.0}, "--config.training.grad_clip_norm is -1.0: it must be at least 0"),
        ({"controlled.classes": 0}, "--config.controlled.classes is 0: it must be at least 1"),
        ({"seeds": (0, -1)}, "--config.seeds is (0, -1) with -1: it must be at least 0"),
        ({"seeds": (2**70,)}, f"--config.seeds is ({2**70},) with {2**70}: it must be below {2**32}"),
        ({"seeds": ("a",)}, "--config.seeds is ('a',) with 'a': it must be a whole number"),
        ({"seed": 2**32}, f"--config.seed is {2**32}: it must be below {2**32}"),
        ({"seed": 10**20}, f"--config.seed is {10**20}: it must be below {2**32}"),
        ({"probe.seed": 2**32}, f"--config.probe.seed is {2**32}: it must be below {2**32}"),
        ({"learner.dropout": 2.0}, "--config.learner.dropout is 2.0: it must be below 1"),
        ({"maml.inner_lr": float("inf")}, "--config.maml.inner_lr is inf: it must be a finite number"),
        ({"maml.inner_lr": 1e39}, "--config.maml.inner_lr is 1e+39: it must be below 3e+38"),
        ({"pt.steps": 2**31}, f"--config.pt.steps is {2**31}: it must be below {2**31}"),
        ({"learner.pixels": 10**6}, "--config.learner.pixels is 1000000: it must be below 1025"),
        ({"data.classes": (0, -1, 2)}, "--config.data.classes is (0, -1, 2) with -1: it must be at least 0"),
        ({"data.classes": (8, 5)}, "--config.data.classes is (8, 5): it must have 3 entries"),
        ({"data.images_per_class": -3}, "--config.data.images_per_class is -3: it must be at least 1"),
        ({"data.split.fractions": ()}, "--config.data.split.fractions is (): it must have 3 entries"),
        ({"benchmarks": (1,)}, "--config.benchmarks is (1,) with 1: it must be text"),
        ({"benchmarks": ("gauss-5000",)}, "benchmark 'gauss-5000': its spread must be a number from 1e-6 to 1000"),
        ({"benchmarks": ("gauss-1e300",)}, "benchmark 'gauss-1e300': its spread must be a number from 1e-6 to 1000"),
        ({"benchmarks": ("gauss-nan",)}, "benchmark 'gauss-nan': its spread must be a number"),
        (
            {"benchmarks": ("gauss-.1", "gauss-0.10")},
            "--config.benchmarks has gauss-.1 and gauss-0.10, which are one benchmark: write both alike",
        ),
    ],
)
def test_a_number_out_of_its_range_is_named_by_its_flag(fields, line):
    with pytest.raises(InputError) as error:
        config.read(tiny(**fields))
    assert str(error.value).startswith(line)


@pytest.mark.parametrize(
    ("field", "value", "line"),
    [
        ("maml.steps", 1e5, "--config.maml.steps is 100000.0: it must be a whole number"),
        ("maml.remat", 1, "--config.maml.remat is 1: it must be true or false"),
        ("pt.steps", True, "--config.pt.steps is True: it must be a whole number"),
        ("probe.weights", None, "--config.probe.weights is None: it must be text"),
        ("benchmarks", "gauss-0.1", "--config.benchmarks is 'gauss-0.1': it must be a list"),
        ("task", 5, "--config.task is 5: it must be a section with fields; see configs/default.py"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_a_value_of_another_type_in_a_configuration_of_ones_own_is_named_by_its_flag(field, value, line):
    given = default.get_config()
    with given.ignore_type():
        if "." in field:
            given.update_from_flattened_dict({field: value})
        else:
            given[field] = value
        with pytest.raises(InputError) as error:
            config.read(given)
    assert str(error.value) == line


def test_a_field_that_does_not_exist_or_is_missing_is_named_with_the_nearest_that_does():
    given = default.get_config()
    given.maml.inner_rate = 0.1  # what it was called
    with pytest.raises(InputError, match=r"unknown field --config.maml.inner_rate: did you mean 'inner_lr'\? valid: "):
        config.read(given)
    given = default.get_config()
    del given.training.patience
    with pytest.raises(InputError, match=r"--config.training.patience is missing: begin with default.get_config\(\)"):
        config.read(given)


def test_a_study_is_a_frozen_value_that_has_left_the_configuration_behind():
    given = tiny()
    study = config.read(given)
    given.maml.steps = 999
    assert study.settings("fo_maml_5").steps == 30 and study == config.read(tiny())
    with pytest.raises(FrozenInstanceError):
        study.settings("fo_maml_5").steps = 5
    assert asdict(study)["data"]["cut"] == {"classes": 0, "images": 0}
    assert config.flat(study)["data.cut.images"] == 0 and config.flat(study)["seeds"] == [0]


@pytest.mark.usefixtures("unchecked")  # a section looks at the types of its fields itself
def test_whole_numbers_of_numpy_and_lists_do_as_well():
    given = default.get_config()
    with given.ignore_type():
        given.pt.steps, given.pt.learning_rate, given.benchmarks = np.int64(7), np.float32(0.5), ["gauss-0.1"]
        study = config.read(given)
    assert study.settings("pt").steps == 7 and study.benchmarks == ("gauss-0.1",)


def test_of_a_flag_that_is_given_twice_the_last_one_counts_also_for_a_list():
    given = ["launch.py", "--config.seeds=(1,)", "--stages=train", "--config.seeds=(2,)", "--config.pt.steps=3"]
    assert last_of_each(given) == ["launch.py", "--stages=train", "--config.seeds=(2,)", "--config.pt.steps=3"]


def test_every_number_of_a_configuration_has_a_range():
    sections_of = [section for section in vars(sections).values() if isinstance(section, type)]
    found = [(each, name) for each in sections_of if issubclass(each, sections.Section) for name in _unbounded(each)]
    assert found == []


def _unbounded(section):
    for name, annotation in get_type_hints(section, include_extras=True).items():
        rules = getattr(annotation, "__metadata__", ())
        kind = getattr(annotation, "__origin__", annotation)
        if kind in (int, float, tuple) and not any(isinstance(r, sections.Range | sections.Each) for r in rules):
            yield name
