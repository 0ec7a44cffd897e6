"""A name is found however it is typed, and a wrong one is answered with the choices and the nearest one."""

import pytest

from utils import InputError, did_you_mean, match_name

CHOICES = ("MiM-v1", "CNN")
ALIASES = {"ConvNet": "CNN"}


@pytest.mark.parametrize("typed", ["MiM-v1", "mim_v1", "MIMV1"])
def test_names_match_without_regard_to_case_and_dashes(typed):
    assert match_name(typed, CHOICES, "model") == "MiM-v1"


def test_an_alias_stands_for_a_choice():
    assert match_name("conv-net", CHOICES, "model", ALIASES) == "CNN"


@pytest.mark.parametrize(
    ("typed", "aliases", "message"),
    [
        ("mim_v4", {}, "unknown model 'mim_v4' (did you mean MiM-v1?); choose from MiM-v1, CNN"),
        ("xyz", {}, "unknown model 'xyz'; choose from MiM-v1, CNN"),
        ("convnets", ALIASES, "unknown model 'convnets' (did you mean ConvNet?); choose from MiM-v1, CNN"),
    ],
)
def test_a_wrong_name_is_answered_with_the_choices_and_the_nearest_one(typed, aliases, message):
    with pytest.raises(InputError) as caught:
        match_name(typed, CHOICES, "model", aliases)
    assert str(caught.value) == message


def test_nothing_is_suggested_if_nothing_is_close():
    assert did_you_mean("cubes", ["cube", "gt"]) == " (did you mean cube?)"
    assert did_you_mean("x", ["cube", "gt"]) == ""
