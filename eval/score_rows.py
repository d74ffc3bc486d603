"""Rows of two files, paired by name, become figures: one reader for each kind of task.

Decides what a missing, extra, unknown or unreadable row means; the computing is in `eval.score_figures`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from emollama.errors import DatasetError, InputError
from eval.choices import find_choice
from eval.score_files import (
    ABSTAINED,
    UNPARSEABLE,
    LabelReader,
    Row,
    Table,
    Tally,
    find_preference,
    read_table,
    some,
)
from eval.score_tasks import ScoreTask

if TYPE_CHECKING:
    import numpy as np

    from emollama.metrics import EmotionWheels
    from eval.score_figures import Scored

Strictness = Literal["error", "wrong"]


@dataclass(frozen=True, kw_only=True)
class ScoreOptions:
    """How strict the files are read, and how intervals are drawn. ``by``: cluster column, ``clip`` for none."""

    missing: Strictness = "error"
    unknown: Strictness = "error"
    by: str | None = None
    num_resamples: int = 1000
    level: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_resamples < 1:
            raise InputError(f"resamples {self.num_resamples} must be at least 1", field="resamples")
        if self.seed < 0:
            raise InputError(f"seed {self.seed} must not be negative", field="seed")


@dataclass(kw_only=True)
class ScoreContext:
    """What every reader of rows needs; ``notes`` gathers what the report must say."""

    task: ScoreTask
    options: ScoreOptions
    truth: Table
    synonyms: dict[str, dict[str, str]] = field(default_factory=dict)
    wheels: EmotionWheels | None = None
    with_confidence: bool = False
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class ScoredRun:
    """One file's figures and counts; ``row_places``: unit -> place of its row in the truth file."""

    scored: Scored
    counts: dict[str, Any]
    row_places: list[int]


def columns_of(task: ScoreTask, *, is_gold: bool) -> tuple[str, ...]:
    """Return the columns, besides ``name``, that a task's file must hold."""
    columns: dict[str, tuple[str, ...]] = {
        "classes": ("label", "valence") if task.with_valence else ("label",),
        "valence_arousal": ("valence", "arousal"),
        "action_units": task.labels,
        "intensities": task.labels,
        "sentiment": ("valence",),
        "hit": ("label",) if is_gold else ("labels",),
    }
    return columns.get(task.kind, ("labels",))


def score_run(predictions: Table, context: ScoreContext) -> ScoredRun:
    """Score one file of predictions against the context's truth; `DatasetError` for whatever does not fit."""
    task, options, truth = context.task, context.options, context.truth
    missing = [name for name in truth.rows if name not in predictions.rows]
    extra = [name for name in predictions.rows if name not in truth.rows]
    if extra and not task.allow_extra:
        raise DatasetError(
            f"{predictions.path} holds {len(extra)} names that {truth.path} does not: {some(extra)}; "
            f"first on line {predictions.rows[extra[0]].line}; this task wants the same names in both"
        )
    if missing and (options.missing == "error" or _wants_numbers(task)):
        remedy = "a number cannot be counted as wrong" if _wants_numbers(task) else "--missing wrong counts them so"
        raise DatasetError(
            f"{predictions.path} has no row for {len(missing)} of {len(truth.rows)} names of {truth.path}: "
            f"{some(missing)}; {remedy}"
        )
    if extra:
        context.notes.append(
            f"{len(extra)} names of {predictions.path.name} are not in {truth.path.name} and are not scored"
        )
    if missing:
        context.notes.append(f"{len(missing)} clips have no prediction and count as wrong")
    tally = Tally()
    pairs = [(row, predictions.rows.get(name)) for name, row in truth.rows.items()]
    builder = {
        "classes": _classes_of,
        "valence_arousal": _affect_of,
        "action_units": _units_of,
        "intensities": _intensities_of,
        "sentiment": _sentiment_of,
        "multilabel": _multilabel_of,
        "set": _words_of,
        "wheel": _words_of,
        "hit": _words_of,
    }[task.kind]
    scored, more = builder(pairs, context, tally)
    counts = {
        "gold": len(truth.rows),
        "predictions": len(predictions.rows),
        "scored": len(scored.sums),
        "missing": len(missing),
        "extra": len(extra),
        "unparseable": tally.unparseable,
        "abstained": tally.abstained,
        **more,
        "read_as": dict(sorted(tally.read_as.items())),
    }
    return ScoredRun(scored=scored, counts=counts, row_places=[int(place) for place in scored.units])


