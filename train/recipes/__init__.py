"""Recipes: functions that return a whole `TrainConfig`; `RECIPES` names them, imported only when asked for."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import MappingProxyType

from emollama.errors import UnknownNameError
from train.config import TrainConfig

# name -> "module:function"
RECIPES: Mapping[str, str] = MappingProxyType(
    {
        "face": "train.recipes.face:face",
        "voice": "train.recipes.voice:voice",
        "align": "train.recipes.align:align",
        "instruct": "train.recipes.instruct:instruct",
        "backbone": "train.recipes.backbone:backbone",
    }
)


def load_recipe(name: str) -> TrainConfig:
    """Return a recipe's config; an unknown name raises `UnknownNameError` with the list."""
    if name not in RECIPES:
        raise UnknownNameError("recipe", name, RECIPES)
    module, _, function = RECIPES[name].partition(":")
    config: TrainConfig = getattr(importlib.import_module(module), function)()
    return config
