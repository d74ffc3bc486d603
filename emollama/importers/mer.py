"""The MER challenges of 2023, 2024 and 2025: label tables, subtitle tables and a folder of videos.

2023: ``train-label.csv`` (name, discrete, valence). 2024: ``label-disdim.csv`` and ``label-transcription.csv`` with
``video-labeled/``. 2025: ``track1_train_disdim.csv``, ``track2_train_*.csv`` (name, openset), ``track3_train_*.csv``
(name, reason), ``subtitle_chieng.csv`` and ``video/``. Layout: MERTools. Valence is on a scale of -5 to 5 and is
brought to [-1, 1]; -10 means that there is none. Labels keep the challenge's words (worried, not worry).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from emollama.errors import DatasetError
from emollama.importers.clips import ClipFolder, ClipIndex
from emollama.importers.rows import SampleMaker, number, scaled_valence, words_of
from emollama.importers.table import read_table
from emollama.importers.transcripts import Spoken, read_transcripts
from emollama.manifest import Sample

LABEL_FILES = ("train-label.csv", "label-disdim.csv", "track1_train_disdim.csv")
TRANSCRIPT_FILES = ("subtitle_chieng.csv", "label-transcription.csv", "transcription-engchi-polish.csv")
QUESTION = "What does the person appear to feel, and why?"
_COLUMNS = {
    "name": ("names",),
    "discrete": ("emotion", "label"),
    "valence": ("val",),
    "openset": ("emotions",),
    "reason": ("reasons",),
}


def import_mer(
    source: Path,
    *,
    media: Path | None = None,
    clips: ClipFolder | None = None,
    transcripts: Path | None = None,
    language: str = "zh",
    valence_limit: float = 5.0,
) -> Iterator[Sample]:
    """Yield a sample for each row of a label table.

    ``source`` is the table, or the folder of a release that holds one of the known label tables. The columns decide
    what is learned: discrete and valence, openset, reason. Subtitles are looked for beside the table; ``language``
    (zh or en) chooses the column. Clips are found by name below ``media``. Raises `DatasetError`.
    """
    source = Path(source)
    path = _table_in(source) if source.is_dir() else source
    table = read_table(path, spellings=_COLUMNS, required=("name",))
    if not {"discrete", "openset", "reason", "valence"} & set(table.columns):
        raise DatasetError(
            f"{path}:1: no column discrete, valence, openset or reason; found: {', '.join(table.header)}"
        )
    words = _words(path, transcripts, language=language)
    base = media or path.parent
    clips = clips or ClipFolder(root=base)
    index, maker = ClipIndex(folder=base), SampleMaker(path=path)
    for row in table.rows:
        where, name = table.where(row), table.text(row, "name")
        if not name:
            raise DatasetError(f"{where}: name: empty; allowed: the clip's name", field="name")
        file = index.find(name, where=where)
        if file is None:
            clips.missing(f"name: no clip called {name!r} below {str(base)!r}", where=where)
            continue
        value = number(table.text(row, "valence"), where=where, column="valence")
        reason, spoken = table.text(row, "reason"), words.get(name)
        yield maker.make(
            row.line,
            id=name,
            clip=clips.place(file, base=base, where=where),
            label=table.text(row, "discrete"),
            valence=scaled_valence(value, limit=valence_limit, where=where),
            open_vocabulary=words_of(table.text(row, "openset")) or None,
            transcript=spoken.text if spoken else None,
            language=spoken.language if spoken else None,
            messages=[{"role": "user", "content": QUESTION}, {"role": "assistant", "content": reason}]
            if reason
            else None,
        )


def _table_in(folder: Path) -> Path:
    found = [folder / name for name in LABEL_FILES if (folder / name).is_file()]
    found += sorted(folder.glob("track[23]_train_*.csv"))
    if len(found) != 1:
        shown = ", ".join(path.name for path in found)
        problem = f"holds {shown}; give the path of one of them" if found else f"holds none of {', '.join(LABEL_FILES)}"
        raise DatasetError(f"{folder} {problem}", field="source")
    return found[0]


def _words(path: Path, transcripts: Path | None, *, language: str) -> dict[str, Spoken]:
    if transcripts is None:
        transcripts = next((path.with_name(name) for name in TRANSCRIPT_FILES if path.with_name(name).is_file()), None)
    return {} if transcripts is None else read_transcripts(transcripts, prefer=language)