def _wants_numbers(task: ScoreTask) -> bool:
    return task.with_valence or task.kind in ("valence_arousal", "action_units", "intensities", "sentiment")


Pairs = Sequence[tuple[Row, Row | None]]
Built = tuple["Scored", dict[str, Any]]


def _read_class(
    row: Row, column: str, reader: LabelReader, context: ScoreContext, tally: Tally, *, is_gold: bool
) -> int | None:
    """Return a class index, -1 for no answer (predictions only), ``None`` for a clip that the task leaves out."""
    task, text = context.task, row.text(column)
    word: str | None = text
    if is_gold and text.lower() in task.dropped_gold:
        return None
    if not is_gold:
        if text.lower() in ABSTAINED:
            tally.abstained += 1
            return -1
        if task.answers == "preference":
            word = find_preference(text)
            if word is None:
                tally.unparseable += 1
                context.notes.append("an answer without a1, a2 or same counts as same, and same as a1 (MER2026 rules)")
            return 1 if word == "a2" else 0
        if text.lower() in UNPARSEABLE:
            tally.unparseable += 1
            return -1
    if task.answers == "choice":
        word = find_choice(text)
    found = None if word is None else reader.find(word)
    if found is None:
        message = f"{row.where(column)}: {text!r} is not a label of this task; allowed: {reader.allowed()}"
        if is_gold or context.options.unknown == "error":
            hint = "" if is_gold else "; --unknown wrong counts it as unparseable"
            raise DatasetError(message + hint)
        tally.unparseable += 1
        return -1
    if task.answers == "name" and text.lower() != reader.labels[found].lower():
        tally.read_as[f"{text} -> {reader.labels[found]}"] += 1
    return found


def _classes_of(pairs: Pairs, context: ScoreContext, tally: Tally) -> Built:
    import numpy as np

    from eval.score_figures import score_classes

    task = context.task
    reader = LabelReader(task.labels, by_index=task.by_index)
    truth, predicted, places, valence, confidence = [], [], [], [], []
    for place, (gold, answer) in enumerate(pairs):
        index = _read_class(gold, "label", reader, context, tally, is_gold=True)
        if index is None:
            continue
        truth.append(index)
        places.append(place)
        found = None if answer is None else _read_class(answer, "label", reader, context, tally, is_gold=False)
        predicted.append(-1 if found is None else found)
        if task.with_valence and answer is not None:
            valence.append((gold.number("valence"), answer.number("valence")))
        if context.with_confidence:
            sure = 0.0 if answer is None else answer.number("confidence")
            if answer is not None and not 0 <= sure <= 1:
                raise DatasetError(f"{answer.where('confidence')}: {sure} is outside 0 to 1")
            confidence.append(sure)
    if not truth:
        raise DatasetError(f"{context.truth.path} holds no clip that this task scores")
    both = np.array(valence, np.float64).reshape(-1, 2)
    scored = score_classes(
        np.array(truth),
        np.array(predicted),
        task.labels,
        figures=task.figures,
        valence=(both[:, 0], both[:, 1]) if task.with_valence else None,
        confidence=np.array(confidence) if context.with_confidence else None,
        units=np.array(places),
    )
    return scored, {"left_out": len(pairs) - len(truth)} if task.dropped_gold else {}


