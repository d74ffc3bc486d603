"""How an answer holds up when the clip gets worse: sweeps over corruptions, with a manifest of all that was drawn.

What is random is drawn for each item from the seed, the item's name and the corruption's name, so neither the order nor
the number of items matters, and the levels of one corruption share what does not depend on the level (the same stretch
of noise, louder). The manifest (CSV ``item, corruption, level, parameters``) makes the same clips again by itself.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from emollama.errors import DatasetError, InputError
from emollama.types import Clip, Transcript
from eval.ask import give
from eval.corruptions import CLEAN, CORRUPTIONS, Noises, find_corruption
from eval.corruptions.words import delete_words
from eval.task import Item

COLUMNS = ("item", "corruption", "level", "parameters")


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One corruption at one level; the level ``clean`` is no corruption. Raises `InputError` for what is not known."""

    corruption: str
    level: str

    def __post_init__(self) -> None:
        corruption = find_corruption(self.corruption)
        if self.level != CLEAN:
            corruption.check(self.level)

    def __str__(self) -> str:
        return f"{self.corruption}={self.level}"


@dataclass(frozen=True, kw_only=True)
class Draw:
    """What was drawn for one item under one condition: plain JSON, from which the same clip can be made again."""

    item: str
    corruption: str
    level: str
    parameters: Mapping[str, Any]


def parse_conditions(texts: Sequence[str]) -> tuple[Condition, ...]:
    """Read ``["noise=0,10,20", "blur"]``; a corruption without levels gets its own. `InputError` says what is wrong."""
    found: list[Condition] = []
    for text in texts:
        name, equals, levels = (part.strip() for part in text.partition("="))
        named = [level.strip() for level in levels.split(",")] if equals else find_corruption(name).levels
        if not all(named):
            raise InputError(f"corrupt {text!r} holds an empty level; e.g. {name or 'noise'}=0,10", field="corrupt")
        found.extend(Condition(corruption=name, level=level) for level in named)
    for condition in found:
        if found.count(condition) > 1:
            raise InputError(f"corrupt {condition} is named twice", field="corrupt")
    return tuple(found)


def all_conditions() -> tuple[Condition, ...]:
    """Return every corruption at its own levels."""
    return parse_conditions(tuple(CORRUPTIONS))


def draw(item: str, condition: Condition, *, seed: int, noises: Noises | None = None) -> Draw:
    """Draw what a condition does to the item of this name; the same seed and names draw the same."""
    parameters: dict[str, Any] = {}
    if condition.level != CLEAN:
        told = json.dumps([seed, item, condition.corruption], ensure_ascii=False).encode()
        random = Random(int.from_bytes(hashlib.sha256(told).digest(), "big"))
        parameters = find_corruption(condition.corruption).draw(condition.level, random, noises)
    return Draw(item=item, corruption=condition.corruption, level=condition.level, parameters=parameters)


def corrupt_clip(clip: Clip, drawn: Draw, *, noises: Noises | None = None) -> Clip:
    """Return the clip as the draw has it; the level ``clean`` returns the clip itself."""
    if drawn.level == CLEAN:
        return clip
    return find_corruption(drawn.corruption).apply(clip, drawn.parameters, noises)


def corrupt(item: Item, drawn: Draw, *, noises: Noises | None = None) -> Item:
    """Return the item with a clip that is spoiled when it is loaded, or with a spoiled transcript.

    The name stays, so that the answers can be compared with those to the clean items; ``meta`` says what was done.
    """
    if item.id != drawn.item:
        raise InputError(f"the draw is for item {drawn.item!r}, not {item.id!r}", field="item")
    if drawn.level == CLEAN:
        return item
    meta = {**item.meta, "corruption": drawn.corruption, "level": drawn.level}
    if find_corruption(drawn.corruption).modality == "text" and item.transcript is not None:
        left = delete_words(Transcript(text=item.transcript), drawn.parameters)
        return dataclasses.replace(item, transcript=None if left is None else left.text, meta=meta)

    def load() -> Clip:
        return corrupt_clip(give(item).clip, drawn, noises=noises)

    return dataclasses.replace(item, clip=None, load=load, start=None, end=None, meta=meta)


def sweep(
    items: Iterable[Item], conditions: Sequence[Condition], *, seed: int, noises: Noises | None = None
) -> Iterator[tuple[Draw, Item]]:
    """Yield every item under every condition, with what was drawn for it; nothing is decoded before `Item.load`."""
    for item in items:
        for condition in conditions:
            drawn = draw(item.id, condition, seed=seed, noises=noises)
            yield drawn, corrupt(item, drawn, noises=noises)


def write_manifest(path: Path, draws: Iterable[Draw]) -> None:
    """Write what was drawn, one row an item and condition; to a temporary name first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    with partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in draws:
            told = json.dumps(dict(row.parameters), sort_keys=True, ensure_ascii=False)
            writer.writerow([row.item, row.corruption, row.level, told])
    partial.replace(path)


def read_manifest(path: Path) -> tuple[Draw, ...]:
    """Read a manifest; raises `DatasetError` with the line for a row that is doubled, unknown or not JSON."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.reader(file, strict=True)
            lines = [(reader.line_num, cells) for cells in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{path} cannot be read as a CSV file: {error}") from error
    if not lines or tuple(lines[0][1]) != COLUMNS:
        raise DatasetError(f"{path} is no manifest of corruptions; a header {','.join(COLUMNS)} is wanted")
    draws: dict[tuple[str, ...], Draw] = {}
    for number, cells in lines[1:]:
        try:
            item, name, level, told = cells
            condition, parameters = Condition(corruption=name, level=level), json.loads(told)
        except (ValueError, InputError) as error:
            raise DatasetError(f"{path}, line {number}: {error}") from error
        if not isinstance(parameters, dict):
            raise DatasetError(f"{path}, line {number}: parameters {told!r} are no JSON object")
        key = (item, condition.corruption, condition.level)
        if key in draws:
            raise DatasetError(f"{path}, line {number}: {item!r} under {condition} stands there twice")
        draws[key] = Draw(item=item, corruption=name, level=level, parameters=parameters)
    return tuple(draws.values())
