from __future__ import annotations

from typing import Any

import pytest

from emollama.errors import InputError
from emollama.types import (
    Affect,
    Analysis,
    AudioUse,
    Emotion,
    Evidence,
    ModalityUse,
    TextUse,
    Transcript,
    VisualUse,
)
from eval.claims import absent_claims, check_claims
from eval.companions import (
    JSON_QUESTION,
    ONE_WORD_QUESTION,
    PHRASINGS,
    Told,
    ask_all,
    collect,
    consistency,
    count_sentences,
    count_words,
    is_json,
    is_one_word,
    keeps_voice,
    label_overlap,
)

FACE = (
    Evidence(start=0.0, end=1.5, cue="the face appears neutral (low strength)", reading="face.neutral.probability",
             value=0.5, supports="neutral"),
    Evidence(start=1.5, end=4.0, cue="the face appears sad (high strength), most clearly at 2.2 s",
             reading="face.sadness.probability", value=0.9, supports="sadness"),
)  # fmt: skip
VOICE = (
    Evidence(start=0.4, end=3.2, cue="the voice sounds sad", reading="voice.sadness.probability", value=0.8,
             supports="sadness"),
    Evidence(start=0.4, end=3.2, cue="pitch of 110 Hz (low)", reading="voice.pitch_hz", value=110.0),
    Evidence(start=0.4, end=3.2, cue="loudness of -25 dBFS (medium)", reading="voice.loudness_dbfs", value=-25.0),
    Evidence(start=0.4, end=3.2, cue="2.1 syllables a second (low)", reading="voice.syllables_per_second", value=2.1),
)  # fmt: skip


def analysis(*, voice: bool = True, words: str | None = "It is all gone now") -> Analysis:
    return Analysis(
        id="x",
        model="test",
        adapter=None,
        created=0,
        clip="x.mp4",
        seconds=4.0,
        emotion=Emotion(label="sad", confidence=0.8, abstained=False, scores={"sad": 0.8, "happy": 0.2}),
        open_vocabulary=("grief",),
        affect=Affect(valence=-0.5, arousal=-0.2, source="face"),
        rationale="",
        evidence={
            "visual": FACE,
            "audio": VOICE if voice else (),
            "text": ()
            if words is None
            else (
                Evidence(start=0.0, end=4.0, cue="the words “all gone”", reading="words.occlusion_drop_nats",
                         value=1.0, supports="sadness"),
            ),
        },
        transcript=None if words is None else Transcript(text=words),
        timeline=(),
        faces=(),
        modalities=ModalityUse(
            visual=VisualUse(used=True, frames=20, faces=1),
            audio=AudioUse(used=voice, seconds=4.0, voiced_seconds=2.8 if voice else 0.0),
            text=TextUse(used=words is not None, source=None if words is None else "given"),
        ),
    )  # fmt: skip


GOOD = (
    "The person appears sad. The face looks neutral from 0.0 s to 1.5 s; it turns plainly sad from 1.5 s to 4.0 s. "
    "From 0.4 s to 3.2 s the voice sounds sad, low-pitched, of ordinary loudness and slow. The words “all gone” read "
    "as sad as well, so all of them point the same way."
)


def wrong(text: str, **of: Any) -> list[tuple[str, str]]:
    return [(claim.kind, claim.text) for claim in check_claims(text, analysis(**of)) if not claim.is_supported]


def test_what_was_read_is_supported() -> None:
    claims = check_claims(GOOD, analysis())
    assert [claim for claim in claims if not claim.is_supported] == []
    kinds = [claim.kind for claim in claims]
    assert {kind: kinds.count(kind) for kind in kinds} == {"quote": 1, "time": 5, "verdict": 1, "shown": 4, "level": 3}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("The person appears happy.", [("verdict", "the person: happiness")]),
        ("The face looks angry.", [("shown", "the face: anger")]),
        # sad was read from the face, but not then
        ("The face looks sad from 0.0 s to 1.5 s.", [("shown", "the face: sadness")]),
        ("A change comes at 2.9 s.", [("time", "2.9 s")]),
        ("At 2.2 s the face is at its saddest.", []),
        ("The words “never again” read as sad.", [("quote", "never again")]),
        ("The voice is loud and high-pitched.", [("level", "pitch: high"), ("level", "loudness: high")]),
        ("The voice is neither loud nor soft.", []),
        ("She speaks slowly, in a high voice.", [("level", "pitch: high")]),
        ("The voice does not sound angry.", []),
        ("A trembling lip and wet eyes.", []),
    ],
)
def test_what_was_not_read_is_found(text: str, found: list[tuple[str, str]]) -> None:
    assert wrong(text) == found


def test_evidence_that_is_missing_supports_nothing() -> None:
    assert wrong("The voice sounds sad and low-pitched.", voice=False) == [
        ("shown", "the voice: sadness"),
        ("level", "pitch: low"),
    ]
    assert wrong("The words “all gone” read as sad.", words=None) == [
        ("quote", "all gone"),
        ("shown", "the words: sadness"),
    ]


def test_absent_modalities() -> None:
    assert absent_claims("A trembling voice is all there is.", {"face"}) == ("voice",)
    assert absent_claims("There was no voice to listen to.", {"face"}) == ()
    assert absent_claims("She smiles, and the words “my voice” are warm.", {"words"}) == ("face",)
    assert absent_claims("She smiles.", {"face", "voice", "words"}) == ()


