"""The registry of methods."""

import subprocess
import sys

import pytest

from jaxdiv.errors import InputError
from jaxdiv.methods import registry
from jaxdiv.methods.maml import MAML
from jaxdiv.methods.step import TrainSettings
from jaxdiv.nets.network import make_network


def test_maml_of_any_number_of_steps_is_a_method():
    assert registry.family("ho_maml_3") == "maml" and registry.label("ho_maml_3") == "HO-MAML 3 steps"
    assert registry.entry("fo_maml_12").fields == {"inner_steps": 12, "first_order": True}
    assert registry.with_inner_steps("ho_maml_10", 5) == "ho_maml_5"


def test_a_name_that_is_no_methods_is_its_own_family_and_label():
    for name in ("mine", "my_ho_maml_3", "ho_maml_x"):
        assert registry.family(name) == registry.label(name) == name
        with pytest.raises(InputError, match=f"unknown method '{name}'"):
            registry.entry(name)


def test_the_families_are_those_of_the_methods():
    assert tuple(dict.fromkeys(map(registry.family, registry.METHODS))) == ("pretraining", "maml", "prototypes")
    assert registry.sections() == ("pt", "maml", "protonet")


def test_the_registry_imports_no_jax():
    asked = "import sys, jaxdiv.methods.registry; print(sorted({'jax', 'flax', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: TrainSettings(1, learning_rate=float("nan")), "learning_rate"),
        (lambda: TrainSettings(1, learning_rate=-0.1), "learning_rate"),
        (lambda: TrainSettings(1, minutes=float("inf")), "minutes"),
        (lambda: TrainSettings(0), "steps"),
        (lambda: MAML(make_network("conv4", 5, 16, 4), inner_lr=float("nan")), "inner_lr"),
        (lambda: make_network("conv4", 5, 16, 4, dropout=2.0), "dropout"),
    ],
)
def test_a_number_that_would_poison_a_run_is_refused_when_it_is_given(make, name):
    with pytest.raises(InputError, match=f"`{name}` is .*: it must be a"):
        make()


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"optimizer": "rmsprop"}, "unknown optimizer 'rmsprop'.*: valid: adam, adamw, sgd"),
        ({"schedule": "cosin"}, "unknown schedule 'cosin': did you mean 'cosine'"),
        ({"weight_decay": 0.1}, "`weight_decay` is 0.1, which optimizer='adam' does not use"),
    ],
)
def test_a_setting_that_would_be_ignored_is_refused(given, line):
    with pytest.raises(InputError, match=line):
        TrainSettings(1, **given)
