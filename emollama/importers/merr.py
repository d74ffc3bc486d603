"""MERR, the instruction data of Emotion-LLaMA (Cheng et al., NeurIPS 2024): coarse and fine.

Two files for each part: a list without header (``name frames emotion [valence]``, space separated) and a JSON object
keyed by name with action units, clues, caption or reasoning. Words come from the JSON's ``text`` or from a table
``name, sentence``. Valence is on the scale of MER2023, -5 to 5, and is brought to [-1, 1]; -10 means none.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from emollama.errors import DatasetError
from emollama.importers.clips import ClipFolder, ClipIndex
from emollama.importers.rows import SampleMaker, number, scaled_valence
from emollama.importers.transcripts import read_transcripts
from emollama.manifest import Sample

Part = Literal["auto", "coarse", "fine"]
LISTS = {"coarse": "MERR_coarse_grained", "fine": "MERR_fine_grained"}
QUESTIONS = {
    "coarse": "Describe the expression and the tone of the person in this clip.",
    "fine": "What does the person appear to feel, and why?",
}
_CAPTIONS = {"coarse": ("caption",), "fine": ("smp_reason_caption", "reason_caption")}
_AS_META = {
    "AU_list": "action_units",
    "peak_AU_list": "peak_action_units",
    "visual_prior_list": "visual_prior",
    "audio_prior_list": "audio_prior",
    "peak_index": "peak_index",
}


@dataclass(frozen=True, kw_only=True)
class _Line:
    line: int
    name: str
    frames: int
    emotion: str
    valence: float | None


def import_merr(
    source: Path,
    *,
    media: Path | None = None,
    clips: ClipFolder | None = None,
    part: Part = "auto",
    transcripts: Path | None = None,
    valence_limit: float = 5.0,
) -> Iterator[Sample]:
    """Yield the samples of a list and of the JSON of the same name beside it.

    ``source`` is the list (or a folder with one of the published names), ``transcripts`` a table ``name, sentence``.
    Coarse clips get a dialogue from ``caption``, fine ones from ``smp_reason_caption``. Raises `DatasetError`.
    """
    source = Path(source)
    path = _list_in(source, part) if source.is_dir() else source
    if part == "auto":
        part = "fine" if "fine" in path.stem.lower() else "coarse"
    if part not in QUESTIONS:
        raise DatasetError(f"part is {part!r}; allowed: auto, coarse, fine", field="part")
    notes = _read_notes(path.with_suffix(".json"))
    words = {} if transcripts is None else read_transcripts(transcripts)
    base = media or path.parent
    clips = clips or ClipFolder(root=base)
    index, maker = ClipIndex(folder=base), SampleMaker(path=path)
    for entry in _read_list(path, limit=valence_limit):
        where = maker.where(entry.line)
        file = index.find(entry.name, where=where)
        if file is None:
            clips.missing(f"name: no clip called {entry.name!r} below {str(base)!r}", where=where)
            continue
        note = notes.get(entry.name, {})
        spoken = words.get(entry.name)
        text = note.get("text") if isinstance(note.get("text"), str) else None
        caption = next(
            (note[key] for key in _CAPTIONS[part] if isinstance(note.get(key), str) and note[key].strip()), None
        )
        yield maker.make(
            entry.line,
            id=entry.name,
            clip=clips.place(file, base=base, where=where),
            label=entry.emotion,
            valence=entry.valence,
            transcript=(text or "").strip() or (spoken.text if spoken else None),
            language=spoken.language if spoken and not (text or "").strip() else None,
            messages=_dialogue(QUESTIONS[part], caption),
            meta=_meta(entry, note),
        )


def _dialogue(question: str, caption: str | None) -> list[dict[str, str]] | None:
    if caption is None:
        return None
    return [{"role": "user", "content": question}, {"role": "assistant", "content": caption.strip()}]


def _meta(entry: _Line, note: Mapping[str, Any]) -> dict[str, Any]:
    meta: dict[str, Any] = {"frames": entry.frames}
    for key, name in _AS_META.items():
        value = note.get(key)
        if isinstance(value, list):
            value = ", ".join(str(part) for part in value)
        if value not in (None, ""):
            meta[name] = str(value)
    if note.get("pseu_emotion") not in (None, "", entry.emotion):
        meta["pseudo_label"] = str(note["pseu_emotion"])
    return meta


def _list_in(folder: Path, part: Part) -> Path:
    wanted = [LISTS[part]] if part in LISTS else list(LISTS.values())
    found = [folder / f"{name}.txt" for name in wanted if (folder / f"{name}.txt").is_file()]
    if len(found) != 1:
        names = " or ".join(f"{name}.txt" for name in wanted)
        problem = "holds both lists; choose one by part: coarse, fine" if found else f"holds no {names}"
        raise DatasetError(f"{folder} {problem}", field="source")
    return found[0]


def _read_list(path: Path, *, limit: float) -> Iterator[_Line]:
    if not path.is_file():
        raise DatasetError(f"{path} is not there; give the list of names (.txt), or the folder that holds it")
    if not (math.isfinite(limit) and limit > 0):
        raise DatasetError(f"valence_limit is {limit!r}; allowed: above 0", field="valence_limit")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} is not text in UTF-8 (byte {error.start + 1})") from error
    for number_of_line, line in enumerate(lines, start=1):
        cells = line.split()
        if not cells:
            continue
        where = f"{path}:{number_of_line}"
        if len(cells) not in (3, 4) or not cells[1].isdecimal():
            raise DatasetError(f"{where}: {line[:60]!r}; allowed: name frames emotion [valence], separated by spaces")
        value = number(cells[3], where=where, column="valence") if len(cells) == 4 else None
        yield _Line(
            line=number_of_line,
            name=cells[0],
            frames=int(cells[1]),
            emotion=cells[2],
            valence=scaled_valence(value, limit=limit, where=where),
        )


def _read_notes(path: Path) -> dict[str, dict[str, Any]]:
    """Read the JSON object keyed by name; a list without one gives samples without clues."""
    if not path.is_file():
        return {}
    try:
        notes = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path} is not JSON in UTF-8: {error}") from error
    if not isinstance(notes, dict) or not all(isinstance(note, dict) for note in notes.values()):
        raise DatasetError(f"{path}: allowed: an object that holds an object for each name")
    return notes
