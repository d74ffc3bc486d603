"""The staged walk of an analyzer: what is told when, and that it ends when nobody wants it any more."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import pytest

import emollama
from emollama.analyze import Analyzer
from emollama.cores import CORES
from emollama.encoders.face import FaceEncoder
from emollama.errors import CancelledError, DeadlineError
from emollama.faces import track_faces
from emollama.media import read_clip
from emollama.phrases import KINDS, supported_answers
from emollama.prompt import NOTHING_TO_JUDGE, Renderer
from emollama.prosody import measure
from emollama.reply_text import ReplyText
from emollama.stages import Decoded, Done, FacesFound, Labelled, RationalePiece
from emollama.types import Analysis, Audio, Clip, Frames

ASSETS = Path(emollama.__file__).parent / "assets"
SAMPLE = ASSETS / "sample" / "sample.mp4"
WORDS = "I cannot believe they did that to me. This is outrageous, I am furious."


@pytest.fixture(scope="module")
def nano() -> Analyzer:
    return Analyzer.load("nano")


@pytest.fixture(scope="module")
def short() -> Clip:
    """A second and a half of the sample."""
    clip = read_clip(SAMPLE)
    assert clip.frames is not None
    assert clip.audio is not None
    frames = dataclasses.replace(clip.frames, images=clip.frames.images[15:23], times=clip.frames.times[:8])
    audio = dataclasses.replace(clip.audio, samples=clip.audio.samples[16_000:40_000])
    return dataclasses.replace(clip, seconds=1.6, frames=frames, audio=audio)


@pytest.fixture
def num_rows(nano: Analyzer) -> Callable[[], int]:
    """How many replies the decoder holds memory for."""
    return lambda: nano.parts.engine.replies.num_running + nano.parts.engine.replies.num_waiting


def pieces_of(events: list) -> list[str]:
    return [event.text for event in events if isinstance(event, RationalePiece)]


def without_chance(analysis: Analysis) -> Analysis:
    return dataclasses.replace(analysis, id="", created=0, timings_ms={})


def test_stages_come_in_order_and_say_what_the_answer_says(nano):
    events = list(nano.stages(SAMPLE, transcript=WORDS))
    kinds = [type(event) for event in events]
    assert list(dict.fromkeys(kinds)) == [Decoded, FacesFound, Labelled, RationalePiece, Done]
    assert kinds.count(RationalePiece) == len(kinds) - 4 > 5
    decoded, found, labelled, done = events[0], events[1], events[2], events[-1].analysis
    assert (decoded.seconds, decoded.num_frames) == (done.seconds, done.modalities.visual.frames)
    assert decoded.has_audio
    assert found.tracks == done.faces != ()
    assert labelled.emotion == done.emotion
    assert (labelled.affect, labelled.evidence) == (done.affect, done.evidence)
    assert (labelled.transcript, labelled.open_vocabulary) == (done.transcript, done.open_vocabulary)
    assert "".join(pieces_of(events)) == done.rationale
    assert "<" not in done.rationale
    assert set(done.timings_ms) == {"decode", "faces", "encoders", "prefill", "decode_text", "total"}
    assert without_chance(nano.analyze(SAMPLE, transcript=WORDS)) == without_chance(done)


def test_a_piece_is_told_while_the_reply_is_still_being_decoded(nano, num_rows):
    walk = nano.stages(None, transcript=WORDS)
    said = []
    for event in walk:
        if isinstance(event, RationalePiece):
            said.append(event.text)
            assert num_rows() == 1
            break
    walk.close()
    assert num_rows() == 0
    assert CORES.num_working == 0
    whole = nano.analyze(None, transcript=WORDS).rationale
    assert whole.startswith("".join(said))
    assert 0 < len(said[0]) < len(whole) / 2


def test_own_words_are_told_when_they_have_been_checked(nano):
    free = Analyzer(dataclasses.replace(nano.parts, answers="own"))
    events = list(free.stages(None, transcript=WORDS))
    assert pieces_of(events) == [events[-1].analysis.rationale]


def test_a_rationale_that_was_replaced_is_told_once(nano):
    # a label that sounds like a claim about a modality which is not there fails the check in every phrasing
    events = list(nano.stages(None, transcript=WORDS, labels=["smiling face", "loud voice"]))
    done = events[-1].analysis
    assert any("replaced" in warning for warning in done.warnings)
    assert pieces_of(events) == [done.rationale]


def test_nothing_to_judge_is_a_walk_too(nano):
    silence = Clip(name="silence.wav", seconds=1.0, audio=Audio(samples=np.zeros(16_000, np.float32)))
    events = list(nano.stages(silence))
    assert [type(event) for event in events] == [Decoded, FacesFound, Labelled, RationalePiece, Done]
    assert events[1].tracks == ()
    assert events[2].emotion.label is None
    assert pieces_of(events) == [events[-1].analysis.rationale] == [NOTHING_TO_JUDGE]


@pytest.mark.parametrize("kind", KINDS)
def test_no_piece_of_a_growing_text_is_taken_back(kind):
    from train.builders.cues import random_cues

    renderer = Renderer.load(ASSETS / "nano" / "tokenizer.json")
    rng = Random(7)
    for _ in range(8):
        cues = random_cues(rng)
        for answer in supported_answers(cues, kinds=[kind], count=4):
            ids = renderer.encode(answer)
            text = ReplyText(renderer, cues)
            told = [text.add(token) for token in ids] + [text.rest()]
            assert "".join(told) == renderer.decode(ids, cues), answer


def test_what_is_held_back_comes_with_the_next_piece():
    renderer = Renderer.load(ASSETS / "nano" / "tokenizer.json")
    text = ReplyText(renderer, None)
    ids = renderer.encode("The person appears sad, at last.")
    for token in ids[:-3]:
        text.take(token)
    first = text.certain()
    assert first == text.whole().rstrip()
    for token in ids[-3:]:
        text.take(token)
    assert first + text.rest() == "The person appears sad, at last."


@pytest.mark.parametrize("after", [Decoded, FacesFound, Labelled, RationalePiece])
@pytest.mark.parametrize("why", [CancelledError, DeadlineError])
def test_a_walk_ends_after_any_stage(nano, short, num_rows, monkeypatch, after, why):
    is_over = False
    deadline = time.monotonic() + 3600
    walk = nano.stages(short, transcript=WORDS, deadline=deadline, cancelled=lambda: is_over)
    while not isinstance(next(walk), after):
        pass
    if why is CancelledError:
        is_over = True
    else:
        monkeypatch.setattr(time, "monotonic", lambda: deadline)
    with pytest.raises(why):
        next(walk)
    assert num_rows() == 0
    assert CORES.num_working == 0


def test_a_deadline_that_has_passed_ends_the_analysis_before_it_begins(nano):
    with pytest.raises(DeadlineError, match="in time"):
        nano.analyze(SAMPLE, deadline=time.monotonic() - 1)


class Counter:
    """A check that counts how often it is asked, and ends the work at the n-th time."""

    def __init__(self, last: int | None = None) -> None:
        self.asked, self.last = 0, last

    def __call__(self) -> None:
        self.asked += 1
        if self.asked == self.last:
            raise CancelledError("enough")


def long_work(check: Counter) -> dict[str, Callable[[], object]]:
    """Every part that takes longer, the longer the clip, and how often it has to ask."""
    frames = Frames(images=np.zeros((40, 48, 64, 3), np.uint8), times=np.arange(40) / 5, source_fps=5.0, is_still=False)
    crops = np.zeros((50, 48, 48, 3), np.uint8)
    voice = Audio(samples=(0.3 * np.sin(np.arange(16_000 * 60) * 0.08)).astype(np.float32))
    face = FaceEncoder.build("nano-face", debug=True)
    return {
        "faces": lambda: track_faces(frames, check=check),
        "face net": lambda: face.read(crops, np.arange(50) / 5, 0, check=check),
        "voice": lambda: measure(voice, check=check),
    }


@pytest.mark.parametrize(("part", "times"), [("faces", 40), ("face net", 4), ("voice", 9)])
def test_long_work_asks_on_the_way(part, times):
    check = Counter()
    long_work(check)[part]()
    assert check.asked >= times
    check = Counter(last=2)
    with pytest.raises(CancelledError):
        long_work(check)[part]()
    assert check.asked == 2
