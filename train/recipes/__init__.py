"""Recipes: functions that return a whole `TrainConfig`; `RECIPES` names them, imported only when asked for.

Those whose name begins with ``nano_`` make the embedded model from raw data; the others fine-tune on one's own clips.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import MappingProxyType

from emollama.errors import UnknownNameError
from train.config import TrainConfig

# name -> "module:function"
RECIPES: Mapping[str, str] = MappingProxyType(
    {
        "align": "train.recipes.align:align",
        "instruct": "train.recipes.instruct:instruct",
        "qlora": "train.recipes.qlora:qlora",
        "emotion_llama_stage1": "train.recipes.emotion_llama:emotion_llama_stage1",
        "emotion_llama_stage2": "train.recipes.emotion_llama:emotion_llama_stage2",
        "hsemotion_stage1": "train.recipes.hsemotion:hsemotion_stage1",
        "hsemotion_stage2": "train.recipes.hsemotion:hsemotion_stage2",
        "hsemotion_face": "train.recipes.hsemotion_face:hsemotion_face",
        "abaw_expr": "train.recipes.abaw:abaw_expr",
        "abaw_va": "train.recipes.abaw:abaw_va",
        "abaw_au": "train.recipes.abaw:abaw_au",
        "abaw_ce": "train.recipes.abaw:abaw_ce",
        "abaw_emi": "train.recipes.abaw:abaw_emi",
        "emovclip_clip": "train.recipes.emovclip_clip:emovclip_clip",
        "emovclip": "train.recipes.emovclip:emovclip",
        "fusion": "train.recipes.fusion:fusion",
        "debug": "train.recipes.debug:debug",
        "nano_face": "train.recipes.nano_face:nano_face",
        "nano_voice": "train.recipes.nano_voice:nano_voice",
        "nano_backbone": "train.recipes.nano_backbone:nano_backbone",
        "nano_align": "train.recipes.nano_align:nano_align",
        "nano_instruct": "train.recipes.nano_instruct:nano_instruct",
    }
)


def load_recipe(name: str) -> TrainConfig:
    """Return a recipe's config; an unknown name raises `UnknownNameError` with the list."""
    if name not in RECIPES:
        raise UnknownNameError("recipe", name, RECIPES)
    module, _, function = RECIPES[name].partition(":")
    config: TrainConfig = getattr(importlib.import_module(module), function)()
    return config
