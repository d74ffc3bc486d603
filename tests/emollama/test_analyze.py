"""The analyzer with a scripted model: what a caller gets for every subset of face, voice and words."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

import emollama
from emollama.analyze import Analyzer, CancelledError
from emollama.calibration import Calibration
from emollama.errors import InputError, UndecodableMediaError, UnsupportedMediaError
from emollama.labels import EMODB_6, NANO_LABELS
from emollama.parts import Parts, PromptRow, Query
from emollama.prompt import NOTHING_TO_JUDGE, Renderer
from emollama.types import (
    Audio,
    Box,
    Clip,
    FaceReadings,
    FaceTrack,
    Features,
    Frames,
    Transcript,
    TranscriptSegment,
    VoiceReadings,
    VoiceSegment,
)

TOKENIZER = Path(emollama.__file__).parent / "assets" / "nano" / "tokenizer.json"
RENDERER = Renderer.load(TOKENIZER)
SAD_THEN_HAPPY = ["sadness"] * 30 + ["happiness"] * 20
GOOD = "The person appears {label}."


class FakeEngine:
    """Likelihoods from what the row holds: feature tokens are logits of the labels, words are looked up."""

    def __init__(self, replies: Sequence[str] = (), words: dict[str, str] | None = None) -> None:
        self.replies = list(replies)
        self.words = words or {"hate": "anger", "wonderful": "happiness"}
        self.rows: list[list[PromptRow]] = []
        self.asked: list[dict] = []

    def prefill(self, rows: Sequence[PromptRow]) -> list[PromptRow]:
        self.rows.append(list(rows))
        return list(rows)

    def score(self, prefix: list[PromptRow], queries: Sequence[Query]) -> list[np.ndarray]:
        return [np.array([[self._likelihood(row, option) for option in q.options] for row in prefix]) for q in queries]

    def _likelihood(self, row: PromptRow, option: Sequence[int]) -> float:
        text = RENDERER.tokenizer.decode(row.ids, skip_special_tokens=True)
        total = 0.0
        for index, label in enumerate(NANO_LABELS):
            if list(option) != RENDERER.label_ids([label])[0]:
                continue
            total += sum(float(tokens.mean(0)[index]) for tokens in row.features.values())
            total += sum(4.0 for word, meant in self.words.items() if word in text and meant == label)
        if list(option) in ([RENDERER.token_id("<v8>")], [RENDERER.token_id("<a0>")]):
            total += 5.0
        if list(option) == [RENDERER.token_id("<label:joy>")] and "wonderful" in text:
            total += 9.0
        return total

    def generate(self, prefix, ids, **options):
        self.asked.append({"ids": list(ids), **options})
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        yield from RENDERER.encode(reply)


class FakeFace:
    """Reads the expression that each crop's first pixel names."""

    def read(self, crops: np.ndarray, times: np.ndarray, track_id: int, *, check) -> tuple[FaceReadings, Features]:
        table = np.full((len(crops), 8), 0.02)
        for row, crop in enumerate(crops):
            table[row, int(crop[0, 0, 0])] = 1 - 7 * 0.02
        readings = FaceReadings(
            track_id=track_id, times=times, labels=NANO_LABELS, probabilities=table,
            valence=np.full(len(crops), 0.5), arousal=np.full(len(crops), -0.25),
        )  # fmt: skip
        return readings, Features(encoder="fake", tokens=np.log(table[::10]).astype(np.float32))


class FakeVoice:
    def __init__(self, label: str = "anger") -> None:
        self.label = label

    def read(self, audio: Audio, readings: VoiceReadings, *, check) -> tuple[VoiceReadings, Features | None]:
        table = np.full(6, 0.05)
        table[EMODB_6.index(self.label)] = 0.75
        token = np.zeros((1, 8), np.float32)
        token[0, NANO_LABELS.index(self.label)] = 3.0
        return dataclasses.replace(readings, labels=EMODB_6, probabilities=table), Features(encoder="v", tokens=token)


