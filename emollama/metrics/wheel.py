"""The emotion-wheel (EW) metric: free words are mapped to the sectors of five emotion wheels and compared as sets.

Formulas and word lists of MERTools (``MER2025/MER2025_Track23/my_affectgpt/evaluation/wheel.py``; MER2026 is the same
with a cleaned ``format.csv``: whichever file lies in the folder is used). The word lists are loaded from a path; none
is shipped. Three maps, all lower-cased and stripped:

- ``forms``: surface form -> raw words (``format.csv``: ``name``, ``format`` = comma list; a raw word is its own form),
- ``synonyms``: raw word -> words on a wheel (``synonym.xlsx``: ``word_runK``, ``synonym_runK``, 8 runs merged),
- ``sectors``: (wheel, level) -> word on the wheel -> sector (``wheelK.xlsx``: ``level1``, ``level2``, ``level3``; a
  blank cell inherits the row above; a word that stands in two sectors belongs to the one written last).

A word outside the maps is dropped on both sides, so nonsense costs no precision: report how many were dropped. A clip
whose gold maps to nothing is skipped, so the number of scored clips differs by wheel; an empty prediction scores 0.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from emollama.errors import DatasetError, DependencyError, InputError
from emollama.metrics.openset import hit_counts, parse_labels_2025

WHEELS = (1, 2, 3, 4, 5)
LEVELS = (1, 2)
NUM_RUNS = 8


@dataclass(frozen=True, kw_only=True)
class EmotionWheels:
    """The three maps; build them with `load_wheels`."""

    forms: Mapping[str, tuple[str, ...]]
    synonyms: Mapping[str, tuple[str, ...]]
    sectors: Mapping[tuple[int, int], Mapping[str, str]]

    def sector(self, label: str, *, wheel: int, level: int) -> str | None:
        """Return the sector of a label (M3), ``None`` when it is dropped: the first, in sorted order, on the wheel."""
        if (wheel, level) not in self.sectors:
            raise InputError(f"wheel {wheel}, level {level} is not one of wheels 1 to 5, levels 1 and 2", field="wheel")
        sectors = self.sectors[wheel, level]
        raws = self.forms.get(label.strip().lower(), ())
        candidates = sorted(word for raw in raws for word in self.synonyms[raw])
        return next((sectors[word] for word in candidates if word in sectors), None)

    def raw_word(self, label: str) -> str | None:
        """Return the one raw word a label stands for (M1), ``None`` when it is dropped."""
        raws = self.forms.get(label.strip().lower())
        return min(raws) if raws else None

    def wheel_word(self, label: str) -> str | None:
        """Return the one wheel word a label stands for (M2), ``None`` when it is dropped."""
        raw = self.raw_word(label)
        return None if raw is None else min(self.synonyms[raw])

    def is_known(self, label: str) -> bool:
        """Whether the label is a form at all; one that is not is dropped for every wheel and level."""
        return label.strip().lower() in self.forms


@dataclass(frozen=True, kw_only=True)
class WheelScore:
    """EW at one level. Arrays run over wheels [W]: mean precision and recall over ``num_kept`` clips, and their F.

    ``score`` is the mean of the F values (not the F of mean precision and recall). ``precisions`` and ``recalls``
    [N, W] are the clips', NaN where a clip is skipped.
    """

    level: int
    score: float
    f1: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    num_kept: np.ndarray
    precisions: np.ndarray
    recalls: np.ndarray


def wheel_score(
    gold: Sequence[Iterable[str]],
    predicted: Sequence[Iterable[str]],
    wheels: EmotionWheels,
    *,
    level: int,
    which: Sequence[int] = WHEELS,
) -> WheelScore:
    """Return the EW score of N clips' words at level 1 or 2, over the wheels asked for."""
    gold_sets, predicted_sets = _mapped(gold, predicted, wheels, level=level, which=which)
    precisions, recalls = np.full((len(gold), len(which)), np.nan), np.full((len(gold), len(which)), np.nan)
    for column in range(len(which)):
        for row, (g, p) in enumerate(zip(gold_sets[column], predicted_sets[column], strict=True)):
            if g:
                hits = len(g & p)
                precisions[row, column] = hits / len(p) if p else 0.0
                recalls[row, column] = hits / len(g)
    num_kept = (~np.isnan(recalls)).sum(0)
    if not num_kept.all():
        raise InputError(
            f"no clip's gold words are on wheel {which[int(np.argmin(num_kept))]}; the score is not defined",
            field="gold",
        )
    precision, recall = np.nansum(precisions, axis=0) / num_kept, np.nansum(recalls, axis=0) / num_kept
    f1 = wheel_f1(precision, recall)
    return WheelScore(
        level=level,
        score=float(f1.mean()),
        f1=f1,
        precision=precision,
        recall=recall,
        num_kept=num_kept,
        precisions=precisions,
        recalls=recalls,
    )


