"""Questions about clips with answers to choose from, as multiple-choice benchmarks of the EmoBench-M kind put them.

One JSON array (``.json``) or one object a line (``.jsonl``), each with ``question``, ``choices`` (a list, or an object
``{"A": ..., "B": ...}``), ``answer`` (a letter, or the text of a choice), ``clip`` (a path relative to the file; may be
left out when there is a ``transcript``) and, if known, ``id``, ``transcript``, ``language``, ``group``, ``task``.

EmoBench-M itself (arXiv 2502.04424) publishes closed label sets for most of its scenarios; a row of it becomes such a
row with the labels as choices. That conversion is the user's: its files differ from scenario to scenario (unverified).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any, NoReturn

from emollama.datasets.record import Source

SOURCE = Source(
    title="multiple choice",
    home="https://github.com/Emo-gml/EmoBench-M, or wherever the questions are from; a row is "
    '{"question", "choices", "answer", "clip"}',
)
LETTERS = "ABCDEFGH"
NAMES = ("questions.jsonl", "questions.json")
_FIELDS = frozenset({"id", "question", "choices", "answer", "clip", "transcript", "language", "group", "task"})


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question: ``choices`` in the order A, B, ...; ``answer`` is the letter of the right one."""

    id: str
    question: str
    choices: tuple[str, ...]
    answer: str
    file: Path | None = None
    transcript: str | None = None
    language: str | None = None
    group: str | None = None
    meta: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))


def read(data: Path) -> tuple[Question, ...]:
    """Return the questions of a file, or of ``questions.jsonl`` (``.json``) in a folder; raises `DatasetError`."""
    path = data
    if data.is_dir():
        path = SOURCE.first((data / name for name in NAMES), expected="a file of questions")
    SOURCE.file(path, expected="a file of questions (JSON or JSONL)")
    questions = [_question(row, where=where, number=number, folder=path.parent) for number, where, row in _rows(path)]
    if not questions:
        raise SOURCE.error(f"{path} holds no question")
    seen: dict[str, int] = {}
    for number, question in enumerate(questions, start=1):
        if question.id in seen:
            raise SOURCE.error(f"{path}: id {question.id!r} of row {number} is that of row {seen[question.id]}")
        seen[question.id] = number
    return tuple(questions)


def _rows(path: Path) -> Iterator[tuple[int, str, Any]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix == ".json":
            rows = json.loads(text)
            if not isinstance(rows, list):
                raise SOURCE.error(f"{path} holds {type(rows).__name__}; expected: an array of questions")
            yield from ((number, f"{path}, row {number}", row) for number, row in enumerate(rows, start=1))
            return
        for line, content in enumerate(text.splitlines(), start=1):
            if content.strip():
                yield line, f"{path}:{line}", json.loads(content)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise SOURCE.error(f"{path} is not JSON in UTF-8: {error}") from error


def _question(row: Any, *, where: str, number: int, folder: Path) -> Question:
    if not isinstance(row, dict):
        _refuse(where, f"{type(row).__name__}; expected: an object")
    if unknown := sorted(set(row) - _FIELDS):
        _refuse(where, f"field {unknown[0]!r} is not known; allowed: {', '.join(sorted(_FIELDS))}")
    texts = {
        name: row[name] for name in ("question", "transcript", "language", "group", "clip", "task") if row.get(name)
    }
    for name, value in texts.items():
        if not isinstance(value, str):
            _refuse(where, f"{name} is {value!r}; expected: text")
    if "question" not in texts:
        _refuse(where, "question is missing or empty")
    choices = _choices(row.get("choices"), where=where)
    return Question(
        id=str(row.get("id") or number),
        question=texts["question"],
        choices=choices,
        answer=_answer(row.get("answer"), choices, where=where),
        file=_clip(texts.get("clip"), folder=folder, has_words="transcript" in texts, where=where),
        transcript=texts.get("transcript"),
        language=texts.get("language"),
        group=texts.get("group") or texts.get("clip"),
        meta={"task": texts["task"]} if "task" in texts else {},
    )


def _choices(value: Any, *, where: str) -> tuple[str, ...]:
    if isinstance(value, dict):
        if list(value) != list(LETTERS[: len(value)]):
            _refuse(where, f"choices have the letters {', '.join(map(str, value))}; expected: A, B and on, in order")
        value = list(value.values())
    if not isinstance(value, list) or not 2 <= len(value) <= len(LETTERS):
        _refuse(where, f"choices {str(value)[:60]!r}; expected: 2 to {len(LETTERS)} texts")
    if not all(isinstance(text, str) and text.strip() for text in value) or len(set(value)) != len(value):
        _refuse(where, f"choices {value!r}; expected: texts, none empty, none twice")
    return tuple(value)


def _answer(value: Any, choices: tuple[str, ...], *, where: str) -> str:
    """Return the letter. The text of a choice wins over a letter, so that choices that are letters stay unambiguous."""
    letters = LETTERS[: len(choices)]
    if isinstance(value, str) and value in choices:
        return letters[choices.index(value)]
    if isinstance(value, str) and len(value.strip()) == 1 and value.strip().upper() in letters:
        return value.strip().upper()
    _refuse(where, f"answer {value!r}; expected: a letter {letters[0]} to {letters[-1]}, or the text of a choice")


def _clip(name: str | None, *, folder: Path, has_words: bool, where: str) -> Path | None:
    if name is None:
        if not has_words:
            _refuse(where, "neither clip nor transcript; expected: one of them at least")
        return None
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts:
        _refuse(where, f"clip {name!r} leads out of the folder; expected: a path relative to the file of questions")
    return SOURCE.file(folder / path, expected=f"the clip of {where}")


def _refuse(where: str, problem: str) -> NoReturn:
    raise SOURCE.error(f"{where}: {problem}", field="data")
