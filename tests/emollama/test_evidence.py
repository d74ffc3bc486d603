from dataclasses import replace

import numpy as np
import pytest

from emollama import evidence as e
from emollama.prompt import Cues, FaceCue, VoiceCue, WordsCue
from emollama.types import FaceReadings, Segment, Transcript, TranscriptSegment, VoiceReadings, VoiceSegment


def face(path: str = "s" * 20 + "h" * 20) -> FaceReadings:
    table = np.full((len(path), 3), 0.05)
    for row, letter in enumerate(path):
        table[row, "nhs".index(letter)] = 0.9
    table[len(path) // 4] += [0, 0, 0.05]
    table /= table.sum(axis=1, keepdims=True)
    return FaceReadings(
        track_id=1,
        times=np.arange(len(path)) / 10,
        labels=("neutral", "happiness", "sadness"),
        probabilities=table,
        valence=np.zeros(len(path)),
        arousal=np.zeros(len(path)),
    )


def segment(start: float, end: float, label: str, probability: float) -> Segment:
    return Segment(start=start, end=end, label=label, scores={label: probability}, valence=0.0, arousal=0.0, track=0)


def voiced(start: float, end: float, **level: str) -> VoiceSegment:
    return VoiceSegment(
        start=start, end=end, pitch_hz=210.4, pitch_range_semitones=5.0, pitch_slope=0.1, loudness_dbfs=-18.2,
        syllables_per_second=4.4, level={"pitch": "medium", "loudness": "medium", "rate": "medium", **level},
    )  # fmt: skip


def voice(*segments: VoiceSegment) -> VoiceReadings:
    return VoiceReadings(
        voiced_seconds=2.0,
        segments=segments,
        labels=("anger", "sadness"),
        probabilities=np.array([0.8, 0.2]),
    )


ALL = Cues(
    label="anger",
    confidence="medium",
    face=(FaceCue(start=0.0, end=2.0, label="sadness", strength="high"),),
    voice=VoiceCue(start=0.5, end=3.2, label="anger", pitch="high", loudness="high", rate="medium"),
    words=WordsCue(label="anger", quote="I hate this"),
    agreement="conflict",
    lead="voice",
)
FACE_ONLY = Cues(
    label="happiness",
    confidence="high",
    face=(FaceCue(start=1.5, end=8.0, label="happiness", strength="high"),),
    absent=("voice", "words"),
)


# ---- face and voice -------------------------------------------------------------------------------------------------


def test_face_evidence_has_span_value_and_peak():
    readings = face()
    items = e.face_evidence(readings, e.segments_of(readings))
    assert [item.supports for item in items] == ["sadness", "happiness"]
    assert items[0].reading == "face.sadness.probability"
    assert items[0].start == 0.0
    assert items[0].end == pytest.approx(2.0, abs=0.1)
    assert 0.7 < items[0].value <= 1.0
    assert "most clearly at 1.0 s" in items[0].cue
    assert items[0].track == 1
    assert e.face_verdict(readings) in ("sadness", "happiness")


def test_a_picture_has_no_peak_time():
    readings = face("h")
    (item,) = e.face_evidence(readings, e.segments_of(readings))
    assert "most clearly" not in item.cue


def test_at_most_four_cues_are_kept_in_time_order_and_the_longest_stay():
    many = [
        segment(i * 2.0, i * 2.0 + (1.9 if i != 3 else 0.4), "neutral" if i % 2 else "sadness", 0.6) for i in range(5)
    ]
    cues = e.face_cues(many)
    assert [cue.start for cue in cues] == [0.0, 2.0, 4.0, 8.0]
    assert cues[0].strength == "medium"


def test_neighbours_of_one_label_are_one_cue():
    cues = e.face_cues([segment(0, 1, "sadness", 0.4), segment(1.2, 3, "sadness", 0.9)])
    assert [(cue.start, cue.end, cue.strength) for cue in cues] == [(0, 3, "high")]
    assert e.strength(0.2) == "low"


def test_voice_cue_weighs_levels_by_length_and_needs_a_verdict():
    cue = e.voice_cue(voice(voiced(0.5, 1.0, pitch="low"), voiced(1.2, 3.2, pitch="high")))
    assert cue == VoiceCue(start=0.5, end=3.2, label="anger", pitch="high", loudness="medium", rate="medium")
    assert e.voice_cue(VoiceReadings(voiced_seconds=0.0, segments=())) is None
    assert e.voice_cue(VoiceReadings(voiced_seconds=1.0, segments=(voiced(0, 1),))) is None


def test_voice_evidence_is_the_verdict_and_the_measurements_of_the_longest_segments():
    segments = [voiced(i, i + 0.2 + i / 10) for i in range(5)]
    items = e.voice_evidence(voice(*segments))
    assert items[0].supports == "anger"
    assert (items[0].start, items[0].end) == (0, segments[-1].end)
    assert {item.reading for item in items[1:]} == {
        "voice.pitch_hz", "voice.loudness_dbfs", "voice.syllables_per_second"
    }  # fmt: skip
    assert {item.start for item in items[1:]} == {2, 3, 4}
    assert items[1].value == 210.4
    assert "(medium)" in items[1].cue
    assert e.voice_evidence(VoiceReadings(voiced_seconds=0.0, segments=())) == ()


def test_a_quality_that_could_not_be_measured_is_no_evidence():
    whisper = VoiceSegment(
        start=0, end=1, pitch_hz=float("nan"), pitch_range_semitones=0, pitch_slope=0, loudness_dbfs=-20,
        syllables_per_second=3, level={},
    )  # fmt: skip
    items = e.voice_evidence(VoiceReadings(voiced_seconds=1.0, segments=(whisper,)))
    assert [item.reading for item in items] == ["voice.loudness_dbfs", "voice.syllables_per_second"]


# ---- words ----------------------------------------------------------------------------------------------------------


def likes(*needles: str):
    calls = []

    def score(texts):
        calls.append(list(texts))
        return np.array([sum(1.0 for needle in needles if needle in text) for text in texts])

    score.calls = calls
    return score


def test_the_quote_is_the_words_whose_absence_costs_most():
    score = likes("hate")
    quote = e.find_quote("I went home and I hate this, really.", score)
    assert quote is not None
    assert "hate" in quote.text
    assert quote.drop == 1.0
    assert len(score.calls) == 1
    assert len(score.calls[0]) <= e.MAX_OCCLUSIONS + 1


def test_a_negation_stays_with_its_word():
    quote = e.find_quote("She said that she is not happy today", likes("happy"))
    assert quote is not None
    assert quote.text == "not happy"


def test_a_phrase_of_neighbours_is_quoted_whole():
    quote = e.find_quote("and then it was absolutely terrible, you know", likes("absolutely", "terrible"))
    assert quote is not None
    assert quote.text == "absolutely terrible"


def test_a_long_text_takes_two_calls_of_bounded_size():
    filler = "the road goes on past the mill. " * 20
    score = likes("furious")
    quote = e.find_quote(filler + "He was furious with us. " + filler, score)
    assert quote is not None
    assert "furious" in quote.text
    assert len(score.calls) == 2
    assert max(len(call) for call in score.calls) <= e.MAX_OCCLUSIONS + 1
    assert filler.split()[0] == "the"
    assert quote.first > 100


@pytest.mark.parametrize("text", ["", "  ", "... !"])
def test_no_words_no_quote(text):
    assert e.find_quote(text, likes()) is None


def test_one_word_is_its_own_quote():
    quote = e.find_quote("Wonderful!", likes("Wonderful"))
    assert quote is not None
    assert quote.text == "Wonderful"


def test_the_quote_has_the_times_of_its_segments():
    transcript = Transcript(
        text="Hello there. I hate this.",
        segments=(
            TranscriptSegment(start=0.0, end=1.0, text="Hello there."),
            TranscriptSegment(start=1.5, end=3.0, text="I hate this."),
        ),
    )
    quote = e.find_quote(transcript.text, likes("hate"))
    assert quote is not None
    item = e.words_evidence(transcript, quote, label="anger", clip_seconds=9.0)
    assert (item.start, item.end) == (1.5, 3.0)
    assert item.supports == "anger"
    assert "hate" in item.cue
    shuffled = Transcript(text="Well. " + transcript.text, segments=transcript.segments)
    assert e.quote_span(shuffled, e.Quote(text="I hate", first=3, last=4, drop=1.0)) == (1.5, 3.0)
    bare = e.words_evidence(Transcript(text=transcript.text), quote, label="anger", clip_seconds=9.0)
    assert (bare.start, bare.end) == (0.0, 9.0)


# ---- verdicts -------------------------------------------------------------------------------------------------------


def test_agreement_and_lead():
    assert e.agreement_of({"face": "anger"}) == "single"
    assert e.agreement_of({"face": "anger", "voice": "angry"}) == "agree"
    verdicts = {"face": "sadness", "voice": "anger", "words": "anger"}
    assert e.agreement_of(verdicts) == "conflict"
    assert e.lead_of("anger", verdicts, {"face": 0.9, "voice": 0.5, "words": 0.6}) == "words"
    assert e.lead_of("fear", verdicts, {"face": 0.1, "voice": 0.2, "words": 0.1}) is None
    assert e.lead_of("anger", {"face": "anger", "voice": "angry"}, {"face": 0.5, "voice": 0.7}) == "voice"
    assert e.lead_of("anger", {"face": "anger"}, {"face": 1.0}) is None


def test_others_are_likely_known_and_few():
    scores = {"anger": 0.4, "bored": 0.2, "fear": 0.18, "sad": 0.16, "disgust": 0.05}
    assert e.others_of("anger", scores) == ("fear", "sad")


# ---- checking -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cues", [ALL, FACE_ONLY])
def test_the_readings_own_sentences_pass_their_check(cues):
    assert e.check_rationale(e.plain_rationale(cues), cues) == []


def test_more_of_the_readings_own_sentences_pass():
    picture = Cues(label="fear", confidence="low", face=(FaceCue(start=0, end=0, label="fear", strength="low"),),
                   absent=("voice", "words"), still=True, abstained=True)  # fmt: skip
    other = Cues(label="bored", confidence="high", words=WordsCue(label="neutral", quote="whatever"),
                 absent=("face", "voice"))  # fmt: skip
    for cues in (picture, other):
        assert e.check_rationale(e.plain_rationale(cues), cues) == []


@pytest.mark.parametrize(
    "text",
    [
        "The person appears happy. The mouth opens into a smile from 1.5 s, and there was no voice to listen to.",
        "The person appears happy: from 1.5 s to 8.0 s the face smiles. There were no words or voice.",
        "The person appears happy. The face smiles, but there is no voice, words or text.",
        "The speaker appears happy, as the cheeks show.",
        "The person appears happy. Without a voice and without words, this rests on the face alone.",
    ],
)
def test_a_grounded_rationale_passes(text):
    assert e.check_rationale(text, FACE_ONLY) == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "empty"),
        ("The person appears happy from <t3>.", "unfilled"),
        ("The person appears happy.<|user|>", "unfilled"),
        ("The person appears sad.", "not happiness"),
        ("The clip shows a room.", "does not state"),
        ("The person appears happy. The person is happy.", "only what appears"),
        ("The person appears happy at 4.0 s.", "4.0 s"),
        ("The person appears happy and the voice is bright.", "the voice"),
        ("The person appears happy, says the transcript.", "the words"),
        ("The person appears happy: “so glad”.", "not the quote"),
        ("The person appears happy. From 1.5 s the face looks sad.", "face appears sad"),
    ],
)
def test_what_is_not_grounded_is_found(text, problem):
    problems = e.check_rationale(text, FACE_ONLY)
    assert len(problems) >= 1
    assert any(problem in one for one in problems)


