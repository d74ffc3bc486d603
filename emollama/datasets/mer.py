"""The test sets of the MER challenges of 2023, 2024 and 2025 (MERTools), and of EMER, with the labels where they are.

2023: ``test1-label.csv`` (name, discrete, valence) with the folder ``test1``; test2 and test3 (name, discrete)
likewise. 2024: ``test1-label.csv`` and ``test2-label.csv`` in the same form (the name is unverified: the organisers
gave labels out after the challenge), clips in ``video-unlabeled-with-test2noise``, ``video-unlabeled`` or ``video``;
``check-openset.csv`` (name, openset) for the open vocabulary. 2025: ``track2_test.csv`` (name, openset; unverified) and
the training tables ``track2_train_ovmerd.csv``, ``track2_train_mercaptionplus.csv``, clips in ``video``.
MERBench's processed form is read as well: ``label-6way.npz`` with ``video/``. EMER: ``gt-eng.csv`` (names, emotions,
subtitles, reasons) of version 1, with the clips of MER2023. OV-MERD+: ``ovlabel.csv``, ``subtitle_eng.csv``, ``video``.

Only clips that a label table names are judged, however many the folder holds. Words come from
``subtitle_chieng.csv``, ``label-transcription.csv`` or ``transcription-engchi-polish.csv`` when one is there; a clip
whose cell is empty has no words. Valence stands on the scale of -5 to 5. Who speaks is not told.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from emollama.datasets.mer_corpora import LABELS, NO_VALENCE, read_corpora
from emollama.datasets.record import Record, Source
from emollama.importers.clips import ClipIndex
from emollama.importers.mer import TRANSCRIPT_FILES
from emollama.importers.rows import number, words_of
from emollama.importers.table import Row, Table, read_table
from emollama.importers.transcripts import Spoken, read_transcripts

VALENCE_LIMIT = 5.0
CORPORA = "label-6way.npz"
MER2023 = Source(
    title="MER2023", home="https://huggingface.co/datasets/MERChallenge/MER2023 (a signed agreement is needed)"
)
MER2024 = Source(title="MER2024", home="https://github.com/zeroQiaoba/MERTools/tree/master/MER2024 (agreement by mail)")
MER2025 = Source(title="MER2025", home="https://huggingface.co/datasets/MERChallenge/MER2025 (CC BY-NC 4.0)")
OVMERD = Source(title="OV-MERD+", home="https://github.com/zeroQiaoba/AffectGPT (MER-UniBench, ovmerdplus-process)")
EMER = Source(title="EMER", home="https://github.com/zeroQiaoba/AffectGPT (EMER), with the clips of MER2023")
_COLUMNS = {
    "name": ("names",),
    "discrete": ("emotion", "label"),
    "valence": ("val",),
    "openset": ("emotions",),
    "subtitles": ("subtitle",),
    "reasons": ("reason",),
}


def read_closed(
    data: Path, source: Source, *, part: str, folders: Iterable[str], with_valence: bool = False
) -> tuple[Record, ...]:
    """Return the labelled clips of a part (``test1``); from its table, or from MERBench's file. `DatasetError` else.

    ``folders`` are where the clips may lie, the first that is there is taken. With ``with_valence`` a clip without one
    is an error.
    """
    table_path, corpora_path = data / f"{part}-label.csv", data / CORPORA
    found = source.first((table_path, corpora_path), expected=f"the labels of {part} (name, discrete)")
    words = _words(data, source)
    index = ClipIndex(folder=_media(data, source, folders))
    if found == corpora_path:
        rows = [
            (f"{found}, {part}", name, label, valence) for name, label, valence in read_corpora(found, part, source)
        ]
    else:
        table = read_table(found, spellings=_COLUMNS, required=("name", "discrete"))
        rows = [_closed_row(table, row, source) for row in table.rows]
    records = []
    for where, name, label, valence in rows:
        if label not in LABELS:
            raise source.error(f"{where}: {name!r} is labelled {label!r}; allowed: {', '.join(LABELS)}", field="label")
        if with_valence and valence is None:
            raise source.error(f"{where}: {name!r} has no valence; this track scores it", field="valence")
        records.append(_record(name, index, source, where=where, words=words, label=label, valence=valence))
    return source.some(records, where=found, expected="a row for each clip")


def read_open(data: Path, source: Source, *, table: str, folders: Iterable[str]) -> tuple[Record, ...]:
    """Return the clips of a table of open labels (name, openset), each with its words; raises `DatasetError`."""
    path = source.first((data / table, data / "ov_store" / table), expected="a table with the columns name and openset")
    read = read_table(path, spellings=_COLUMNS, required=("name", "openset"))
    words = _words(data, source)
    index = ClipIndex(folder=_media(data, source, folders))
    records = []
    for row in read.rows:
        where, open_words = read.where(row), words_of(read.text(row, "openset"))
        if not open_words:
            raise source.error(f"{where}: openset is {read.text(row, 'openset')!r}; expected: a list such as ['happy']")
        subtitle = read.text(row, "subtitles")
        given = {read.text(row, "name"): Spoken(text=subtitle, language=None)} if subtitle else words
        reason = read.text(row, "reasons")
        meta = {"reason": reason} if reason else {}
        records.append(
            _record(read.text(row, "name"), index, source, where=where, words=given, open_words=open_words, meta=meta)
        )
    return source.some(records, where=path, expected="a row for each clip")


def _closed_row(table: Table, row: Row, source: Source) -> tuple[str, str, str, float | None]:
    where, name = table.where(row), table.text(row, "name")
    value = number(table.text(row, "valence"), where=where, column="valence")
    if value == NO_VALENCE:
        value = None
    if value is not None and abs(value) > VALENCE_LIMIT:
        raise source.error(f"{where}: valence {value:g}; allowed: -5 to 5, or -10 for none", field="valence")
    return where, name, table.text(row, "discrete"), value


def _record(
    name: str,
    index: ClipIndex,
    source: Source,
    *,
    where: str,
    words: Mapping[str, Spoken],
    label: str | None = None,
    valence: float | None = None,
    open_words: tuple[str, ...] = (),
    meta: Mapping[str, str] | None = None,
) -> Record:
    file = index.find(name, where=where)
    if file is None:
        raise source.error(f"{where}: no clip called {name!r} below {index.folder}")
    spoken = words.get(name)
    return Record(
        id=name,
        file=file,
        label=label,
        valence=valence,
        words=open_words,
        transcript=spoken.text if spoken else None,
        language=spoken.language if spoken else None,
        meta=meta or {},
    )


def _media(data: Path, source: Source, folders: Iterable[str]) -> Path:
    return source.first((data / name for name in folders), expected="the folder of the clips")


def _words(data: Path, source: Source) -> dict[str, Spoken]:
    path = next((data / name for name in (*TRANSCRIPT_FILES, "subtitle_eng.csv") if (data / name).is_file()), None)
    return {} if path is None else read_transcripts(path, prefer="zh")
