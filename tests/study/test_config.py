"""The door: what comes in is checked whole, each mistake by its flag, and what goes out is a frozen value."""

from dataclasses import FrozenInstanceError, asdict

import numpy as np
import pytest
from test_study import tiny

from jaxdiv.configs import default
from jaxdiv.errors import InputError
from jaxdiv.study import config


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
        ({"training.grad_clip_norm": -1.0}, "--config.training.grad_clip_norm is -1.0: it must be at least 0"),
        ({"controlled.classes": 0}, "--config.controlled.classes is 0: it must be at least 1"),
        ({"seeds": (0, -1)}, "--config.seeds is (0, -1): each must be a whole number, at least 0"),
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
