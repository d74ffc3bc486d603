"""Groups of synonyms for the set metric of MER2024-OV, and the emotion words of descriptions: files that are kept.

Both go into CSV files that ``emollama score`` reads (``name,groups`` and ``name,labels``). From then on a score rests
on the file, not on the judge: it is the same on any machine. Beside each file lies ``FILE.json``, which says of which
judge and wording it is.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emollama.errors import DatasetError, InputError
from eval.judge.judge import Judge, UnjudgedError
from eval.judge.prompts import load_prompt
from eval.judge.replies import read_groups, read_labels

_UNWRITABLE = re.compile(r"['\"\[\]\n\r]")


@dataclass(frozen=True, kw_only=True)
class GroupedWords:
    """What a judge made of each clip's words, in order; ``values`` holds the groups, or the labels of a description.

    ``unjudged`` maps a clip to why it has none; ``no_figure`` says why no file may be written.
    """

    values: Mapping[str, tuple[Any, ...]]
    unjudged: Mapping[str, str]
    no_figure: str | None
    judge: dict[str, Any]


def group_synonyms(judge: Judge, words: Mapping[str, Iterable[str]]) -> GroupedWords:
    """Group each clip's words, those of the truth and of the prediction together, by what they mean.

    Words are compared in lower case and otherwise as they are written, blanks at the ends too: the metric looks them up
    so. A clip with one word needs no judge. Raises `InputError` for a word that the file cannot hold (with a quote or
    a bracket).
    """
    union = {name: tuple(dict.fromkeys(word.lower() for word in some)) for name, some in words.items()}
    for name, some in union.items():
        for word in some:
            if _UNWRITABLE.search(word):
                raise InputError(f"{name!r}: word {word!r} holds a quote, bracket or line break", field="labels")
    prompt = load_prompt("group_synonyms")

    def one(name: str) -> tuple[tuple[str, ...], ...]:
        written: dict[str, list[str]] = {}  # the word as the judge sees it -> the ways in which it is written
        for word in union[name]:
            written.setdefault(" ".join(word.split()), []).append(word)
        written.pop("", None)
        if len(written) < 2:
            return tuple(tuple(ways) for ways in written.values())
        shown = sorted(written)  # the order of truth and prediction tells a judge nothing
        found = judge.ask(prompt, {"words": shown}, lambda document: read_groups(document, words=written))
        return tuple(tuple(way for word in group for way in written[word]) for group in found.value)

    return _each(judge, list(union), one)


def extract_labels(judge: Judge, descriptions: Mapping[str, str]) -> GroupedWords:
    """Return the emotion words of each description; an empty description has none and needs no judge."""
    prompt = load_prompt("extract_labels")

    def one(name: str) -> tuple[str, ...]:
        text = descriptions[name]
        return judge.ask(prompt, {"text": text}, read_labels).value if text.strip() else ()

    return _each(judge, list(descriptions), one)


def _each(judge: Judge, names: Sequence[str], one: Any) -> GroupedWords:
    found, no_figure = judge.judge_all(names, one)
    verdicts = dict(zip(names, found, strict=True))
    return GroupedWords(
        values={name: v for name, v in verdicts.items() if not isinstance(v, UnjudgedError)},
        unjudged={name: str(v) for name, v in verdicts.items() if isinstance(v, UnjudgedError)},
        no_figure=no_figure,
        judge=judge.to_json_dict(),
    )


def write_groups(path: Path, grouped: GroupedWords) -> None:
    """Write ``name,groups`` for ``emollama score --synonyms``. A clip without a verdict has no row, as in MER2024.

    Raises `DatasetError` when too many clips have none, or when what is read back is not what was written.
    """
    from emollama.metrics import parse_synonym_groups

    rows = {name: f"[{', '.join(_list(group) for group in groups)}]" for name, groups in grouped.values.items()}
    for name, text in rows.items():
        if parse_synonym_groups(text) != [list(group) for group in grouped.values[name]]:
            raise DatasetError(f"the groups of {name!r} cannot be written so that they are read the same: {text}")
    _write(path, grouped, "groups", rows)


def write_labels(path: Path, extracted: GroupedWords) -> None:
    """Write ``name,labels``; a clip without a verdict is ``unparseable``, which ``emollama score`` counts as such."""
    rows = {name: _list(labels) for name, labels in extracted.values.items()}
    _write(path, extracted, "labels", {**rows, **dict.fromkeys(extracted.unjudged, "unparseable")})


def _list(words: Iterable[str]) -> str:
    return "[" + ", ".join(f"'{word}'" for word in words) + "]"


def _write(path: Path, grouped: GroupedWords, column: str, rows: Mapping[str, str]) -> None:
    from eval.report import provenance, write_json

    if grouped.no_figure is not None:
        raise DatasetError(f"{path} is not written: {grouped.no_figure}")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    with partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("name", column))
        writer.writerows(sorted(rows.items()))
    partial.replace(path)
    told = {"unjudged": dict(grouped.unjudged), "n": len(rows), "judge": grouped.judge, "origin": provenance()}
    write_json(path.with_name(path.name + ".json"), told)