def _numbers(pairs: Pairs, columns: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    import numpy as np

    sides = [[], []]  # type: list[list[list[float]]]
    for gold, answer in pairs:
        assert answer is not None  # a missing row of numbers was refused before
        for side, row in zip(sides, (gold, answer), strict=True):
            side.append([row.number(column) for column in columns])
    return np.array(sides[0]), np.array(sides[1])


def _affect_of(pairs: Pairs, context: ScoreContext, tally: Tally) -> Built:
    import numpy as np

    from eval.score_figures import score_series

    columns = ("valence", "arousal")
    truth, predicted = _numbers(pairs, columns)
    _check_range(pairs, truth, columns, allowed=(-1.0, 1.0), blank=-5.0)
    is_kept = (truth != -5).all(1)  # how ABAW marks a frame without annotation
    _some_left(is_kept, context)
    scored = score_series(truth[is_kept], predicted[is_kept], columns, np.flatnonzero(is_kept), agreement="ccc")
    context.notes.append("CCC with biased variance (1/N), over all frames at once")
    return scored, {"not_annotated": int((~is_kept).sum())}


def _intensities_of(pairs: Pairs, context: ScoreContext, tally: Tally) -> Built:
    import numpy as np

    from eval.score_figures import score_series

    truth, predicted = _numbers(pairs, context.task.labels)
    _check_range(pairs, truth, context.task.labels, allowed=(0.0, 1.0))
    return score_series(truth, predicted, context.task.labels, np.arange(len(truth)), agreement="pearson"), {}


def _units_of(pairs: Pairs, context: ScoreContext, tally: Tally) -> Built:
    import numpy as np

    from eval.score_figures import score_action_units

    names = context.task.labels
    truth, predicted = _numbers(pairs, names)
    for side, values, allowed in ((0, truth, (-1, 0, 1)), (1, predicted, (0, 1))):
        wrong = np.argwhere(~np.isin(values, allowed))
        if len(wrong):
            row = pairs[wrong[0][0]][side]
            assert row is not None
            column = names[wrong[0][1]]
            shown = ", ".join(map(str, allowed))
            raise DatasetError(f"{row.where(column)}: {row.text(column)!r} is not allowed; one of {shown}")
    is_kept = truth.min(1) >= 0
    _some_left(is_kept, context)
    scored = score_action_units(
        truth[is_kept].astype(int), predicted[is_kept].astype(int), names, np.flatnonzero(is_kept)
    )
    return scored, {"not_annotated": int((~is_kept).sum())}


def _sentiment_of(pairs: Pairs, context: ScoreContext, tally: Tally) -> Built:
    import numpy as np

    from eval.score_figures import score_classes

    truth, predicted = _numbers(pairs, ("valence",))
    is_kept = truth[:, 0] != 0
    _some_left(is_kept, context)
    context.notes.append("clips whose true valence is 0 are left out; above 0 is positive")
    scored = score_classes(
        (truth[is_kept, 0] > 0).astype(int),
        (predicted[is_kept, 0] > 0).astype(int),
        context.task.labels,
        figures=context.task.figures,
        units=np.flatnonzero(is_kept),
    )
    return scored, {"left_out": int((~is_kept).sum())}


def _check_range(
    pairs: Pairs, truth: np.ndarray, columns: Sequence[str], *, allowed: tuple[float, float], blank: float | None = None
) -> None:
    import numpy as np

    is_wrong = (truth < allowed[0]) | (truth > allowed[1])
    if blank is not None:
        is_wrong &= truth != blank
    if is_wrong.any():
        place, column = np.argwhere(is_wrong)[0]
        row, name = pairs[place][0], columns[column]
        mark = "" if blank is None else f", or {blank:g} for a frame without annotation"
        raise DatasetError(f"{row.where(name)}: {row.text(name)!r} is outside {allowed[0]:g} to {allowed[1]:g}{mark}")


def _some_left(is_kept: np.ndarray, context: ScoreContext) -> None:
    if not is_kept.any():
        raise DatasetError(f"{context.truth.path} holds no row that this task scores")


def _read_words(row: Row, column: str, context: ScoreContext, tally: Tally, *, is_gold: bool) -> list[str]:
    from emollama.metrics import parse_labels_2024, parse_labels_2025

    text = row.text(column)
    if not is_gold and text.lower() in ABSTAINED:
        tally.abstained += 1
        return []
    if not is_gold and text.lower() == "unparseable":
        tally.unparseable += 1
        return []
    if context.task.reader == "2025":
        return parse_labels_2025(text)
    try:
        return parse_labels_2024(text)
    except InputError as error:
        if is_gold or context.options.unknown == "error":
            hint = "" if is_gold else "; --unknown wrong counts it as unparseable"
            raise DatasetError(f"{row.where(column)}: {error}{hint}") from error
        tally.unparseable += 1
        return []


def _words_of(pairs: Pairs, context: ScoreContext, tally: Tally) -> Built:
    import numpy as np

    from eval.score_figures import score_hits, score_sets, score_wheels

    task = context.task
    gold_column = "label" if task.kind == "hit" else "labels"
    gold, predicted, places = [], [], []
    for place, (row, answer) in enumerate(pairs):
        if task.kind == "set" and context.synonyms and row.text("name") not in context.synonyms:
            continue
        words = (
            [row.text("label")] if task.kind == "hit" else _read_words(row, gold_column, context, tally, is_gold=True)
        )
        if task.kind in ("set", "hit") and not any(word.strip() for word in words):
            raise DatasetError(f"{row.where(gold_column)}: {row.text(gold_column)!r} holds no label")
        gold.append(words)
        places.append(place)
        predicted.append([] if answer is None else _read_words(answer, "labels", context, tally, is_gold=False))
    more: dict[str, Any] = {"empty_predictions": sum(not words for words in predicted)}
    if task.kind == "set":
        more["without_synonyms"] = len(pairs) - len(places) if context.synonyms else len(pairs)
        groups = [context.synonyms.get(pairs[place][0].text("name"), {}) for place in places]
        return score_sets(gold, predicted, groups, np.array(places)), more
    assert context.wheels is not None
    if task.kind == "hit":
        scored = score_hits([words[0] for words in gold], predicted, context.wheels)
    else:
        scored = score_wheels(gold, predicted, context.wheels, levels=task.levels)
    for level, kept in scored.details["clips_by_wheel"].items():
        if min(kept) < len(gold):
            context.notes.append(f"{level}: clips whose gold words are on no sector are skipped; kept by wheel: {kept}")
    dropped = scored.details["dropped_words"]
    for side in ("gold", "predicted"):
        if dropped[side]["num_dropped"]:
            context.notes.append(
                f"{dropped[side]['num_dropped']} of {dropped[side]['num_words']} {side} words are outside the word "
                "lists and are dropped: they neither help nor harm"
            )
    return scored, more


def _multilabel_of(pairs: Pairs, context: ScoreContext, tally: Tally) -> Built:
    import numpy as np

    from eval.score_figures import score_multilabel

    reader = LabelReader(context.task.labels)
    sides = [np.zeros((len(pairs), len(reader.labels)), int) for _ in range(2)]
    for place, pair in enumerate(pairs):
        for side, (matrix, row) in enumerate(zip(sides, pair, strict=True)):
            if row is None:
                continue
            is_bad = False
            for word in _read_words(row, "labels", context, tally, is_gold=side == 0):
                index = reader.find(word)
                if index is not None:
                    matrix[place, index] = 1
                    if word.lower() != reader.labels[index].lower():
                        tally.read_as[f"{word} -> {reader.labels[index]}"] += 1
                elif side == 0 or context.options.unknown == "error":
                    hint = "; --unknown wrong drops the clip's answer as unparseable" if side else ""
                    raise DatasetError(
                        f"{row.where('labels')}: {word!r} is not a label of this task; "
                        f"allowed: {reader.allowed()}{hint}"
                    )
                else:
                    is_bad = True
            if is_bad:
                matrix[place] = 0
                tally.unparseable += 1
    return score_multilabel(sides[0], sides[1], reader.labels), {}


def read_synonyms(path: Path | None, truth: Table, context: ScoreContext) -> dict[str, dict[str, str]]:
    """Return the synonym map of each clip (MER2024 groups); without a file none, and a note."""
    from emollama.metrics import parse_synonym_groups, synonym_map

    if path is None:
        context.notes.append("no synonym groups were given: words must match exactly; this is not the official figure")
        return {}
    table = read_table(path, columns=("groups",))
    unknown = [name for name in table.rows if name not in truth.rows]
    if unknown:
        raise DatasetError(f"{path} holds {len(unknown)} names that {truth.path} does not: {some(unknown)}")
    without = len(truth.rows) - len(table.rows)
    if without:
        context.notes.append(f"{without} clips have no synonym groups and are not scored, as in MER2024")
    return {name: synonym_map(parse_synonym_groups(row.text("groups"))) for name, row in table.rows.items()}