def hear(audio: Audio, *, check) -> VoiceReadings:
    """Voice wherever the sound is not silent."""
    if not np.any(audio.samples):
        return VoiceReadings(voiced_seconds=0.0, segments=())
    segment = VoiceSegment(
        start=0.2, end=audio.seconds - 0.2, pitch_hz=220.0, pitch_range_semitones=4.0, pitch_slope=0.0,
        loudness_dbfs=-20.0, syllables_per_second=4.0, level={"pitch": "high", "loudness": "high", "rate": "medium"},
    )  # fmt: skip
    return VoiceReadings(voiced_seconds=1.5, segments=(segment,), functionals=np.zeros(4, np.float32))


def tracker(*tracks: Sequence[str]) -> Callable[..., tuple[FaceTrack, ...]]:
    def track_faces(frames: Frames, *, audio: Audio | None = None, check) -> tuple[FaceTrack, ...]:
        found = []
        for number, expressions in enumerate(tracks):
            crops = np.zeros((len(expressions), 4, 4, 3), np.uint8)
            crops[:, 0, 0, 0] = [NANO_LABELS.index(name) for name in expressions]
            found.append(
                FaceTrack(
                    track_id=number,
                    times=np.arange(len(expressions)) / 10,
                    boxes=(Box(x=1, y=2, width=30, height=30),) * len(expressions),
                    crops=crops,
                    share=1.0 - number / 10,
                    is_main=number == 0,
                    chosen_because="it is the largest",
                )
            )
        return tuple(found)

    return track_faces


def make(*tracks: Sequence[str], replies: Sequence[str] = (GOOD.format(label="sad"),), **parts) -> Analyzer:
    engine = parts.pop("engine", None) or FakeEngine(replies)
    given = {
        "name": "fake", "renderer": RENDERER, "engine": engine, "face": FakeFace(), "voice": FakeVoice(),
        "measure_voice": hear, "track_faces": tracker(*tracks), "calibration": Calibration(abstain_below=0.3),
    }  # fmt: skip
    return Analyzer(Parts(**{**given, **parts}))


def make_clip(*, picture: bool = True, sound: str | None = None, words: str | None = None, still: bool = False) -> Clip:
    return Clip(
        name="made.mp4",
        seconds=5.0,
        frames=Frames(
            images=np.zeros((50, 8, 8, 3), np.uint8), times=np.arange(50) / 10, source_fps=10.0, is_still=still
        )
        if picture
        else None,
        audio=None
        if sound is None
        else Audio(samples=np.full(16_000 * 3, 0.1 if sound == "voice" else 0.0, np.float32)),
        transcript=None if words is None else Transcript(text=words),
        warnings=("The file ends early.",),
    )


def test_a_face_alone_is_judged_and_told_with_times():
    analyzer = make(SAD_THEN_HAPPY, replies=["The person appears sad. From <t0> to <t1> the face looks sad."])
    found = analyzer.analyze(make_clip())
    assert found.emotion.label == "sadness"
    assert sum(found.emotion.scores.values()) == pytest.approx(1.0)
    assert found.emotion.confidence == max(found.emotion.scores.values())
    assert [s.label for s in found.timeline] == ["sadness", "happiness"]
    assert found.rationale == f"The person appears sad. From 0.0 s to {found.timeline[0].end:.1f} s the face looks sad."
    assert [item.supports for item in found.evidence["visual"]] == ["sadness", "happiness"]
    assert found.evidence["audio"] == found.evidence["text"] == ()
    assert (found.affect.valence, found.affect.arousal, found.affect.source) == (0.5, -0.25, "face")
    assert found.modalities.visual.used
    assert not found.modalities.audio.used
    assert not found.modalities.text.used
    assert found.modalities.visual.faces == 1
    assert found.faces[0].is_main
    assert found.warnings == ("The file ends early.",)
    assert set(found.timings_ms) == {"decode", "faces", "encoders", "prefill", "decode_text", "total"}
    assert found.to_json_dict()["affect_source"] == "face"


