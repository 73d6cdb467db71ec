"""Settings: what a model's recipe says, what the user says, and who wins."""

from __future__ import annotations

import pytest

from evertune.runs.api import configure
from evertune.runs.config import RECIPES, TrainSettings
from evertune.utils.config_io import value_text


def test_a_preset_brings_its_recipe_and_the_user_wins():
    train = configure("pocket-b1", model="runs/tiny/tiny-aligned", settings=["train.epochs=3"]).train
    assert train.batch_size == RECIPES["tiny-aligned"]["train"]["batch_size"]
    assert train.epochs == 3


def test_other_models_keep_the_defaults():
    assert configure("parcel").train == TrainSettings()
    assert configure("parcel", model="some/folder").train == TrainSettings()


def test_recipes_name_settings_that_exist():
    for recipe in RECIPES.values():
        own = [wanted["train"] for wanted in recipe.get("methods", {}).values()]
        assert set().union(recipe["train"], *own) <= set(TrainSettings.model_fields)


def test_the_recipe_of_the_paper_and_its_own_one_for_eproj():
    plain = configure("pocket-b1", model="Salesforce/instructblip-vicuna-7b")
    assert (plain.dtype, plain.train.epochs, plain.train.learning_rate) == ("bfloat16", 5.0, 1e-5)
    assert plain.train.batch_size * plain.train.gradient_accumulation_steps == 256
    assert plain.options == {}
    eproj = configure("pocket-b1", model="instructblip-vicuna-7b", method="eproj, replay+eproj")
    assert eproj.train.learning_rate == 5e-3
    assert eproj.options == {"eproj": {"expert": "projection"}}
    mixed = configure("pocket-b1", model="instructblip-vicuna-7b", method="eproj,ewc")
    assert (mixed.train, mixed.options) == (plain.train, eproj.options)
    given = ["train.learning_rate=1", "eproj.expert=all", "dtype=float32"]
    own = configure("pocket-b1", model="llava-1.5-7b-hf", method="eproj", settings=given)
    assert (own.train.learning_rate, own.options["eproj"]["expert"], own.dtype) == (1, "all", "float32")
    assert own.train.batch_size * own.train.gradient_accumulation_steps == 128


def test_options_of_the_model():
    config = configure("parcel", model="some/folder", settings=["model.scope=lora", "model.r=4"])
    assert config.model_options == {"scope": "lora", "r": 4}
    assert config.model == "some/folder"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 10**400])
def test_values_of_strangers_have_a_text_too(value):
    assert value_text(value) == str(value)