def test_an_answer_to_another_question_need_not_name_the_label():
    text = "A voice that can be heard, if it pointed elsewhere, could change this."
    assert e.check_rationale(text, FACE_ONLY, must_state=False) == []
    assert e.check_rationale(text, FACE_ONLY) != []
    assert e.check_rationale("The person appears sad.", FACE_ONLY, must_state=False) != []


def test_every_answer_of_the_instruction_data_passes():
    from random import Random

    from emollama.phrases import KINDS
    from emollama.prompt import Slots
    from train.builders.cues import random_cues

    rng = Random(5)
    for _ in range(60):
        cues = random_cues(rng)
        for kind, entry in KINDS.items():
            text = Slots.of(cues).fill(entry.answer(cues, rng))
            assert e.check_rationale(text, cues, must_state=kind == "why") == [], text


def test_a_quoted_word_is_not_taken_for_a_claim():
    cues = Cues(label="anger", confidence="low", words=WordsCue(label="anger", quote="your face is happy"),
                absent=("face", "voice"))  # fmt: skip
    assert e.check_rationale("The person appears angry: the words “your face is happy” point there.", cues) == []


def test_a_missing_face_and_words_are_found_too():
    cues = Cues(label="anger", confidence="low", absent=("face", "words"),
                voice=VoiceCue(start=0, end=1, label="anger", pitch="low", loudness="low", rate="low"))  # fmt: skip
    problems = e.check_rationale("The person appears angry: the brows are down and the words are harsh.", cues)
    assert len(problems) == 2


def test_further_times_and_the_transcript_may_be_told_to_the_checker():
    text = "The person appears happy: at 4.4 s the mouth is at its widest."
    assert "4.4 s, which was not measured" in e.check_rationale(text, FACE_ONLY)[0]
    assert e.check_rationale(text, FACE_ONLY, times=[4.4]) == []
    words = replace(FACE_ONLY, words=WordsCue(label="happiness", quote="go on"), absent=("voice",))
    text = "The person appears happy: the words “Tell me more” point there."
    assert "“Tell me more”" in e.check_rationale(text, words)[0]
    assert e.check_rationale(text, words, words="Oh, tell me more and go on!") == []
    assert e.check_rationale(text, words, words="Tell us more!") != []