def wheel_f1(precision: np.ndarray, recall: np.ndarray) -> np.ndarray:
    """Return 2 P R / (P + R) by element; 0 where both are 0 (as MER2026 has it; MER2025 gives NaN there)."""
    total = precision + recall
    return np.divide(2 * precision * recall, total, out=np.where(np.isnan(total), np.nan, 0.0), where=total > 0)


def wheel_hit(
    gold: Sequence[str], predicted: Sequence[Iterable[str]], wheels: EmotionWheels, *, which: Sequence[int] = WHEELS
) -> np.ndarray:
    """Return hits [N, W]: 1 where the mapped gold label (level 1) is among the mapped predicted ones, else 0.

    NaN where the gold label is not on the wheel. The score of MER-UniBench is the mean over wheels of the means over
    clips. Listing many emotions scores high: false positives cost nothing.
    """
    gold_sets, predicted_sets = _mapped([[word] for word in gold], predicted, wheels, level=1, which=which)
    return np.stack([hit_counts(g, p) for g, p in zip(gold_sets, predicted_sets, strict=True)], axis=1)


def _mapped(
    gold: Sequence[Iterable[str]],
    predicted: Sequence[Iterable[str]],
    wheels: EmotionWheels,
    *,
    level: int,
    which: Sequence[int],
) -> tuple[list[list[frozenset[str]]], list[list[frozenset[str]]]]:
    if len(gold) != len(predicted) or not len(gold):
        raise InputError(f"{len(gold)} gold and {len(predicted)} predicted entries; one each is wanted")
    mapped: tuple[list[list[frozenset[str]]], list[list[frozenset[str]]]] = ([], [])
    golds, predictions = [list(words) for words in gold], [list(words) for words in predicted]
    for wheel in which:
        known: dict[str, str | None] = {}
        for side, clips in zip(mapped, (golds, predictions), strict=True):
            sets = []
            for words in clips:
                for word in words:
                    if word not in known:
                        known[word] = wheels.sector(word, wheel=wheel, level=level)
                sets.append(frozenset(sector for word in words if (sector := known[word]) is not None))
            side.append(sets)
    return mapped


# ---- the word lists -----------------------------------------------------------------------------------------------


def load_wheels(folder: Path) -> EmotionWheels:
    """Read ``format.csv``, ``synonym.xlsx`` and ``wheel1.xlsx`` .. ``wheel5.xlsx`` from a folder.

    Raises `DatasetError` for a missing file or column and for words the maps cannot resolve.
    """
    trees = {wheel: _read_wheel(folder / f"wheel{wheel}.xlsx") for wheel in WHEELS}
    words = {word for tree in trees.values() for word in _words(tree)}
    synonyms = _read_synonyms(folder / "synonym.xlsx", words)
    return EmotionWheels(
        forms=_read_forms(folder / "format.csv", synonyms),
        synonyms=synonyms,
        sectors={(wheel, level): _sectors(tree, level) for wheel, tree in trees.items() for level in LEVELS},
    )


Tree = dict[str, dict[str, list[str]]]  # level 1 -> level 2 -> level 3 words, in the file's order


def _read_wheel(path: Path) -> Tree:
    tree: Tree = {}
    current = ["", "", ""]
    for number, row in _sheet(path, ("level1", "level2", "level3")):
        current = [_clean(cell) if cell is not None else above for cell, above in zip(row, current, strict=True)]
        if not all(current):
            raise DatasetError(f"{path.name}, row {number}: a cell is blank and has no row above to inherit from")
        tree.setdefault(current[0], {}).setdefault(current[1], []).append(current[2])
    return tree


