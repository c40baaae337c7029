"""Recipes: the paper's values, that a changed recipe does not pass for it, and their flat form."""

import json
from dataclasses import FrozenInstanceError, fields, replace

import pytest

from cxr.data.jitter import Augment
from cxr.errors import InputError
from cxr.model import ARCHS
from cxr.training.recipe import (
    DEMO,
    LOSSES,
    PAPER,
    RECIPES,
    STRONG,
    Overrides,
    Recipe,
    changes,
    choose,
    from_config,
    line,
    to_config,
)


def test_the_paper_recipe_is_the_papers_algorithm_1() -> None:
    # 2: learning rate 1e-3, fixed; 4: batch size 32; 5: 25 epochs; section 3.1: ResNet-50.
    # 1 (Adam) and 3 (the loss) are held in test_loop.py and test_objective.py.
    assert (PAPER.lr, PAPER.batch_size, PAPER.epochs, PAPER.arch) == (1e-3, 32, 25, "resnet50")
    assert PAPER.image_size == 224


@pytest.mark.parametrize("recipe", [PAPER, DEMO])
def test_the_defaults_are_the_papers(recipe: Recipe) -> None:
    """Adam, a fixed rate, weights as they are, images as they are, the plain loss, batch norm by process."""
    bare = Recipe(
        name=recipe.name, arch=recipe.arch, image_size=recipe.image_size, epochs=recipe.epochs,
        batch_size=recipe.batch_size, lr=recipe.lr,
    )  # fmt: skip
    assert recipe == bare
    assert (bare.weight_decay, bare.warmup_epochs, bare.final_lr, bare.ema) == (0, 0, 1, 0)
    assert not bare.augment
    assert bare.loss == "bce"
    assert bare.sync_batch_norm is False


def test_the_strong_recipe_keeps_the_papers_network_and_loss() -> None:
    assert (STRONG.arch, STRONG.image_size, STRONG.loss) == (PAPER.arch, PAPER.image_size, PAPER.loss)
    assert STRONG.augment
    assert STRONG.augment.flip == 0  # hearts have a side


def test_recipes_are_found_by_their_own_names_and_can_be_built() -> None:
    assert {"demo": DEMO, "paper": PAPER, "strong": STRONG} == RECIPES
    for recipe in RECIPES.values():
        assert recipe.arch in ARCHS
        assert recipe.loss in LOSSES
        assert min(recipe.epochs, recipe.batch_size, recipe.image_size, recipe.lr) > 0
        assert recipe.warmup_epochs < recipe.epochs
        assert 0 <= recipe.final_lr <= 1
        assert 0 <= recipe.ema < 1


@pytest.mark.parametrize(("phantom", "expected"), [(True, DEMO), (False, PAPER)])
def test_auto_is_the_demo_on_the_phantom_and_the_paper_on_anything_else(phantom: bool, expected: Recipe) -> None:
    assert choose("auto", Overrides(), phantom=phantom) == expected


@pytest.mark.parametrize("phantom", [True, False])
@pytest.mark.parametrize("name", ["demo", "paper", "strong"])
def test_a_name_is_taken_at_its_word(name: str, phantom: bool) -> None:
    assert choose(name, Overrides(), phantom=phantom) == RECIPES[name]


CHANGES = {
    "arch": "resnet34", "image_size": 96, "epochs": 3, "batch_size": 7, "lr": 0.5, "weight_decay": 0.1,
    "warmup_epochs": 1.5, "final_lr": 0.25, "ema": 0.99, "rotate": 3.0, "rescale": 0.2, "shift": 0.3, "flip": 0.5,
    "loss": "pos_weight", "sync_batch_norm": True,
}  # fmt: skip


@pytest.mark.parametrize(("option", "value"), CHANGES.items())
def test_an_override_replaces_only_its_own_value(option: str, value: object) -> None:
    changed = choose("paper", Overrides(**{option: value}), phantom=False)  # type: ignore[arg-type]
    assert to_config(changed) == to_config(PAPER) | {option: value, "recipe": "paper-changed"}
    assert changes(changed) == f"{option}={value}"


