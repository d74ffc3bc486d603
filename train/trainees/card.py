"""The card of an adapter: what taught it, how it did on what it did not hear, what it may and may not be used for."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from emollama import metrics
from emollama.adapter import AdapterInfo
from emollama.disclosure import EXPRESSION, NEVER_READ
from train.data_facts import NONE, DataFacts
from train.trainees import Outcome

_FEW = 20  # validation samples of a label below which its recall says little
_UNKNOWN = "not stated in the manifest; whoever trained it must know it"


def render_card(info: AdapterInfo, outcome: Outcome) -> str:
    """Return ``ADAPTER_CARD.md``: every figure in it is one that the run measured, every count one of its samples."""
    day = time.strftime("%Y-%m-%d", time.gmtime(info.created))
    words = (
        "its answers are its own, checked afterwards against the readings"
        if info.answers == "own"
        else "its sentences are held to what the readings support"
    )
    return f"""# Adapter on {info.base}

Made by the recipe `{info.recipe}` on {day}. A LoRA adapter in PEFT's format; it needs the base `{info.base}` whose
backbone and tokenizer have the sha256 `{info.base_sha256[:16]}...`.

- labels: {", ".join(info.labels) or f"those of {info.base}"}
- {words}

## Purpose

To say how a person in a clip appears, in the labels above, in clips like those it was trained on. What it is used for
is declared by whoever runs it, before it is used; the adapter does not know it.

{EXPRESSION} {NEVER_READ}

It must not be used to infer emotions at work or in education but for medical or safety reasons (Regulation (EU)
2024/1689, article 5(1)(f)), nor to decide about a person, nor on people who do not know of it.

## Data and licences

{_lines(_data(info, outcome))}

## Splits

{_splits(outcome)}

## Figures

{_figures(info, outcome)}

## Limits

{_lines(_limits(info, outcome))}
"""


def _data(info: AdapterInfo, outcome: Outcome) -> Iterator[str]:
    data = outcome.data
    yield f"- licence of the training data: {info.license or _UNKNOWN}"
    if data is None:
        return
    if data.validation_license is not None:
        yield f"- licence of the validation data: {data.validation_license}"
    yield f"- data set: {data.name or 'without a name'}; its manifest has the sha256 `{data.sha256}`"
    yield "- consent of the people in it: not known here; the licence does not stand for it"
    yield f"- what `{info.base}` was trained on is in its own card, with its licences"


def _splits(outcome: Outcome) -> str:
    data = outcome.data
    rows = [
        (split, sum(counts.values()), _listed(counts), *_more(data, split)) for split, counts in outcome.counts.items()
    ]
    text = _table(("split", "samples", "by label", "by modality", "people", "minutes"), rows)
    if data is None:
        return text
    told = [f"Validation: {data.validation}."]
    for split, facts in data.splits.items():
        if facts.left_out:
            told.append(
                f"Of the split {split}, {facts.left_out} samples hold nothing that it learns from and are left out."
            )
    return text + "\n\n" + " ".join(told)


def _more(data: DataFacts | None, split: str) -> tuple[str, str, str]:
    facts = None if data is None else data.splits.get(split)
    if facts is None:
        return "", "", ""
    people = str(facts.speakers) if not facts.unnamed else f"{facts.speakers} named" if facts.speakers else "not named"
    return _listed(facts.modalities), people, f"{facts.seconds / 60:.1f}"


def _figures(info: AdapterInfo, outcome: Outcome) -> str:
    is_measured = outcome.data.validation != NONE if outcome.data is not None else bool(info.figures)
    if not is_measured:
        return "There was no validation data, so nothing is known of how well it does."
    parts = [
        "Measured on the samples that validate, which were not trained on. They chose the moment at\n"
        "which training stopped, so expect a little less elsewhere.",
        _table(("figure", "value"), [(name, f"{value:.4f}") for name, value in info.figures.items()]),
    ]
    if outcome.calibration and info.labels:
        scores = np.concatenate([scores for scores, _ in outcome.calibration.values()])
        truth = np.concatenate([truth for _, truth in outcome.calibration.values()])
        recall = metrics.per_class_recall(truth, scores.argmax(1), num_classes=len(info.labels))
        support = np.bincount(truth, minlength=len(info.labels))
        rows = [
            (name, count, f"{value:.3f}" if count else "not measured")
            for name, count, value in zip(info.labels, support.tolist(), recall, strict=True)
        ]
        parts.append(_table(("label", "samples", "recall"), rows))
        subsets = [
            (name, len(true), f"{metrics.accuracy(true, some.argmax(1)):.3f}")
            for name, (some, true) in outcome.calibration.items()
            if len(true)
        ]
        parts.append(_table(("modalities", "samples", "accuracy"), subsets))
    return "\n\n".join(parts)


def _limits(info: AdapterInfo, outcome: Outcome) -> Iterator[str]:
    yield (
        "- It says how a person appears, never what anyone feels, and only as well as the figures above on clips like\n"
        "  those it was trained on. The limits and the prohibited uses of the base hold for it too."
    )
    yield "- It was not examined for differences between groups of people; the data do not say who belongs to which."
    yield from _limits_of_figures(info, outcome)
    if outcome.data is not None:
        yield from _limits_of_data(outcome.data)


def _limits_of_figures(info: AdapterInfo, outcome: Outcome) -> Iterator[str]:
    if not outcome.calibration or not info.labels:
        return
    truth = np.concatenate([truth for _, truth in outcome.calibration.values()])
    support = np.bincount(truth, minlength=len(info.labels)).tolist()
    few = [f"{name} {count}" for name, count in zip(info.labels, support, strict=True) if count < _FEW]
    if few:
        yield f"- Measured on fewer than {_FEW} samples, so its recall says little: {', '.join(few)}."


def _limits_of_data(data: DataFacts) -> Iterator[str]:
    train = data.splits.get("train")
    if train is None:
        return
    if train.modalities:
        seen = {part for subset in train.modalities for part in subset.split("+")}
        absent = [name for name in ("face", "voice", "words") if name not in seen]
        if absent:
            yield f"- Never trained with: {', '.join(absent)}. What it makes of them is the base's."
    if data.shared_speakers:
        yield (
            f"- {data.shared_speakers} people are in training and in validation: on strangers, expect less than this."
        )
    elif train.unnamed:
        yield "- The manifest does not name everybody in it, so the same people may be on both sides of the split."
    if 0 < train.speakers < 10 and not train.unnamed:
        yield f"- It was taught with {train.speakers} people; others show and speak differently."
    if len(train.languages) == 1:
        yield f"- Words and voices were in one language: {next(iter(train.languages))}."


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))


def _lines(lines: Iterator[str]) -> str:
    return "\n".join(lines)