def test_all_modalities_are_prefilled_with_each_alone_in_one_batch():
    engine = FakeEngine(["The person appears angry."])
    found = make(SAD_THEN_HAPPY, engine=engine).analyze(make_clip(sound="voice", words="I hate this place so much"))
    rows = engine.rows[0]
    assert [sorted(row.features) for row in rows] == [["face", "voice"], ["face"], ["voice"], []]
    assert found.emotion.label == "anger"
    assert found.modalities.audio.voiced_seconds == 1.5
    assert found.evidence["audio"][0].supports == "anger"
    (quote,) = found.evidence["text"]
    assert "hate" in quote.cue
    assert quote.supports == "anger"
    assert (quote.start, quote.end) == (0.0, 5.0)
    prompt = RENDERER.tokenizer.decode(engine.asked[0]["ids"], skip_special_tokens=False)
    assert "conflict lead voice" in prompt or "conflict lead words" in prompt
    assert "absent" not in prompt


def test_a_silent_track_is_not_used_and_said_so():
    engine = FakeEngine(["The person appears sad. There was no voice to listen to."])
    found = make(SAD_THEN_HAPPY, engine=engine).analyze(make_clip(sound="silence"))
    assert not found.modalities.audio.used
    assert found.modalities.audio.seconds == 3.0
    assert any("No voice was heard" in warning for warning in found.warnings)
    assert all("voice" not in row.features for row in engine.rows[0])
    assert "absent voice words" in RENDERER.tokenizer.decode(engine.asked[0]["ids"], skip_special_tokens=False)


def test_no_face_no_voice_no_words_is_nothing_to_judge():
    found = make().analyze(make_clip(sound="silence"))
    assert found.emotion.label is None
    assert found.emotion.abstained
    assert set(found.emotion.scores.values()) == {1 / 8}
    assert found.emotion.confidence == 1 / 8
    assert found.rationale == NOTHING_TO_JUDGE
    assert (found.affect.valence, found.affect.source) == (None, None)
    assert any("nothing" in w.lower() or "no emotion is claimed" in w for w in found.warnings)
    assert found.timeline == ()


def test_words_alone_need_no_clip():
    analyzer = make(replies=["The person appears happy."])
    found = analyzer.analyze(None, transcript="What a wonderful day it was")
    assert found.emotion.label == "happiness"
    assert "joy" in found.open_vocabulary
    assert found.modalities.text.source == "given"
    assert found.affect.source == "words"
    assert found.affect.valence > 0.9
    assert found.affect.arousal < -0.9
    assert found.clip == "words"


def test_voice_alone_takes_affect_from_the_scores():
    found = make(replies=["The person appears angry."]).analyze(make_clip(picture=False, sound="voice"))
    assert found.affect.source == "scores"
    assert found.affect.valence < 0 < found.affect.arousal
    assert found.modalities.visual.frames == 0


def test_the_answer_keeps_the_callers_words():
    analyzer = make(SAD_THEN_HAPPY, replies=["The person appears sad."])
    found = analyzer.analyze(make_clip(), labels="Sad, Joyful,angry")
    assert found.emotion.label == "Sad"
    assert list(found.emotion.scores) == ["Sad", "Joyful", "angry"]
    assert {s.label for s in found.timeline} == {"Sad", "Joyful"}
    assert {item.supports for item in found.evidence["visual"]} == {"sadness", "happiness"}


def test_a_label_that_nano_was_not_taught_can_be_asked_for():
    found = make(["neutral"] * 20, replies=["The person appears <q3>."]).analyze(make_clip(), labels=["bored", "tense"])
    assert found.emotion.label in ("bored", "tense")
    assert found.emotion.abstained
    assert "<" not in found.rationale


@pytest.mark.parametrize("labels", ["sad", ["sad", "unhappy"], ["a" * 50, "b"]])
def test_a_wrong_label_set_is_an_input_error(labels):
    with pytest.raises(InputError):
        make(SAD_THEN_HAPPY).analyze(make_clip(), labels=labels)