def _words(tree: Tree) -> Iterable[str]:
    for level1, branches in tree.items():
        yield level1
        for level2, leaves in branches.items():
            yield level2
            yield from leaves


def _sectors(tree: Tree, level: int) -> dict[str, str]:
    sectors: dict[str, str] = {}
    for level1, branches in tree.items():
        sectors[level1] = level1 if level == 1 else min(branches)
        for level2, leaves in branches.items():
            sector = level1 if level == 1 else level2
            sectors[level2] = sector
            sectors |= dict.fromkeys(leaves, sector)
    return sectors


def _read_synonyms(path: Path, words: set[str]) -> dict[str, tuple[str, ...]]:
    columns = [f"{kind}_run{run}" for run in range(1, NUM_RUNS + 1) for kind in ("word", "synonym")]
    found: dict[str, set[str]] = {}
    for number, row in _sheet(path, columns):
        for run in range(NUM_RUNS):
            word, synonyms = row[2 * run], row[2 * run + 1]
            if word is None:
                raise DatasetError(f"{path.name}, row {number}: column word_run{run + 1} is blank")
            word = _clean(word)
            if word not in words:
                raise DatasetError(f"{path.name}, row {number}: {word!r} is on none of the five wheels")
            found.setdefault(word, set()).add(word)
            for synonym in parse_labels_2025("" if synonyms is None else str(synonyms)):
                found.setdefault(_clean(synonym), set()).add(word)
    return {raw: tuple(sorted(targets)) for raw, targets in found.items()}


def _read_forms(path: Path, synonyms: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    forms: dict[str, list[str]] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            if not {"name", "format"} <= set(reader.fieldnames or ()):
                raise DatasetError(f"{path.name} has no columns name and format; found: {reader.fieldnames}")
            for row in reader:
                raw = _clean(row["name"])
                if raw not in synonyms:
                    raise DatasetError(f"{path.name}, line {reader.line_num}: {raw!r} is not in synonym.xlsx")
                for form in [*parse_labels_2025(row["format"] or ""), raw]:
                    forms.setdefault(_clean(form), []).append(raw)
    except FileNotFoundError as error:
        raise DatasetError(_MISSING.format(path=path)) from error
    return {form: tuple(sorted(set(raws))) for form, raws in forms.items()}


_MISSING = (
    "{path} does not exist; a wheel folder holds format.csv, synonym.xlsx and wheel1.xlsx to wheel5.xlsx "
    "(emotion_wheel of MERTools)"
)


def _sheet(path: Path, columns: Sequence[str]) -> list[tuple[int, list[Any]]]:
    """Return (row number, the cells of the columns asked for) of a workbook's first sheet; blank cells are ``None``."""
    try:
        import openpyxl
    except ImportError as error:
        raise DependencyError("the emotion wheels want openpyxl; install it with: pip install openpyxl") from error
    from zipfile import BadZipFile

    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    except FileNotFoundError as error:
        raise DatasetError(_MISSING.format(path=path)) from error
    except (BadZipFile, KeyError, openpyxl.utils.exceptions.InvalidFileException) as error:
        raise DatasetError(f"{path} is not an Excel workbook: {error}") from error
    try:
        rows = [[_blank(cell) for cell in row] for row in book.worksheets[0].iter_rows(values_only=True)]
    finally:
        book.close()
    header = [str(cell).strip() if cell is not None else "" for cell in rows[0]] if rows else []
    missing = [column for column in columns if column not in header]
    if missing:
        raise DatasetError(f"{path.name} has no column {missing[0]!r}; found: {', '.join(header) or 'nothing'}")
    places = [header.index(column) for column in columns]
    return [
        (number, [row[place] if place < len(row) else None for place in places])
        for number, row in enumerate(rows[1:], start=2)
        if any(cell is not None for cell in row)
    ]


def _blank(cell: Any) -> Any:
    return None if cell is None or (isinstance(cell, str) and not cell.strip()) else cell


def _clean(word: Any) -> str:
    return str(word).strip().lower()
