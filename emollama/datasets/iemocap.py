"""IEMOCAP, the Interactive Emotional Dyadic Motion Capture database (Busso et al., 2008), as USC releases it.

Five sessions of two actors. ``Session5/dialog/EmoEvaluation/Ses05F_impro01.txt`` has a line for each turn, with the
label most annotators agreed on and the mean ratings (1 to 5) of valence, activation and dominance::

    [6.2901 - 8.2357]	Ses05F_impro01_F000	neu	[2.5000, 2.5000, 2.5000]

``Session5/sentences/wav/Ses05F_impro01/Ses05F_impro01_F000.wav`` is its sound,
``Session5/dialog/transcriptions/Ses05F_impro01.txt`` its words (``turn [start-end]: words``). The F or M in the
dialogue's name says who wears the markers, the one in front of the number who speaks. The videos
(``dialog/avi``) show both actors side by side and are not used: a picture of the turn shows the listener as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from emollama.datasets.record import Record, Source

SOURCE = Source(title="IEMOCAP", home="https://sail.usc.edu/iemocap/iemocap_release.htm (a signed licence is needed)")
SPLITS = ("session1", "session2", "session3", "session4", "session5", "all")
EXPECTED = "Session1 to Session5, each with dialog/EmoEvaluation, dialog/transcriptions and sentences/wav"
CODES = ("neu", "hap", "sad", "ang", "exc", "fru", "sur", "fea", "dis", "oth", "xxx")  # xxx: no agreement
Scheme = Literal["four", "six"]
# MERBench: four classes with excited counted as happy, or six with it apart; the others are left out.
CLASSES: dict[Scheme, dict[str, str]] = {
    "four": {"hap": "happy", "exc": "happy", "sad": "sad", "neu": "neutral", "ang": "angry"},
    "six": {
        "hap": "happy", "sad": "sad", "neu": "neutral", "ang": "angry", "exc": "excited", "fru": "frustrated",
    },
}  # fmt: skip
_TURN = re.compile(r"\[(?P<start>[\d.]+) - (?P<end>[\d.]+)\]\t(?P<turn>\S+)\t(?P<code>\w+)\t\[(?P<ratings>[^\]]*)\]")
_NAME = re.compile(r"Ses(?P<session>0[1-5])[FM]_(?:impro|script)\d\d(?:_\d)?[a-z]?_(?P<speaker>[FM])(?:\d{3}|XX\d+)")
_WORDS = re.compile(r"(?P<turn>Ses\S+) \[[^\]]*\]: ?(?P<words>.*)")


def parse_turn(name: str, *, where: str) -> tuple[str, str]:
    """Return (session of two digits, speaker as in ``Ses05_F``) of a turn's name; raises `DatasetError`."""
    found = _NAME.fullmatch(name)
    if found is None:
        raise SOURCE.error(
            f"{where}: turn {name!r}; expected: Ses, session 01 to 05, F or M, dialogue, F or M of the speaker and "
            "three digits, as in Ses05F_impro01_M003",
            field="file",
        )
    return found["session"], f"Ses{found['session']}_{found['speaker']}"


def read(data: Path, *, split: str = "session5", scheme: Scheme = "four") -> tuple[Record, ...]:
    """Return the turns of a session (or of all) whose label is in the scheme, by dialogue and turn."""
    SOURCE.split(split, SPLITS)
    sessions = [split[-1]] if split != "all" else list("12345")
    records = [record for number in sessions for record in _read_session(data / f"Session{number}", number, scheme)]
    return SOURCE.some(records, where=data, expected=f"turns labelled {', '.join(CLASSES[scheme])}")


def _read_session(folder: Path, number: str, scheme: Scheme) -> Iterator[Record]:
    evaluation = SOURCE.folder(folder / "dialog" / "EmoEvaluation", expected=EXPECTED)
    for file in sorted(evaluation.glob("Ses*.txt")):
        words = _read_words(folder / "dialog" / "transcriptions" / file.name)
        for line, text in enumerate(_lines(file), start=1):
            if not re.match(r"\[[\d.]", text):  # the lines of single annotators and the header
                continue
            where = f"{file}:{line}"
            turn = _TURN.fullmatch(text.rstrip())
            if turn is None or turn["code"] not in CODES:
                raise SOURCE.error(
                    f"{where}: {text[:60]!r}; expected: [start - end], turn, label and ratings with tabs between them, "
                    f"the label one of {', '.join(CODES)}"
                )
            session, speaker = parse_turn(turn["turn"], where=where)
            if session != f"0{number}":
                raise SOURCE.error(f"{where}: turn {turn['turn']!r} is not of session {number}")
            label = CLASSES[scheme].get(turn["code"])
            if label is None:
                continue
            wav = folder / "sentences" / "wav" / file.stem / f"{turn['turn']}.wav"
            ratings = _ratings(turn["ratings"], where=where)
            yield Record(
                id=turn["turn"],
                file=SOURCE.file(wav, expected="the sound of each turn, in a folder of its dialogue's name"),
                label=label,
                valence=ratings[0],
                arousal=ratings[1],
                transcript=words.get(turn["turn"]) or None,
                language="en",
                group=speaker,
                meta={"dialogue": file.stem, "label": turn["code"]},
            )


def _ratings(text: str, *, where: str) -> tuple[float, float, float]:
    try:
        valence, activation, dominance = (float(part) for part in text.split(","))
    except ValueError as error:
        raise SOURCE.error(f"{where}: ratings [{text}]; expected: three numbers, as in [2.5, 2.5, 2.5]") from error
    return valence, activation, dominance


def _read_words(path: Path) -> dict[str, str]:
    SOURCE.file(path, expected="what is said in the dialogue, a line for each turn")
    found = (_WORDS.fullmatch(line.strip()) for line in _lines(path))
    return {match["turn"]: match["words"].strip() for match in found if match}


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise SOURCE.error(f"{path} is not text in UTF-8 (byte {error.start + 1})") from error
