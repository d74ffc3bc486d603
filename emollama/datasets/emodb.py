"""EmoDB, the Berlin Database of Emotional Speech (Burkhardt et al., Interspeech 2005), from a table or files.

Ten German actors speak ten sentences in seven emotions. Columns of the table: ``name``, ``speaker``, ``sex``,
``sentence``, ``emotion``, ``sample_rate``, ``seconds``, ``flac`` (encoded bytes). The release itself is a folder
``wav/`` of files such as ``03a01Wa.wav``: speaker, sentence, a letter for the (German) emotion, a letter for the
version. nano leaves boredom out altogether (`labels.EMODB_6`), so that there is an emotion which it has never heard.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from emollama.datasets.record import Source
from emollama.datasets.text_tables import read_rows, write_manifest
from emollama.errors import DatasetError
from emollama.types import Audio

COLUMNS = ("name", "speaker", "sex", "sentence", "emotion", "sample_rate", "seconds", "flac")
EMOTIONS = ("anger", "boredom", "disgust", "fear", "happiness", "neutral", "sadness")
SOURCE = Source(title="EmoDB", home="http://emodb.bilderbar.info")
SPEAKERS = ("03", "08", "09", "10", "11", "12", "13", "14", "15", "16")
SENTENCES = ("a01", "a02", "a04", "a05", "a07", "b01", "b02", "b03", "b09", "b10")
# Wut, Langeweile, Ekel, Angst, Freude, Trauer, neutral.
LETTERS = {
    "W": "anger", "L": "boredom", "E": "disgust", "A": "fear", "F": "happiness", "T": "sadness", "N": "neutral",
}  # fmt: skip

# Leave-two-speakers-out: every fold holds out two of the eight speakers.
FOLDS = (("03", "08"), ("10", "09"), ("11", "13"), ("15", "16"))


@dataclass(frozen=True, kw_only=True)
class Utterance:
    """One recording; ``speaker`` is the two-digit code of the actor, ``sentence`` that of the text."""

    name: str
    speaker: str
    sentence: str
    emotion: str
    audio: Audio


def table_path(data: Path) -> Path:
    """Where the table lies in a data folder; a path that is itself a Parquet file is returned as it is."""
    return data if data.suffix == ".parquet" else data / "speech" / "emodb.parquet"


def parse_name(stem: str) -> tuple[str, str, str]:
    """Return speaker, sentence and emotion of a file name; `DatasetError` names the position that is wrong."""
    if len(stem) != 7:
        raise SOURCE.error(f"{stem!r} has {len(stem)} characters; expected: 7, as in 03a01Wa", field="file")
    checks = (
        ("1 to 2 (speaker)", stem[:2], SPEAKERS),
        ("3 to 5 (sentence)", stem[2:5], SENTENCES),
        ("6 (emotion)", stem[5], tuple(LETTERS)),
        ("7 (version)", stem[6], tuple("abcdef")),
    )
    for position, value, allowed in checks:
        if value not in allowed:
            raise SOURCE.error(
                f"{stem!r}, position {position} is {value!r}; allowed: {', '.join(allowed)}", field="file"
            )
    return stem[:2], stem[2:5], LETTERS[stem[5]]


def read(data: Path, *, with_boredom: bool = False) -> tuple[Utterance, ...]:
    """Decode the utterances of a data folder, of one Parquet file or of the release's folder, in their order."""
    return tuple(iterate(data, with_boredom=with_boredom))


def iterate(data: Path, *, with_boredom: bool = False) -> Iterator[Utterance]:
    """Decode utterances one by one; raises `DatasetError` for a missing file or column or an unknown emotion."""
    if (data / "wav").is_dir():
        yield from _iterate_files(data / "wav", with_boredom=with_boredom)
        return
    path = table_path(data)
    for number, row in enumerate(read_rows(path, columns=COLUMNS)):
        if row["emotion"] not in EMOTIONS:
            raise DatasetError(f"{path} row {number}: emotion is {row['emotion']!r}; allowed: {', '.join(EMOTIONS)}")
        if row["emotion"] == "boredom" and not with_boredom:
            continue
        yield Utterance(
            name=str(row["name"]),
            speaker=str(row["speaker"]),
            sentence=str(row["sentence"]),
            emotion=row["emotion"],
            audio=decode(row["flac"], name=f"{path} row {number}"),
        )


def _iterate_files(folder: Path, *, with_boredom: bool) -> Iterator[Utterance]:
    files = sorted(path for path in folder.glob("*.wav") if not path.name.startswith("."))
    if not files:
        raise SOURCE.error(f"{folder} holds no recording; expected: files such as 03a01Wa.wav")
    for file in files:
        speaker, sentence, emotion = parse_name(file.stem)
        if emotion != "boredom" or with_boredom:
            audio = decode(file.read_bytes(), name=str(file))
            yield Utterance(name=file.stem, speaker=speaker, sentence=sentence, emotion=emotion, audio=audio)


def decode(encoded: bytes, *, name: str) -> Audio:
    """Decode one recording to mono 16 kHz; raises `DatasetError` that names it when it cannot be read."""
    import av

    chunks: list[np.ndarray] = []
    try:
        with av.open(io.BytesIO(encoded)) as container:
            resampler = av.AudioResampler(format="flt", layout="mono", rate=16_000)
            for frame in container.decode(audio=0):
                chunks += [part.to_ndarray()[0] for part in resampler.resample(frame)]
            chunks += [part.to_ndarray()[0] for part in resampler.resample(None)]
    except (av.FFmpegError, IndexError) as error:
        raise DatasetError(f"{name}: the recording cannot be decoded ({error}); fetch the table again") from error
    if not chunks:
        raise DatasetError(f"{name}: the recording holds no sound; fetch the table again")
    return Audio(samples=np.concatenate(chunks).astype(np.float32))


def prepare(data: Path, manifest: Path) -> int:
    """Write the JSONL manifest (without boredom): name, speaker, sentence, label, seconds; return their number."""

    def rows() -> Iterator[dict[str, Any]]:
        for row in iterate(data):
            yield {
                "id": row.name,
                "speaker": row.speaker,
                "sentence": row.sentence,
                "label": row.emotion,
                "seconds": round(row.audio.seconds, 3),
            }

    return write_manifest(rows(), manifest)
