"""The words of a clip: given by the caller as text or a file, or heard by Whisper when that is asked for.

Nothing is downloaded unless a recogniser is named: ``whisper-base`` (or any other official size, or the path of a
``.pt`` file) fetches its weights once into Whisper's own cache folder and checks their sha256. Whisper runs the encoder
that `emollama.encoders.whisper` shares with the audio features. What a recogniser cannot know: whether it heard
right; its transcript says ``source="asr"``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from emollama.errors import DependencyError, InputError
from emollama.subtitles import read_subtitles
from emollama.types import Audio, Transcript, TranscriptSegment
from emollama.watch import Check, unwatched

if TYPE_CHECKING:
    from emollama.encoders.whisper import WhisperEncoder

TRANSCRIPT_SUFFIXES = (".txt", ".srt", ".vtt", ".json")
MAX_TRANSCRIPT_BYTES = 2_000_000
_SILENCE = 1e-3  # peak amplitude (-60 dBFS) under which there is nothing to recognise


class Transcriber(Protocol):
    """Turns sound into words with times, or into None when it hears none."""

    name: str

    def __call__(self, audio: Audio, *, language: str | None = None, check: Check = unwatched) -> Transcript | None: ...


class GivenTranscript:
    """Stands in for a recogniser where the words are known already."""

    name = "given"

    def __init__(self, transcript: Transcript) -> None:
        self._transcript = transcript

    def __call__(self, audio: Audio, *, language: str | None = None, check: Check = unwatched) -> Transcript | None:
        return self._transcript


class WhisperTranscriber:
    """Words by Whisper, cut into segments at its time stamps. Silence is not given to it: it would invent words."""

    def __init__(self, encoder: WhisperEncoder) -> None:
        self._encoder = encoder
        self.name = encoder.name

    def __call__(self, audio: Audio, *, language: str | None = None, check: Check = unwatched) -> Transcript | None:
        if len(audio.samples) == 0 or float(np.abs(audio.samples).max()) < _SILENCE:
            return None
        return self._encoder.hear(audio, language=language, check=check).transcript


def load_transcriber(name: str, *, download: bool = True, device: str = "cpu") -> WhisperTranscriber:
    """Load the recogniser that ``--asr NAME`` asks for: ``whisper-tiny`` to ``whisper-large-v3``, or a ``.pt`` path.

    Raises `InputError` for another kind of name, `UnknownNameError` for an unknown size, `DependencyError` when the
    package is missing or the download fails.
    """
    is_file = name.endswith(".pt")
    if not is_file and not name.startswith("whisper-"):
        raise InputError(f"asr is {name!r}; allowed: whisper-SIZE such as whisper-base, or a .pt file", field="asr")
    from emollama.encoders.whisper import WhisperEncoder

    size = name if is_file else name.removeprefix("whisper-")
    try:
        return WhisperTranscriber(WhisperEncoder.load(size, download=download and not is_file, device=device))
    except OSError as error:
        raise DependencyError(f"the weights of {name} could not be fetched: {error}", field="asr") from error


def read_transcript_file(path: Path | str, *, language: str | None = None) -> Transcript:
    """Read ``.txt`` (words only), ``.srt`` / ``.vtt`` (with times) or ``.json``.

    The JSON is a `Transcript` as analyses write it, Whisper's own output, ``{"text", "segments": [{"start", "end",
    "text"}]}``, or a list of such segments. Raises `InputError` (field ``transcript``) for anything else.
    """
    file = Path(path)
    if file.suffix.lower() not in TRANSCRIPT_SUFFIXES:
        raise InputError(
            f"the transcript {file.name} is of an unknown kind; allowed: {', '.join(TRANSCRIPT_SUFFIXES)}",
            field="transcript",
        )
    if not file.is_file():
        raise InputError(f"the transcript {file} is not a file", field="transcript")
    if file.stat().st_size > MAX_TRANSCRIPT_BYTES:
        raise InputError(
            f"the transcript has {file.stat().st_size:,} bytes; allowed: {MAX_TRANSCRIPT_BYTES:,}", field="transcript"
        )
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"the transcript {file.name} is not UTF-8 text", field="transcript") from error
    if file.suffix.lower() in (".srt", ".vtt"):
        return read_subtitles(text, language=language)
    if file.suffix.lower() == ".json":
        return _from_json(text, language=language)
    words = " ".join(text.split())
    if not words:
        raise InputError(f"the transcript {file.name} holds no words", field="transcript")
    return Transcript(text=words, language=language, source="given")


def _from_json(text: str, *, language: str | None) -> Transcript:
    try:
        document = json.loads(text)
    except ValueError as error:
        raise InputError(f"the transcript is not JSON: {error}", field="transcript") from error
    if isinstance(document, list):
        document = {"segments": document}
    if not isinstance(document, dict):
        raise InputError("the transcript's JSON is neither an object nor a list of segments", field="transcript")
    rows = document.get("segments") or []
    if not isinstance(rows, list):
        raise InputError("the transcript's segments are not a list", field="transcript")
    segments = tuple(_segment(row, index) for index, row in enumerate(rows))
    words = document.get("text") or " ".join(segment.text for segment in segments)
    if not isinstance(words, str) or not words.strip():
        raise InputError("the transcript's JSON holds no words", field="transcript")
    told = document.get("language")
    return Transcript(
        text=" ".join(words.split()),
        language=language or (told if isinstance(told, str) else None),
        segments=segments,
        source="given",
    )


def _segment(row: Any, index: int) -> TranscriptSegment:
    try:
        start, end, text = float(row["start"]), float(row["end"]), str(row["text"]).strip()
    except (TypeError, KeyError, ValueError) as error:
        raise InputError(f"transcript segment {index} needs start, end and text", field="transcript") from error
    if not 0 <= start <= end < 1e6:
        raise InputError(f"transcript segment {index} has the times {start} to {end}", field="transcript")
    return TranscriptSegment(start=start, end=end, text=text)
