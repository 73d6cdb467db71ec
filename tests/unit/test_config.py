"""Settings: what a model's recipe says, what the user says, and who wins."""

from __future__ import annotations

from evertune.api import configure
from evertune.config import RECIPES, TrainSettings


def test_a_preset_brings_its_recipe_and_the_user_wins():
    train = configure("pocket-b1", model="runs/tiny/tiny-aligned", settings=["train.epochs=3"]).train
    assert train.batch_size == RECIPES["tiny-aligned"]["batch_size"]
    assert train.epochs == 3


def test_other_models_keep_the_defaults():
    assert configure("parcel").train == TrainSettings()
    assert configure("parcel", model="some/folder").train == TrainSettings()


def test_recipes_name_settings_that_exist():
    for recipe in RECIPES.values():
        assert set(recipe) <= set(TrainSettings.model_fields)