def test_overlap_by_hand() -> None:
    overlap = label_overlap(["happy", "surprised", "calm"], ["joyful", "Glad", "angry", "surprise"])
    # truth {happiness, surprise, neutral}, given {happiness, anger, surprise}: 2 in common, 4 in all
    assert (overlap.precision, overlap.recall) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert (overlap.f1, overlap.jaccard) == (pytest.approx(2 / 3), pytest.approx(0.5))
    nothing = label_overlap(["happy"], [])
    assert (nothing.precision, nothing.recall, nothing.f1, nothing.jaccard) == (0.0, 0.0, 0.0, 0.0)
    with pytest.raises(InputError, match="gold holds no emotion word"):
        label_overlap([], ["happy"])


def test_the_house_voice() -> None:
    assert keeps_voice(GOOD)
    assert count_words("The face — from 0.5 s — lights up .") == 7
    quoting = "The words “No! Stop it. Go!” read as angry. So it seems."
    assert count_sentences(quoting) == 2
    assert not keeps_voice("The person appears sad. The face says so.")
    assert not keeps_voice(" ".join(["sad"] * 40) + ".")
    assert not keeps_voice(GOOD + " " + GOOD)


def test_asked_forms() -> None:
    assert [is_one_word(text) for text in ("sad", "Sad.", " self-conscious ", "no.")] == [True] * 4
    assert [is_one_word(text) for text in ("very sad", "", "sad, I think", "**sad**", "3", "sad\nangry")] == [False] * 6
    assert is_json('{"label": "sad", "rationale": "x"}', keys=("label", "rationale"))
    for text in ('```json\n{"label": "sad"}\n```', '{"label": "sad"', "[1]", '"sad"', "", '{"emotion": "sad"}'):
        assert not is_json(text, keys=("label",))


def test_consistency_by_hand() -> None:
    assert consistency(["sad"] * 5) == 1.0
    assert consistency(["sad", "sadness", "unhappy"]) == 1.0
    assert consistency(["sad", "sad", "sad", "angry", "angry"]) == pytest.approx((6 + 2) / 20)
    assert consistency(["sad", "sad", "sad", None, None]) == pytest.approx(6 / 20)
    assert consistency([None] * 5) == 0.0
    with pytest.raises(InputError, match="answers holds 1"):
        consistency(["sad"])


def test_all_figures_of_two_items() -> None:
    found = collect(
        [
            Told(
                id="a", rationale=GOOD, analysis=analysis(), gold=("sad", "grief"), words=("grief",), one_word="Sad.",
                as_json='{"label": "sad", "rationale": "..."}', phrased=("sad",) * 5, group="s1",
            ),
            Told(
                id="b", rationale="The person is angry. The voice is loud.", analysis=analysis(voice=False),
                gold=("angry",), one_word="The person appears angry.", as_json="anger",
                phrased=("angry", "angry", "sad", "sad", None), group="s2",
            ),
        ]
    )  # fmt: skip
    value = {name: figure.value for name, figure in found.figures.items()}
    assert value["words"] == (count_words(GOOD) + 8) / 2
    assert value["sentences"] == 3.0
    assert value["in_house_voice"] == 0.5
    assert value["hedged"] == pytest.approx(1 / 2)
    assert value["evidence_agreement"] == pytest.approx(14 / 16)
    assert value["claims"] == 8.0
    assert value["absent_modality_claimed"] == 0.5
    # a: words {grief} of {sadness, grief}; b: from the rationale, {anger} of {anger}
    assert value["label_precision"] == 1.0
    assert value["label_recall"] == 0.75
    assert (value["one_word"], value["json"]) == (0.5, 0.5)
    assert value["consistency"] == pytest.approx((1 + 4 / 20) / 2)
    assert value["unanimous"] == 0.5
    assert value["phrasing_unreadable"] == pytest.approx(0.1)
    # chance: sadness 7 of 10, anger 2 of 10
    assert value["kappa"] == pytest.approx((0.6 - 0.53) / (1 - 0.53))
    assert all(figure.n == 2 for figure in found.figures.values())
    assert {key: [claim.text for claim in claims] for key, claims in found.unsupported.items()} == {
        "b": ["the person: anger", "loudness: high"]
    }
    assert found.absent == {"b": ("voice",)}
    for name, figure in found.figures.items():
        if name != "kappa":
            assert figure.low is not None
            assert figure.high is not None
            assert figure.low <= figure.value <= figure.high


def test_a_figure_without_items_is_no_figure() -> None:
    found = collect([Told(id="a", rationale="A kitchen.")])
    assert "evidence_agreement" not in found.figures, "without an analysis nothing can be held against it"
    assert "hedged" not in found.figures
    assert "label_f1" not in found.figures
    assert found.figures["words"].low is None, "one item says nothing of how much items differ"
    assert collect([]).figures == {}
    with pytest.raises(InputError, match="item 'a' is there twice"):
        collect([Told(id="a"), Told(id="a")])


def test_the_analyzer_is_asked_for_all_of_it() -> None:
    asked: list[str] = []

    class Fake:
        def analyze(self, clip: Any, *, labels: Any) -> Analysis:
            import dataclasses

            return dataclasses.replace(analysis(), rationale=GOOD)

        def understand(self, clip: Any, *, labels: Any) -> str:
            return "seen"

        def answer(self, seen: Any, question: str) -> str:
            asked.append(question)
            if question == ONE_WORD_QUESTION:
                return "sad"
            if question == JSON_QUESTION:
                return "no JSON"
            return "The person appears sad." if question == PHRASINGS[0] else "Hard to say."

    told = ask_all(Fake(), None, id="a", labels=("sad", "happy"), gold=("sad",))  # type: ignore[arg-type]
    assert asked == [*PHRASINGS, ONE_WORD_QUESTION, JSON_QUESTION]
    assert told.phrased == ("sad", None, None, None, None)
    assert (told.one_word, told.as_json, told.words) == ("sad", "no JSON", ("grief",))
    assert collect([told]).figures["evidence_agreement"].value == 1.0
