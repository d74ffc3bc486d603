"""The embedded model on real input: what `nano` must get right wherever its weights are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import emollama
from emollama.checkpoint import ASSETS
from emollama.evidence import check_rationale
from emollama.labels import NANO_LABELS
from emollama.prompt import NOTHING_TO_JUDGE

NEEDED = (
    "tokenizer.json",
    "backbone",
    "projectors.safetensors",
    "face.safetensors",
    "voice.safetensors",
    "calibration.json",
)
CLIPS = Path(__file__).parents[3] / "shared" / "clips"

pytestmark = pytest.mark.skipif(
    not all((ASSETS / "nano" / name).exists() for name in NEEDED), reason="nano's weights are not built yet"
)


@pytest.fixture(scope="module")
def nano() -> emollama.Analyzer:
    return emollama.load("nano")


def clip(name: str) -> Path:
    path = CLIPS / name
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    return path


def seconds_of(found: emollama.Analysis, label: str, start: float, end: float) -> float:
    own = (s for s in found.timeline if s.label == label and s.track == next(f.track for f in found.faces if f.is_main))
    return sum(max(0.0, min(s.end, end) - max(s.start, start)) for s in own)


@pytest.mark.parametrize(
    ("words", "label"),
    [
        ("I am so happy, this is the best day of my life!", "happiness"),
        ("I hate you, get out of my house you idiot!", "anger"),
        ("I miss her so much, I have been crying all night.", "sadness"),
    ],
)
def test_plain_words_are_read(nano, words, label):
    found = nano.analyze(None, transcript=words)
    assert found.emotion.label == label
    assert found.modalities.text.used
    assert "voice" not in found.rationale.lower() or "no voice" in found.rationale.lower()
    assert found.affect.source == "words"
    assert (found.affect.valence > 0) == (label == "happiness")
    assert found.evidence["text"][0].supports == label
    json.dumps(found.to_json_dict(), allow_nan=False)


def test_every_rationale_passes_its_check(nano):
    seen = nano.understand(None, transcript="Well, I did not see that coming at all.")
    assert seen.cues is not None
    assert (
        check_rationale(nano.analyze(None, transcript="Well, I did not see that coming at all.").rationale, seen.cues)
        == []
    )


def test_one_word_is_answered_with_one_word(nano):
    reply = nano.ask(None, "In one word?", transcript="I am so happy, this is the best day of my life!")
    assert len(reply.split()) == 1


@pytest.mark.shared_data
def test_a_clip_that_turns_from_grief_to_joy_without_a_voice(nano):
    found = nano.analyze(clip("WolfgangLanger_Pexels.mp4"))
    assert seconds_of(found, "sadness", 1, 8) > 3.5
    assert seconds_of(found, "happiness", 11, 19) > 4.0
    assert not found.modalities.audio.used
    assert found.evidence["audio"] == ()


@pytest.mark.shared_data
def test_a_neutral_face_that_becomes_happy(nano):
    found = nano.analyze(clip("single_face.mp4"))
    labels = [s.label for s in found.timeline]
    assert labels[0] == "neutral"
    assert "happiness" in labels[1:]
    assert found.emotion.label in NANO_LABELS


@pytest.mark.shared_data
def test_no_face_is_said_and_nothing_is_claimed(nano):
    found = nano.analyze(clip("no_face.mp4"))
    assert found.faces == ()
    assert found.emotion.abstained
    assert any("No face" in warning for warning in found.warnings)
    if found.emotion.label is None:
        assert found.rationale == NOTHING_TO_JUDGE
