"""Two measurements on composed clips (`emollama.fusion.composed`), over seeds, with everything in one document.

`dropout_study`: how far macro-F1 falls when a modality is missing, for a classifier that was trained with dropout of
whole modalities and for one that was not, all else being equal. `self_training_study`: how much of the gap between few
labels and all of them self-training recovers, on validation clips none of whose items is in any training clip, labelled
or not. Each seed draws its own clips, holds out another pair of speakers and seeds its own networks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from emollama.errors import InputError
from emollama.fusion.composed import ComposedSets, compose
from emollama.labels import EMODB_6
from train.config import TrainConfig
from train.self_training.report import describe_rounds, mean_and_spread
from train.self_training.rounds import SelfTraining, cross_validate, score, self_train
from train.self_training.teach import teach_by

Progress = Callable[[str], object]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Composition:
    """How many clips of each class are composed, and the share of the training ones (and of their items) labelled.

    ``by_speaker``: voices are standardised by all recordings of their speaker.
    """

    per_class: int = 100
    labelled_share: float = 0.3
    valid_per_class: int = 200
    by_speaker: bool = False

    def draw(self, data: Path, cache: Path, *, seed: int) -> ComposedSets:
        return compose(data, cache, seed=seed, **dataclasses.asdict(self))


def dropout_study(
    data: Path,
    cache: Path,
    config: TrainConfig,
    *,
    seeds: Sequence[int],
    steps: int,
    composition: Composition | None = None,
    members: int = 1,
    networks: int = 1,
    models: Path | None = None,
    progress: Progress = lambda said: None,
) -> dict[str, Any]:
    """Train with the recipe's modality dropout and with none, for each seed; score whole and with each one missing.

    A classifier is an ensemble of ``members``. On each seed's clips ``networks`` of them are trained, from other
    weights, and their scores are averaged: what one happens to lean on is chance. The first is kept as
    ``models/seed-N-with`` or ``-without`` where a folder ``models`` is named.
    """
    if config.task.modality_dropout <= 0:
        raise InputError("modality_dropout is 0; allowed: more, to compare with none", field="modality_dropout")
    drawn = composition or Composition()
    scores: dict[str, list[dict[str, float]]] = {"with": [], "without": []}
    for seed in seeds:
        sets = drawn.draw(data, cache, seed=seed)
        train = sets.labelled.joined(sets.rest)
        for name, probability in (("without", 0.0), ("with", config.task.modality_dropout)):
            options = dataclasses.replace(config.task, modality_dropout=probability)
            teach = teach_by(dataclasses.replace(config, task=options), EMODB_6, steps=steps)
            asked = {"full": sets.valid, **{m: sets.valid.without(m) for m in sets.valid.modalities}}
            each: dict[str, list[float]] = {part: [] for part in asked}
            for network in range(networks):
                numbers = range(network * members, (network + 1) * members)
                classifier = teach(train, [1.0] * len(train), [seed + 1000 * number for number in numbers])
                if models is not None and network == 0:
                    classifier.save(models / f"seed-{seed}-{name}")
                for part, clips in asked.items():
                    each[part].append(score(classifier, clips)["macro_f1"])
            found = {part: _mean(values) for part, values in each.items()}
            scores[name].append(found)
            progress(f"seed {seed} {name} modality dropout: {found}")
    modalities = [name for name in scores["with"][0] if name != "full"]
    falls = {
        name: {modality: [one["full"] - one[modality] for one in rows] for modality in modalities}
        for name, rows in scores.items()
    }
    ratios = {
        modality: _mean(falls["with"][modality]) / _mean(falls["without"][modality])
        if _mean(falls["without"][modality]) > 0
        else None
        for modality in modalities
    }
    return {
        "what": "macro-F1 over six classes on composed validation clips, whole and with one modality missing",
        "seeds": list(seeds),
        "updates": steps,
        "members": members,
        "networks": networks,
        "composition": dataclasses.asdict(drawn),
        "recipe": config.to_json_dict()["task"],
        **{
            f"{name}_modality_dropout": {
                "full": mean_and_spread([one["full"] for one in rows]),
                "missing": {m: mean_and_spread([one[m] for one in rows]) for m in modalities},
                "fall": {m: mean_and_spread(falls[name][m]) for m in modalities},
            }
            for name, rows in scores.items()
        },
        "fall_with_over_fall_without": {m: None if r is None else round(r, 4) for m, r in ratios.items()},
        "at_most_half_for_each": all(ratio is not None and ratio <= 0.5 for ratio in ratios.values()),
    }


def self_training_study(
    data: Path,
    cache: Path,
    config: TrainConfig,
    options: SelfTraining,
    *,
    seeds: Sequence[int],
    steps: int,
    composition: Composition | None = None,
    progress: Progress = lambda said: None,
) -> dict[str, Any]:
    """Score few labels, self-training from them, and all labels: ensembles of the same size, as many updates."""
    drawn = composition or Composition()
    teach = teach_by(config, EMODB_6, steps=steps)
    found: dict[str, list[float]] = {"few": [], "self_trained": [], "all": []}
    details = []
    for seed in seeds:
        sets = drawn.draw(data, cache, seed=seed)
        _check_apart(sets)
        truth = {name: str(label) for name, label in zip(sets.rest.names, sets.rest.labels, strict=True)}
        hidden = sets.rest.with_labels([None] * len(sets.rest))
        chosen = dataclasses.replace(options, seed=seed)
        rounds = self_train(sets.labelled, hidden, chosen, teach)
        folds = cross_validate(sets.labelled, hidden, chosen, teach) if chosen.folds else ()
        train = sets.labelled.joined(sets.rest)
        everything = teach(train, [1.0] * len(train), [seed * 1000 + number for number in range(chosen.members)])
        found["few"].append(score(rounds[0].classifier, sets.valid)["macro_f1"])
        found["self_trained"].append(score(rounds[-1].classifier, sets.valid)["macro_f1"])
        found["all"].append(score(everything, sets.valid)["macro_f1"])
        details.append(
            {
                "seed": seed,
                "held_out_speakers": list(sets.held_out),
                "rounds": describe_rounds(rounds, hidden, valid=sets.valid, folds=folds, truth=truth),
            }
        )
        progress(f"seed {seed}: " + ", ".join(f"{name} {values[-1]:.4f}" for name, values in found.items()))
    few, trained, everything_mean = (_mean(found[name]) for name in ("few", "self_trained", "all"))
    gap = everything_mean - few
    return {
        "what": "macro-F1 over six classes on composed validation clips whose items are in no training clip",
        "seeds": list(seeds),
        "updates": steps,
        "composition": dataclasses.asdict(drawn),
        "recipe": config.to_json_dict()["task"],
        "self_training": {**dataclasses.asdict(options), "seed": "that of the study"},
        "few_labels": mean_and_spread(found["few"]),
        "self_trained": mean_and_spread(found["self_trained"]),
        "all_labels": mean_and_spread(found["all"]),
        "gap": round(gap, 4),
        "recovered_share_of_the_gap": round((trained - few) / gap, 4) if gap > 0 else None,
        "at_least_half": bool(gap > 0 and (trained - few) / gap >= 0.5),
        "by_seed": details,
    }


def _check_apart(sets: ComposedSets) -> None:
    """Raise `InputError` when an item of a validation clip is in a training clip, or a labelled one in the rest."""
    items = {
        name: {item for clip in part.names for item in clip.partition(":")[2].split("+")}
        for name, part in (("labelled", sets.labelled), ("rest", sets.rest), ("valid", sets.valid))
    }
    for first, second in (("labelled", "rest"), ("labelled", "valid"), ("rest", "valid")):
        if shared := items[first] & items[second]:
            raise InputError(f"item {sorted(shared)[0]!r} is in {first} and {second}", field="composition")


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
