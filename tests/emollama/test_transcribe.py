"""Words given as files, and a recogniser that is asked for by name."""

from __future__ import annotations

import json
import types

import numpy as np
import pytest

from emollama import transcribe
from emollama.errors import DependencyError, InputError, UnknownNameError
from emollama.transcribe import GivenTranscript, WhisperTranscriber, load_transcriber, read_transcript_file
from emollama.types import Audio, Transcript, TranscriptSegment

SEGMENTS = [{"start": 0.5, "end": 1.5, "text": " I did not "}, {"start": 2, "end": 3.25, "text": "expect that."}]


@pytest.fixture
def file(tmp_path):
    def write(name, text):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def test_plain_text(file):
    transcript = read_transcript_file(file("a.txt", "\ufeffWell,\n  this is  fine. \n"), language="en")
    assert transcript == Transcript(text="Well, this is fine.", language="en", source="given")


@pytest.mark.parametrize("name", ["a.srt", "a.VTT"])
def test_subtitles_keep_their_times(file, name):
    text = (
        "WEBVTT\n\n1\n00:00:00,500 --> 00:00:01,500\nI did not\n\n"
        "2\n00:00:02,000 --> 00:00:03,250\n<i>expect that.</i>\n"
    )
    transcript = read_transcript_file(file(name, text))
    assert transcript.text == "I did not expect that."
    assert transcript.segments[1] == TranscriptSegment(start=2.0, end=3.25, text="expect that.")


@pytest.mark.parametrize(
    "document",
    [SEGMENTS, {"segments": SEGMENTS}, {"text": "I did not  expect that.", "segments": SEGMENTS, "language": "en"}],
)
def test_json(file, document):
    transcript = read_transcript_file(file("a.json", json.dumps(document)))
    assert transcript.text == "I did not expect that."
    assert transcript.segments[0] == TranscriptSegment(start=0.5, end=1.5, text="I did not")
    assert transcript.source == "given"
    assert transcript.language == (document.get("language") if isinstance(document, dict) else None)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", " \n", "no words"),
        ("a.txt", b"\xff\xfe\x00", "UTF-8"),
        ("a.docx", "hello", "unknown kind"),
        ("a.json", "{", "not JSON"),
        ("a.json", "3", "neither"),
        ("a.json", '{"segments": 3}', "not a list"),
        ("a.json", "{}", "no words"),
        ("a.json", '{"text": 3}', "no words"),
        ("a.json", '[{"start": 1}]', "segment 0 needs"),
        ("a.json", '[{"start": 3, "end": 1, "text": "x"}]', "3.0 to 1.0"),
        ("a.srt", "hello", "no timed line"),
    ],
)
def test_what_is_not_a_transcript_is_said_so(file, name, text, message):
    with pytest.raises(InputError, match=message) as caught:
        read_transcript_file(file(name, text))
    assert caught.value.field == "transcript"


def test_missing_and_oversized_files(tmp_path, file):
    with pytest.raises(InputError, match="not a file"):
        read_transcript_file(tmp_path / "none.txt")
    with pytest.raises(InputError, match="bytes"):
        read_transcript_file(file("a.txt", "x" * (transcribe.MAX_TRANSCRIPT_BYTES + 1)))


class Encoder:
    """Hears the same words in every sound, and keeps count."""

    name = "whisper-fake"
    heard = 0

    def hear(self, audio, *, language=None, check=None):
        self.heard += 1
        return types.SimpleNamespace(transcript=Transcript(text="hello", language=language, source="asr"))


def test_silence_is_not_recognised():
    encoder = Encoder()
    transcriber = WhisperTranscriber(encoder)
    assert transcriber.name == "whisper-fake"
    assert transcriber(Audio(samples=np.zeros(16_000, np.float32))) is None
    assert transcriber(Audio(samples=np.zeros(0, np.float32))) is None
    assert encoder.heard == 0
    loud = Audio(samples=np.full(16_000, 0.2, np.float32))
    assert transcriber(loud, language="en") == Transcript(text="hello", language="en", source="asr")
    given = Transcript(text="known")
    assert GivenTranscript(given)(loud) is given


def test_recognisers_by_name(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="whisper-base"):
        load_transcriber("siri")
    pytest.importorskip("whisper")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(UnknownNameError, match="base"):
        load_transcriber("whisper-gigantic", download=False)
    with pytest.raises(DependencyError, match="--asr whisper-base"):
        load_transcriber("whisper-base", download=False)
