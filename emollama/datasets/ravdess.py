"""RAVDESS, the Ryerson Audio-Visual Database of Emotional Speech and Song (Livingstone and Russo, PLoS ONE 2018).

24 actors say, and 23 of them sing, two sentences. Every file name is seven numbers of two digits, as in
``03-01-06-01-02-01-12.wav``: modality, vocal channel, emotion, intensity, statement, repetition, actor. The files lie
in folders ``Actor_01`` to ``Actor_24``, below folders of whatever name the archives were unpacked to.

The same performance is published up to three times: with picture and sound (01), picture alone (02) and sound alone
(03). It is one record, with the fullest file that is there.
"""

from __future__ import annotations

from pathlib import Path

from emollama.datasets.record import Record, Source
from emollama.errors import DatasetError
from emollama.sniff import MEDIA_SUFFIXES

SOURCE = Source(title="RAVDESS", home="https://zenodo.org/records/1188976")
LABELS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")  # 01 to 08
SPLITS = ("speech", "song")
EXPECTED = "folders Actor_01 to Actor_24 with files such as 03-01-06-01-02-01-12.wav"
# Position in the name -> (what it says, how many values it has).
_FIELDS = (
    ("modality", 3),
    ("vocal channel", 2),
    ("emotion", 8),
    ("intensity", 2),
    ("statement", 2),
    ("repetition", 2),
    ("actor", 24),
)
_FULLEST_FIRST = (1, 3, 2)  # picture and sound, sound, picture


def parse_name(stem: str) -> tuple[int, ...]:
    """Return the seven numbers of a file name; `DatasetError` names the position that is wrong and what it means."""
    parts = stem.split("-")
    if len(parts) != len(_FIELDS):
        raise SOURCE.error(f"{stem!r} has {len(parts)} numbers between dashes; expected: {len(_FIELDS)}", field="file")
    numbers = []
    for position, (part, (name, most)) in enumerate(zip(parts, _FIELDS, strict=True), start=1):
        if len(part) != 2 or not (part.isascii() and part.isdecimal()) or not 1 <= int(part) <= most:
            raise SOURCE.error(
                f"{stem!r}, position {position} ({name}) is {part!r}; allowed: 01 to {most:02d}", field="file"
            )
        numbers.append(int(part))
    if numbers[2] == 1 and numbers[3] == 2:
        raise SOURCE.error(f"{stem!r}, position 4 (intensity) is '02'; neutral has no strong intensity", field="file")
    return tuple(numbers)


def read(data: Path, *, split: str = "speech") -> tuple[Record, ...]:
    """Return one record for each performance of a split, by actor and name; raises `DatasetError`."""
    channel = SPLITS.index(SOURCE.split(split, SPLITS)) + 1
    SOURCE.folder(data, expected=EXPECTED)
    best: dict[tuple[int, ...], tuple[int, Path]] = {}
    for file in sorted(data.rglob("Actor_*/*")):
        if file.suffix.lower() not in MEDIA_SUFFIXES or file.name.startswith("."):
            continue
        numbers = parse_name(file.stem)
        if file.parent.name != f"Actor_{numbers[6]:02d}":
            raise DatasetError(f"{file}: position 7 (actor) does not agree with the folder {file.parent.name}")
        rank = _FULLEST_FIRST.index(numbers[0])
        if numbers[1] == channel and (numbers[1:] not in best or rank < best[numbers[1:]][0]):
            best[numbers[1:]] = (rank, file)
    records = [
        _record(numbers, file) for numbers, (_, file) in sorted(best.items(), key=lambda pair: (pair[0][5], pair[0]))
    ]
    return SOURCE.some(records, where=data, expected=f"{EXPECTED}, of vocal channel {channel:02d} ({split})")


def _record(numbers: tuple[int, ...], file: Path) -> Record:
    _, emotion, intensity, statement, repetition, actor = numbers
    return Record(
        # Without the modality: it says which file was at hand, not which performance it is.
        id="-".join(f"{number:02d}" for number in numbers),
        file=file,
        label=LABELS[emotion - 1],
        group=f"{actor:02d}",
        meta={"intensity": ("normal", "strong")[intensity - 1], "statement": statement, "repetition": repetition},
    )