def test_all_overrides_together_leave_nothing_of_the_recipe() -> None:
    changed = choose("auto", Overrides(**CHANGES), phantom=True)  # type: ignore[arg-type]
    assert to_config(changed) == CHANGES | {"recipe": "demo-changed"}


@pytest.mark.parametrize("recipe", RECIPES.values())
def test_overrides_that_say_what_the_recipe_says_change_nothing(recipe: Recipe) -> None:
    config = to_config(recipe)
    same = {option: config[option] for option in CHANGES}
    assert choose(recipe.name, Overrides(**same), phantom=False) == recipe  # type: ignore[arg-type]
    assert changes(recipe) == ""


def test_a_value_of_nothing_is_set_too() -> None:
    changed = choose("strong", Overrides(ema=0.0, rotate=0.0, sync_batch_norm=False), phantom=False)
    assert (changed.ema, changed.augment.degrees, changed.sync_batch_norm) == (0.0, 0.0, False)
    assert changed.augment.scale == STRONG.augment.scale
    assert changed.name == "strong-changed"


def test_every_value_of_a_recipe_can_be_overridden() -> None:
    assert {field.name for field in fields(Overrides)} == CHANGES.keys()
    assert CHANGES.keys() == to_config(PAPER).keys() - {"recipe"}


def test_a_warm_up_that_takes_all_epochs_is_refused_by_name() -> None:
    for overrides in (Overrides(epochs=5), Overrides(warmup_epochs=60.0)):
        with pytest.raises(InputError, match=r"recipe=strong: warmup_epochs=(5|60) .* epochs=(5|60)\."):
            choose("strong", overrides, phantom=False)
    assert choose("strong", Overrides(epochs=6), phantom=False).epochs == 6


def test_an_unknown_recipe_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        choose("best", Overrides(), phantom=True)


def test_a_recipe_cannot_be_changed_in_place() -> None:
    with pytest.raises(FrozenInstanceError):
        PAPER.lr = 1.0  # type: ignore[misc]


# ---------------------------------------------------------------- flat


CHANGED = replace(PAPER, name="paper-changed", augment=Augment(degrees=1.5, flip=0.5), loss="asymmetric")


@pytest.mark.parametrize("recipe", [*RECIPES.values(), CHANGED])
def test_the_flat_form_comes_back_from_json_as_the_same_recipe(recipe: Recipe) -> None:
    config = to_config(recipe)
    assert all(type(value) in (str, int, float, bool) for value in config.values())
    assert from_config(config) == recipe
    assert from_config(json.loads(json.dumps(config))) == recipe


def test_the_flat_form_has_the_names_of_the_options() -> None:
    config = to_config(CHANGED)
    assert (config["recipe"], config["rotate"], config["flip"]) == ("paper-changed", 1.5, 0.5)
    assert config.keys() - {"recipe"} == {field.name for field in fields(Overrides)}


def test_the_line_names_what_is_not_the_papers_default() -> None:
    assert line(PAPER) == "recipe paper, arch resnet50, image_size 224, epochs 25, batch_size 32, lr 0.001"
    assert line(CHANGED).endswith("lr 0.001, loss asymmetric, rotate 1.5, flip 0.5")


@pytest.mark.parametrize("key", ["lr", "recipe", "ema", "flip"])
def test_a_missing_value_is_an_error_that_names_it(key: str) -> None:
    config = to_config(PAPER)
    del config[key]
    with pytest.raises(InputError, match=f": {key} is missing"):
        from_config(config)


@pytest.mark.parametrize("key", ["momentum", "augment", "name", "degrees"])
def test_an_unknown_value_is_an_error_that_names_it(key: str) -> None:
    with pytest.raises(InputError, match=f": {key} is not known"):
        from_config(to_config(PAPER) | {key: 1.0})