def test_a_low_confidence_abstains_and_is_told_as_such():
    engine = FakeEngine(["At most, the person appears sad."])
    found = make(SAD_THEN_HAPPY, engine=engine, calibration=Calibration(abstain_below=0.9)).analyze(make_clip())
    assert found.emotion.abstained
    assert found.emotion.label == "sadness"
    assert "abstained" in RENDERER.tokenizer.decode(engine.asked[0]["ids"], skip_special_tokens=False)


def test_a_rationale_that_fails_its_check_is_decoded_again_with_sampling():
    engine = FakeEngine(["The person appears angry.", "The person appears sad."])
    found = make(SAD_THEN_HAPPY, engine=engine).analyze(make_clip())
    assert found.rationale == "The person appears sad."
    assert [(a["temperature"], a["seed"]) for a in engine.asked] == [(0.0, 0), (0.7, 1)]
    assert found.warnings == ("The file ends early.",)


def test_a_rationale_that_keeps_failing_is_replaced_and_the_answer_says_so():
    engine = FakeEngine(["The person appears sad and the voice trembles."])
    found = make(SAD_THEN_HAPPY, engine=engine).analyze(make_clip())
    assert len(engine.asked) == 3
    assert found.rationale.startswith("The person appears sad; ")
    assert "replaced" in found.warnings[-1]
    assert "speaks of the voice" in found.warnings[-1]


def test_an_endless_rationale_is_a_failed_one():
    found = make(SAD_THEN_HAPPY, replies=["The person appears sad. " + "so " * 400]).analyze(make_clip())
    assert "did not come to an end" in found.warnings[-1]


def test_only_measured_slots_may_be_decoded():
    engine = FakeEngine(["The person appears sad."])
    make(["sadness"] * 20, engine=engine).analyze(make_clip())
    banned = engine.asked[0]["banned"]
    assert RENDERER.token_id("<t0>") not in banned
    assert RENDERER.token_id("<t1>") not in banned
    assert RENDERER.stop_id not in banned
    assert {RENDERER.token_id(t) for t in ("<t2>", "<q0>", "<|user|>", "<label:anger>", "<s>")} <= banned


def test_several_faces_are_followed_and_the_choice_is_told():
    found = make(["sadness"] * 20, ["anger"] * 20).analyze(make_clip())
    assert {s.track for s in found.timeline} == {0, 1}
    assert any("2 faces were seen; this follows face 0" in w for w in found.warnings)
    assert make(["sadness"] * 20, ["anger"] * 20).analyze(make_clip(), timeline=False).timeline == ()


def test_a_picture_has_no_times_to_cite():
    engine = FakeEngine(["The person appears sad. In the picture the face looks sad."])
    found = make(["sadness"], engine=engine).analyze(make_clip(still=True))
    assert "picture" in RENDERER.tokenizer.decode(engine.asked[0]["ids"], skip_special_tokens=False)
    assert "picture" in found.rationale


def test_a_file_and_its_bytes_give_the_same_answer(media, tmp_path):
    path = media.video(tmp_path / "clip.mp4", seconds=1.0, audio=1.0)
    analyzer = make(["sadness"] * 10, replies=["The person appears angry."], engine=None)
    by_path = analyzer.analyze(path)
    by_bytes = analyzer.analyze(path.read_bytes(), name="clip.mp4")
    assert by_path.clip == by_bytes.clip == "clip.mp4"
    assert by_path.emotion == by_bytes.emotion
    assert by_path.id != by_bytes.id
    with pytest.raises(UnsupportedMediaError):
        analyzer.analyze(b"not a clip at all" * 10)
    with pytest.raises((UndecodableMediaError, UnsupportedMediaError)):
        analyzer.analyze(path.read_bytes()[:60])


def test_nothing_given_and_too_much_given_are_input_errors():
    with pytest.raises(InputError, match="no transcript"):
        make().analyze(None)
    with pytest.raises(InputError, match="no transcript"):
        make().analyze(None, transcript="   ")
    with pytest.raises(InputError, match="at most 20000"):
        make().analyze(None, transcript="word " * 5000)


