import dataclasses
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from emollama.errors import DatasetError
from emollama.manifest import Sample
from emollama.prompt import FaceCue
from emollama.types import Audio, Clip, Emotion, Frames
from train.builders.merr.observation import Observation
from train.builders.merr.prompts import explain
from train.builders.merr.reader import conditioned, cut
from train.builders.merr.source import open_source
from train.builders.merr.writers import Assignment, NanoWriter

Seen = Callable[..., Observation]


def clip_of(seconds: float, *, audio_start: float = 0.0) -> Clip:
    times = np.arange(0, seconds, 0.2)
    images = np.zeros((len(times), 4, 4, 3), np.uint8)
    images[:, 0, 0, 0] = np.arange(len(times))
    samples = np.arange(round((seconds - audio_start) * 100), dtype=np.float32)
    return Clip(
        name="c",
        seconds=seconds,
        frames=Frames(images=images, times=times, source_fps=5.0),
        audio=Audio(samples=samples, sample_rate=100, start=audio_start),
    )


def test_a_stretch_is_cut_out_and_counts_from_its_start() -> None:
    part = cut(clip_of(4.0), start=1.0, end=3.0)
    assert part.seconds == pytest.approx(2.0)
    assert part.frames is not None
    assert part.audio is not None
    assert part.frames.times[0] == pytest.approx(0.0)
    assert part.frames.times[-1] == pytest.approx(1.8)
    assert part.frames.images[0, 0, 0, 0] == 5
    assert (part.audio.samples[0], len(part.audio.samples), part.audio.start) == (100.0, 200, 0.0)


def test_sound_that_begins_later_keeps_its_place() -> None:
    part = cut(clip_of(4.0, audio_start=2.0), start=1.0, end=None)
    assert part.audio is not None
    assert (part.audio.samples[0], len(part.audio.samples), part.audio.start) == (0.0, 200, 1.0)
    assert cut(clip_of(4.0, audio_start=2.0), start=0.0, end=1.5).audio is None


def test_a_stretch_beyond_the_end_is_refused() -> None:
    with pytest.raises(DatasetError, match="start is 9 s, but the clip ends after 4 s"):
        cut(clip_of(4.0), start=9.0, end=None)
    whole = clip_of(4.0)
    assert cut(whole, start=None, end=None) is whole


def _understanding(clip: Observation, label: str) -> Any:
    cues = dataclasses.replace(clip.cues, label=label, lead="voice", others=("anger",))
    emotion = Emotion(label=label, confidence=0.7, abstained=False, scores={label: 0.7})
    return SimpleNamespace(cues=cues, emotion=emotion)


def test_cues_take_the_samples_label_and_what_leads_then(seen: Seen) -> None:
    clip = seen(face="sadness", voice="anger")
    same = conditioned(_understanding(clip, "sadness"), "Sad")
    assert (same.label, same.lead, same.others, same.agreement) == ("Sad", "voice", ("anger",), "conflict")
    other = conditioned(_understanding(clip, "anger"), "sad")
    assert (other.label, other.lead, other.others) == ("sad", "face", ())


def assignment(clip: Observation, movements: tuple[str, ...] = ()) -> Assignment:
    return Assignment(
        sample_id="a", observation=clip, facts=(), questions=("Why?",), movements=movements,
        prompt=explain(clip, ()), understand=lambda: _real(clip),
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class _Real:
    cues: Any
    emotion: Emotion


def _real(clip: Observation) -> Any:
    return _Real(cues=clip.cues, emotion=Emotion(label="anger", confidence=1.0, abstained=False, scores={}))


class Nano:
    """Stands in for an analyzer; keeps what it was told."""

    parts = SimpleNamespace(name="nano", adapter=None)

    def __init__(self, answer: str = "The person appears sad. The face looks so.") -> None:
        self.asked: list[tuple[Any, str]] = []
        self._answer = answer

    def answer(self, seen: Any, question: str) -> str:
        self.asked.append((seen, question))
        return self._answer


def test_nano_is_told_the_label_and_asked_the_samples_question(seen: Seen) -> None:
    nano: Any = Nano()
    draft = NanoWriter(nano).write(assignment(seen(label="sad")), attempt=0)
    ((told, question),) = nano.asked
    assert (told.emotion.label, told.cues.label, question) == ("sad", "sad", "Why?")
    assert (draft.refusal, draft.by["writer"]) == (None, "nano")


def test_nano_does_not_explain_what_it_did_not_read(seen: Seen) -> None:
    nano: Any = Nano()
    draft = NanoWriter(nano).write(assignment(seen(label="bored", face="neutral", voice="sadness")), attempt=0)
    assert draft.refusal == "nano reads neutral, sadness, so it cannot explain bored; ask an endpoint"
    assert nano.asked == []
    turned = seen(label="happy", face="sadness")
    later = FaceCue(start=4.0, end=6.0, label="happiness", strength="high")
    turned = dataclasses.replace(turned, cues=dataclasses.replace(turned.cues, face=(*turned.cues.face, later)))
    assert NanoWriter(nano).write(assignment(turned), attempt=0).refusal is None


def test_movements_are_added_while_there_is_room(seen: Seen) -> None:
    nano: Any = Nano("The person appears sad. " + " ".join(["word"] * 60) + ".")
    long, short = "At 1.0 s " + " ".join(["long"] * 30) + ".", "At 1.0 s the brows are low."
    draft = NanoWriter(nano).write(assignment(seen(), (long, short)), attempt=0)
    assert draft.text.startswith(f"The person appears sad. {short} word")
    full: Any = Nano("The person appears sad. " + " ".join(["word"] * 75) + ".")
    assert "brows" not in NanoWriter(full).write(assignment(seen(), (long, short)), attempt=0).text


def test_a_folder_is_labelled_or_not(tmp_path: Any) -> None:
    flat, labelled = tmp_path / "flat", tmp_path / "labelled"
    (labelled / "sad").mkdir(parents=True)
    flat.mkdir()
    for path in (flat / "a.mp4", labelled / "sad" / "b.wav"):
        path.write_bytes(b"x")
    (flat / "a.txt").write_text("Hello\nthere.")
    assert open_source(flat).samples == (Sample(id="a.mp4", clip="a.mp4", transcript="Hello there."),)
    (sample,) = open_source(labelled).samples
    assert (sample.clip, sample.label) == ("sad/b.wav", "sad")
    (tmp_path / "none").mkdir()
    with pytest.raises(DatasetError, match="holds no media file"):
        open_source(tmp_path / "none")
    (tmp_path / "long.jsonl").write_text('{"id": "%s", "transcript": "x", "clip": null}\n' % ("i" * 195))
    with pytest.raises(DatasetError, match="has 195 characters; allowed here: at most 190"):
        open_source(tmp_path / "long.jsonl")
