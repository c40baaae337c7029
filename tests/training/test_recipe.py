"""Recipes: the paper's values, and that a changed recipe does not pass for it."""

from dataclasses import FrozenInstanceError, asdict, fields

import pytest

from cxr.model import ARCHS
from cxr.training.recipe import DEMO, PAPER, RECIPES, Overrides, Recipe, choose


def test_the_paper_recipe_is_the_papers_algorithm_1() -> None:
    # 2: learning rate 1e-3, fixed; 4: batch size 32; 5: 25 epochs; section 3.1: ResNet-50.
    # 1 (Adam) and 3 (the loss) are held in test_loop.py and test_objective.py.
    assert (PAPER.lr, PAPER.batch_size, PAPER.epochs, PAPER.arch) == (1e-3, 32, 25, "resnet50")
    assert PAPER.image_size == 224


def test_recipes_are_found_by_their_own_names_and_can_be_built() -> None:
    assert {"demo": DEMO, "paper": PAPER} == RECIPES
    for recipe in RECIPES.values():
        assert recipe.arch in ARCHS
        assert min(recipe.epochs, recipe.batch_size, recipe.image_size, recipe.lr) > 0


@pytest.mark.parametrize(("phantom", "expected"), [(True, DEMO), (False, PAPER)])
def test_auto_is_the_demo_on_the_phantom_and_the_paper_on_anything_else(phantom: bool, expected: Recipe) -> None:
    assert choose("auto", Overrides(), phantom=phantom) == expected


@pytest.mark.parametrize("phantom", [True, False])
@pytest.mark.parametrize("name", ["demo", "paper"])
def test_a_name_is_taken_at_its_word(name: str, phantom: bool) -> None:
    assert choose(name, Overrides(), phantom=phantom) == RECIPES[name]


CHANGES = [("arch", "resnet34"), ("image_size", 96), ("epochs", 1), ("batch_size", 7), ("lr", 0.5)]


@pytest.mark.parametrize(("field", "value"), CHANGES)
def test_an_override_replaces_only_its_own_field(field: str, value: object) -> None:
    changed = choose("paper", Overrides(**{field: value}), phantom=False)  # type: ignore[arg-type]
    assert asdict(changed) == asdict(PAPER) | {field: value, "name": "paper-changed"}


def test_all_overrides_together_leave_nothing_of_the_recipe() -> None:
    changed = choose("auto", Overrides(**dict(CHANGES)), phantom=True)  # type: ignore[arg-type]
    assert asdict(changed) == dict(CHANGES) | {"name": "demo-changed"}


def test_overrides_that_say_what_the_recipe_says_change_nothing() -> None:
    same = {name: value for name, value in asdict(PAPER).items() if name != "name"}
    assert choose("paper", Overrides(**same), phantom=False) == PAPER


def test_every_value_of_a_recipe_can_be_overridden() -> None:
    assert {field.name for field in fields(Overrides)} == {field.name for field in fields(Recipe)} - {"name"}


def test_an_unknown_recipe_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        choose("best", Overrides(), phantom=True)


def test_a_recipe_cannot_be_changed_in_place() -> None:
    with pytest.raises(FrozenInstanceError):
        PAPER.lr = 1.0  # type: ignore[misc]
