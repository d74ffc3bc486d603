"""Tables of what is said in each clip, as the MER challenges and Emotion-LLaMA publish them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from emollama.errors import DatasetError, InputError
from emollama.importers.table import read_table

# Column -> the language its name states; the Chinese one is what was said, the English one a translation.
LANGUAGES = {"chinese": "zh", "english": "en", "sentence_en": "en", "sentence": None, "text": None, "transcript": None}


@dataclass(frozen=True, kw_only=True)
class Spoken:
    """The words of one clip, and their language when the column's name states it."""

    text: str
    language: str | None


def read_transcripts(path: Path, *, prefer: str | None = None) -> dict[str, Spoken]:
    """Return clip name -> words; empty cells are left out. ``prefer`` is the language wanted first (en, zh).

    Raises `DatasetError` for a table without words or with a name on two lines.
    """
    if prefer not in (None, "en", "zh"):
        raise InputError(f"language is {prefer!r}; allowed: en, zh", field="language")
    table = read_table(path, spellings={"name": ("names",), **dict.fromkeys(LANGUAGES, ())}, required=("name",))
    there = [column for column in LANGUAGES if column in table.columns]
    if not there:
        raise DatasetError(f"{path}:1: no column of words; allowed: {', '.join(LANGUAGES)}", field="transcript")
    there.sort(key=lambda column: prefer is None or LANGUAGES[column] != prefer)
    found: dict[str, Spoken] = {}
    for row in table.rows:
        name = table.text(row, "name")
        if name in found:
            raise DatasetError(f"{table.where(row)}: name: {name!r} stands on an earlier line already; keep one")
        for column in there:
            if text := table.text(row, column):
                found[name] = Spoken(text=text, language=LANGUAGES[column])
                break
    return found
