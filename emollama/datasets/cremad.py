"""CREMA-D, the Crowd-sourced Emotional Multimodal Actors Dataset (Cao et al., IEEE Trans. Affective Computing 2014).

91 actors say twelve sentences in six emotions. A file name is four fields, as in ``1001_DFA_ANG_XX.wav``: actor (1001
to 1091), sentence, intended emotion, level (LO, MD, HI, XX: not told; one published file has X). ``AudioWAV/`` holds
the sound. The pictures are published as Flash video (``VideoFlash/*.flv``), which this project does not decode: a
folder ``VideoMP4/`` of the same names in MP4 is preferred over the sound when it is there (our own convention).

The label is the emotion that the actor was asked for, not what the crowd heard (``processedResults/summaryTable.csv``).
"""

from __future__ import annotations

from pathlib import Path

from emollama.datasets.record import Record, Source
from emollama.sniff import AUDIO_SUFFIXES, VIDEO_SUFFIXES

SOURCE = Source(title="CREMA-D", home="https://github.com/CheyneyComputerScience/CREMA-D")
EMOTIONS = {
    "ANG": "anger", "DIS": "disgust", "FEA": "fear", "HAP": "happiness", "NEU": "neutral", "SAD": "sadness",
}  # fmt: skip
ACTORS = frozenset(str(number) for number in range(1001, 1092))
SENTENCES = ("IEO", "TIE", "IOM", "IWW", "TAI", "MTI", "IWL", "ITH", "DFA", "ITS", "TSI", "WSI")
LEVELS = ("LO", "MD", "HI", "XX", "X")
EXPECTED = "AudioWAV/ with files such as 1001_DFA_ANG_XX.wav"


def parse_name(stem: str) -> tuple[str, str, str, str]:
    """Return actor, sentence, emotion code and level; `DatasetError` names the position that is wrong."""
    parts = stem.split("_")
    if len(parts) != 4:
        raise SOURCE.error(f"{stem!r} has {len(parts)} fields between underscores; expected: 4", field="file")
    actor, sentence, emotion, level = parts
    checks = (
        ("actor", actor, actor in ACTORS, "1001 to 1091"),
        ("sentence", sentence, sentence in SENTENCES, ", ".join(SENTENCES)),
        ("emotion", emotion, emotion in EMOTIONS, ", ".join(EMOTIONS)),
        ("level", level, level in LEVELS, ", ".join(LEVELS)),
    )
    for position, (name, value, is_right, allowed) in enumerate(checks, start=1):
        if not is_right:
            raise SOURCE.error(f"{stem!r}, position {position} ({name}) is {value!r}; allowed: {allowed}", field="file")
    return actor, sentence, emotion, level


def read(data: Path) -> tuple[Record, ...]:
    """Return the recordings by name, with the video where it is there; raises `DatasetError`."""
    sound = SOURCE.folder(data / "AudioWAV", expected=EXPECTED)
    files = {file.stem: file for file in sorted(sound.iterdir()) if file.suffix.lower() in AUDIO_SUFFIXES}
    pictures = data / "VideoMP4"
    if pictures.is_dir():
        files |= {file.stem: file for file in sorted(pictures.iterdir()) if file.suffix.lower() in VIDEO_SUFFIXES}
    records = []
    for stem in sorted(files):
        if stem.startswith("."):
            continue
        actor, sentence, emotion, level = parse_name(stem)
        records.append(
            Record(
                id=stem,
                file=files[stem],
                label=EMOTIONS[emotion],
                group=actor,
                meta={"sentence": sentence, "level": level},
            )
        )
    return SOURCE.some(records, where=sound, expected=EXPECTED)
