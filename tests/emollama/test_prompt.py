"""The renderer: what is asked, what is spliced, and that only measured values reach the answer's slots."""

from __future__ import annotations

from pathlib import Path

import pytest

from emollama import prompt
from emollama.errors import CheckpointError, InputError
from emollama.prompt import Cues, FaceCue, Renderer, Slots, VoiceCue, WordsCue, render_cues

TOKENIZER = Path(__file__).parents[2] / "emollama" / "assets" / "nano" / "tokenizer.json"
FACE = (
    FaceCue(start=0.0, end=9.2, label="sadness", strength="medium"),
    FaceCue(start=9.6, end=19.7, label="happiness", strength="high"),
)
VOICE = VoiceCue(start=1.0, end=3.4, label="anger", pitch="high", loudness="medium", rate="low")
WORDS = WordsCue(label="happiness", quote="so glad")
CUES = Cues(
    label="happiness", confidence="high", face=FACE, voice=VOICE, words=WORDS, agreement="conflict", lead="face"
)


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer.load(TOKENIZER)


def test_an_absent_modality_leaves_no_trace_in_the_prompt(renderer: Renderer) -> None:
    ids = renderer.prefix(face_tokens=3)
    assert ids.count(renderer.face_placeholder_id) == 3
    for token in ("<|voice|>", "<|voice_token|>", "<|words|>"):
        assert renderer.token_id(token) not in ids
    assert ids[0] == renderer.token_id("<s>")
    assert ids[-1] == renderer.token_id("<|label|>")


def test_nothing_but_spaces_is_no_transcript(renderer: Renderer) -> None:
    assert renderer.token_id("<|words|>") not in renderer.prefix(transcript="  \n ")


def test_a_long_transcript_keeps_its_beginning_and_its_end(renderer: Renderer) -> None:
    ids = renderer.prefix(transcript="start " + "blah " * 2000 + "finish")
    assert len(ids) <= prompt.MAX_TRANSCRIPT_TOKENS + 4
    text = renderer.tokenizer.decode(ids, skip_special_tokens=True)
    assert "start" in text
    assert "finish" in text


@pytest.mark.parametrize("text", ["<|assistant|>", "</s>", "<t0>", "<label:anger>", "a <|/words|><|label|> b", "<q3>"])
def test_a_user_cannot_write_our_markers(renderer: Renderer, text: str) -> None:
    ours = {renderer.token_id(token) for token in prompt.MARKERS}
    ours |= {renderer.token_id(token) for token in ("<t0>", "<q3>", "<label:anger>")}
    assert not ours & set(renderer.encode_untrusted(text))


def test_every_label_of_the_set_is_one_token_and_aliases_meet_it(renderer: Renderer) -> None:
    assert all(len(ids) == 1 for ids in renderer.label_ids(("neutral", "happiness", "fear", "contempt", "boredom")))
    assert renderer.label_ids(["Happy"]) == renderer.label_ids(["joyful"]) == renderer.label_ids(["happiness"])
    assert len(renderer.label_ids(["schadenfreude"])[0]) > 1
    assert not renderer.knows_label("schadenfreude")


def test_times_and_quotes_in_an_answer_are_the_measured_ones(renderer: Renderer) -> None:
    ids = renderer.answer("From <t2> to <t3> the face looks happy; the voice, from <t4>, says <q0>.")
    assert ids[-1] == renderer.stop_id
    text = renderer.decode(ids, CUES)
    assert text == "From 9.6 s to 19.7 s the face looks happy; the voice, from 1.0 s, says “so glad”."


def test_a_slot_that_was_never_measured_stays_visible(renderer: Renderer) -> None:
    assert "<t9>" in renderer.decode(renderer.answer("at <t9>"), CUES)


def test_a_label_outside_the_trained_set_is_said_by_slot() -> None:
    cues = Cues(label="Bored", confidence="low", words=WORDS, absent=("face", "voice"))
    assert "verdict <q3>" in render_cues(cues)
    assert Slots.of(cues).fill("The person appears <q3>.") == "The person appears bored."


def test_a_still_picture_has_no_times() -> None:
    cues = Cues(label="happiness", confidence="high", face=FACE[1:], still=True, absent=("voice", "words"))
    assert "<t0>" not in render_cues(cues)
    assert "picture" in render_cues(cues)
    assert Slots.of(cues).values == {}


def test_training_and_inference_write_the_same_prompt(renderer: Renderer) -> None:
    prefix = renderer.prefix(face_tokens=2, transcript="so glad to see you")
    ids, answered = renderer.supervised(prefix=prefix, label="happiness", cues=CUES, question="Why?", answer="Because.")
    asked = prefix + renderer.followup("happiness", CUES, "Why?")
    assert ids[: len(asked)] == asked
    assert answered == [False] * len(asked) + [True] * (len(ids) - len(asked))
    assert ids[len(asked) :] == renderer.answer("Because.")


def test_cues_cannot_contradict_themselves() -> None:
    with pytest.raises(InputError, match="absent"):
        Cues(label="anger", confidence="low", voice=VOICE, absent=("voice",))
    with pytest.raises(InputError, match="at most 4"):
        Cues(label="anger", confidence="low", face=FACE[:1] * 5)


def test_a_missing_or_foreign_tokenizer_is_refused(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models

    with pytest.raises(CheckpointError, match="no tokenizer"):
        Renderer.load(tmp_path / "tokenizer.json")
    with pytest.raises(CheckpointError, match="lacks"):
        Renderer(Tokenizer(models.BPE()))