def test_a_foreign_language_and_a_long_transcript_are_said():
    analyzer = make(replies=["The person appears neutral."])
    found = analyzer.analyze(None, transcript="das ist so " * 200, language="de-AT")
    assert any("'de'" in w and "en only" in w for w in found.warnings)
    assert any("beginning and its end" in w for w in found.warnings)


def test_cancelling_stops_between_tokens():
    calls = iter([False] * 9 + [True] * 100)
    with pytest.raises(CancelledError):
        make(SAD_THEN_HAPPY).analyze(make_clip(), cancelled=lambda: next(calls))
    with pytest.raises(CancelledError):
        make(SAD_THEN_HAPPY).analyze(make_clip(), cancelled=lambda: True)


def test_questions_branch_off_one_understanding():
    engine = FakeEngine(["Sad.", "There was no voice to listen to.", "The voice trembles."])
    analyzer = make(SAD_THEN_HAPPY, engine=engine)
    seen = analyzer.understand(make_clip())
    assert analyzer.answer(seen, "In one word?") == "Sad."
    assert analyzer.ask(seen, "How is the voice?") == "There was no voice to listen to."
    assert len(engine.rows) == 1
    grounded = analyzer.ask(make_clip(), "And the voice?")
    assert "trembles" not in grounded
    assert len(engine.rows) == 2
    with pytest.raises(InputError, match="question"):
        analyzer.answer(seen, "  ")
    with pytest.raises(InputError, match="question"):
        analyzer.answer(seen, "x" * 3000)
    nothing = make().understand(make_clip(sound="silence"))
    assert analyzer.answer(nothing, "What is felt?") == NOTHING_TO_JUDGE


def test_a_recogniser_is_asked_only_when_named_and_only_without_words():
    heard = []

    def recogniser(name: str):
        def listen(audio: Audio, *, language: str | None = None, check) -> Transcript | None:
            heard.append((name, language))
            text = "I hate this" if len(heard) == 1 else " "
            return Transcript(
                text=text, language="en", source="asr", segments=(TranscriptSegment(start=1.0, end=2.0, text=text),)
            )

        return listen

    analyzer = make(["anger"] * 20, replies=["The person appears angry."], recogniser=recogniser)
    assert analyzer.analyze(make_clip(sound="voice")).transcript is None
    found = analyzer.analyze(make_clip(sound="voice"), asr="whisper-base", language="en")
    assert found.modalities.text.source == "asr"
    assert found.evidence["text"][0].start == 1.0
    assert heard == [("whisper-base", "en")]
    analyzer.analyze(make_clip(sound="voice", words="I hate it"), asr="whisper-base")
    assert len(heard) == 1
    empty = analyzer.analyze(make_clip(sound="voice"), asr="whisper-base")
    assert any("heard no words" in w for w in empty.warnings)
    with pytest.raises(InputError, match="no recogniser"):
        make(SAD_THEN_HAPPY).analyze(make_clip(sound="voice"), asr="whisper-base")


def test_a_transcript_replaces_the_clips_own():
    found = make(replies=["The person appears angry."]).analyze(
        make_clip(picture=False, words="nothing"), transcript="I hate this"
    )
    assert found.transcript == Transcript(text="I hate this")


def test_threads_do_not_mix_their_answers():
    analyzer = make(["sadness"] * 20, replies=["The person appears sad."])
    answers: dict[int, str | None] = {}

    def work(number: int) -> None:
        words = "I hate this" if number % 2 else "wonderful"
        clip = make_clip(picture=False, words=words)
        answers[number] = analyzer.understand(clip).emotion.label

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answers[n] for n in range(0, 8, 2)} == {"happiness"}
    assert {answers[n] for n in range(1, 8, 2)} == {"anger"}


def test_the_public_api_is_what_the_package_lists():
    for name in emollama.__all__:
        assert getattr(emollama, name) is not None
    assert set(dir(emollama)) == set(emollama.__all__)
    assert emollama.Analyzer is Analyzer
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = emollama.nothing_like_it
