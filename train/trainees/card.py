"""The card of an adapter: what taught it, how it did on what it did not hear, what it may be used for."""

from __future__ import annotations

import time
from collections.abc import Mapping

from emollama.adapter import AdapterInfo
from train.trainees import Outcome


def render_card(info: AdapterInfo, outcome: Outcome) -> str:
    """Return ``ADAPTER_CARD.md``: every figure in it is one that the run measured."""
    day = time.strftime("%Y-%m-%d", time.gmtime(info.created))
    figures = "\n".join(f"| {name} | {value:.4f} |" for name, value in info.figures.items())
    rows = "\n".join(
        f"| {split} | {sum(counts.values())} | {_listed(counts)} |" for split, counts in outcome.counts.items()
    )
    licence = info.license or "not stated in the manifest; whoever trained it must know it"
    words = (
        "its answers are its own, checked afterwards against the readings"
        if info.answers == "own"
        else "its sentences are held to what the readings support"
    )
    measured = (
        "Measured on the samples of the split `valid`, which were not trained on. They chose the moment at\n"
        "which training stopped, so expect a little less elsewhere."
        if figures
        else "There was no validation data, so nothing is known of how well it does."
    )
    return f"""# Adapter on {info.base}

Made by the recipe `{info.recipe}` on {day}. A LoRA adapter in PEFT's format; it needs the base `{info.base}` whose
backbone and tokenizer have the sha256 `{info.base_sha256[:16]}...`.

- labels: {", ".join(info.labels) or f"those of {info.base}"}
- {words}
- licence of the training data: {licence}

## Training data

| split | samples | by label |
|---|---|---|
{rows}

## Last validation

{measured}

| figure | value |
|---|---|
{figures}

## Limits

It says how a person appears, never what anyone feels, and only as well as the figures above on clips like those it was
trained on. The limits and the prohibited uses of the base hold for it too.
"""


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
