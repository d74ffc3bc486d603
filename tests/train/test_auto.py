"""Hyper-parameters that nobody chose."""

from __future__ import annotations

from typing import Any

import pytest

from emollama.errors import InputError
from train.auto import choose
from train.recipes import load_recipe


@pytest.mark.parametrize(
    ("num_samples", "epochs", "batch_size"),
    [(1, 60, 1), (12, 60, 4), (300, 60, 50), (4_000, 6, 64), (100_000, 3, 64)],
)
def test_small_sets_are_passed_over_often_and_large_ones_a_few_times(
    num_samples: int, epochs: int, batch_size: int
) -> None:
    config = choose(load_recipe("instruct"), num_samples=num_samples, num_valid=500)
    assert (config.epochs, config.batch_size) == (epochs, batch_size)
    assert 1 <= config.validate_every_epochs <= config.epochs


def test_numbers_that_were_chosen_are_kept() -> None:
    recipe = load_recipe("instruct")
    config = choose(recipe, num_samples=300, n_epochs=2, batch_size=8, learning_rate_multiplier=0.5)
    assert (config.epochs, config.batch_size) == (2, 8)
    assert config.learning_rate == pytest.approx(0.5 * recipe.learning_rate)
    assert config.projector_learning_rate == pytest.approx(0.5 * recipe.projector_learning_rate)


def test_a_few_validation_samples_choose_nothing() -> None:
    few = choose(load_recipe("instruct"), num_samples=300, num_valid=40)
    assert (few.export, few.patience) == ("last", None)
    many = choose(load_recipe("instruct"), num_samples=3000, num_valid=400)
    assert (many.export, many.monitor) == ("best", "macro_f1:max")
    assert choose(load_recipe("instruct"), num_samples=300).monitor == "loss:min"


@pytest.mark.parametrize(
    ("name", "value"),
    [("n_epochs", 0), ("n_epochs", "many"), ("batch_size", 1000), ("learning_rate_multiplier", -1), ("n_epochs", True)],
)
def test_what_is_not_allowed_is_named(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"{name} is"):
        choose(load_recipe("instruct"), num_samples=10, **{name: value})
