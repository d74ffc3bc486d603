"""nano as a trainee: it reads as the service reads, writes as the service asks, and exports what the service loads."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch

from emollama.adapter import AdapterInfo
from emollama.analyze import Analyzer
from emollama.errors import InputError
from emollama.manifest import ManifestMessage, Sample
from emollama.media import read_clip
from emollama.prompt import Renderer
from tests.train.conftest import SAMPLE_CLIP
from train.clip_batch import collate
from train.clip_task import ClipOptions
from train.trainees import Outcome, Reading
from train.trainees.nano import NanoTrainee

LABELS = ("bored", "happiness", "utter despair")


@pytest.fixture(scope="module")
def trainee() -> NanoTrainee:
    return NanoTrainee(ClipOptions(), LABELS)


@pytest.fixture(scope="module")
def clip():
    clip = read_clip(SAMPLE_CLIP, end=3.0)
    from emollama.types import Transcript

    return dataclasses.replace(clip, transcript=Transcript(text="this is wonderful"))


@pytest.fixture(scope="module")
def reading(trainee: NanoTrainee, clip) -> Reading:
    return trainee.read(clip)


def sample(**fields: object) -> Sample:
    return Sample.model_validate(
        {"id": "a", "clip": "a.mp4", "label": "bored", "transcript": "this is wonderful"} | fields
    )


def written(trainee: NanoTrainee, reading: Reading, one: Sample, *, training: bool = True, present=None, **options):
    given = dataclasses.replace(trainee.options, **options)
    trainee.options, before = given, trainee.options
    try:
        there = trainee.present(one, reading) if present is None else present
        (example,) = trainee.examples(one, reading, present=there, rng=Random(1), training=training)
        return example
    finally:
        trainee.options = before


def test_a_clip_is_read_as_the_service_reads_it(trainee: NanoTrainee, reading: Reading, clip) -> None:
    seen = Analyzer.load("nano").understand(clip)
    assert set(reading.tokens) == set(seen.features) == {"face", "voice"}
    for name, tokens in seen.features.items():
        assert np.array_equal(reading.tokens[name], tokens)
    assert reading.facts["cues"]["voice"]["pitch"] == seen.cues.voice.pitch
    assert trainee.present(sample(), reading) == ("face", "voice", "words")
    assert trainee.present(sample(transcript=None), reading) == ("face", "voice")


def test_the_prompt_is_the_services_own(trainee: NanoTrainee, reading: Reading) -> None:
    example = written(trainee, reading, sample(), training=False)
    renderer: Renderer = trainee.renderer
    expected = renderer.prefix(face_tokens=len(reading.tokens["face"]), voice_tokens=1, transcript="this is wonderful")
    assert list(example.ids) == expected
    assert example.label_at == len(expected) - 1
    alone = written(trainee, reading, sample(), training=False, present=("voice",))
    assert list(alone.ids) == renderer.prefix(voice_tokens=1)
    assert set(alone.features) == {"voice"}


def test_a_label_is_learned_as_a_choice_and_a_spelled_one_as_text_too(trainee: NanoTrainee, reading: Reading) -> None:
    bored = written(trainee, reading, sample(), dialogue_share=0.0, distractor=0.0)
    assert bored.target is not None
    assert bored.asked is not None
    chosen = [token for token, share in zip(trainee.label_token_ids, bored.target, strict=True) if share]
    assert chosen == [trainee.renderer.token_id("<label:boredom>")]
    assert bored.asked.sum() == 3
    assert not any(bored.is_answer)
    spelled = written(trainee, reading, sample(label="utter despair"), dialogue_share=0.0)
    letters = trainee.renderer.label_ids(["utter despair"])[0]
    assert list(spelled.ids[-len(letters) :]) == letters
    assert [token for token, learned in zip(spelled.ids, spelled.is_answer, strict=True) if learned] == letters[1:]


def test_shares_are_learned_as_they_are(trainee: NanoTrainee, reading: Reading) -> None:
    split = written(trainee, reading, sample(label=None, distribution={"bored": 0.75, "happiness": 0.25}))
    assert split.target is not None
    assert sorted(split.target[split.target > 0].tolist()) == pytest.approx([0.25, 0.75])


def test_a_dialogue_of_the_grammar_speaks_of_the_samples_own_label(trainee: NanoTrainee, reading: Reading) -> None:
    example = written(trainee, reading, sample(), dialogue_share=1.0)
    learned = [token for token, is_answer in zip(example.ids, example.is_answer, strict=True) if is_answer]
    assert learned[-1] == trainee.renderer.stop_id
    assert not example.is_answer[0]
    text = trainee.renderer.tokenizer.decode(list(example.ids), skip_special_tokens=False)
    assert "<label:boredom>" in text
    assert "verdict <q3>" in text.replace(" <q3>", " <q3>")  # a word that nano was not taught stands in its slot


def test_messages_of_ones_own_are_learned_to_the_letter(trainee: NanoTrainee, reading: Reading) -> None:
    turns = [
        ("user", "Why?"),
        ("assistant", "She SIGHS; </s> twice."),
        ("user", "And then?"),
        ("assistant", "Nothing."),
    ]
    own = sample(messages=[ManifestMessage(role=role, content=text).model_dump() for role, text in turns])
    example = written(trainee, reading, own)
    learned = [token for token, is_answer in zip(example.ids, example.is_answer, strict=True) if is_answer]
    assert learned.count(trainee.renderer.stop_id) == 2  # one a turn: a user's "</s>" is plain text
    text = trainee.renderer.tokenizer.decode(learned, skip_special_tokens=True)
    assert "SIGHS" in text
    assert "Nothing." in text


def test_every_blur_is_another_and_leaves_the_reading_alone(trainee: NanoTrainee, reading: Reading) -> None:
    before = reading.tokens["voice"].copy()
    rng = Random(3)
    drawn = [trainee._blur_voice(reading.tokens["voice"], rng) for _ in range(3)]
    assert np.array_equal(reading.tokens["voice"], before)
    assert not np.allclose(drawn[0], drawn[1])
    for tokens in drawn:
        assert np.exp(tokens[0, :6]).sum() == pytest.approx(1.0, abs=1e-4)


def test_a_replay_has_an_answer_and_needs_no_clip(trainee: NanoTrainee) -> None:
    example = trainee.replay(Random(5))
    assert example is not None
    assert example.features == {}
    assert any(example.is_answer)
    assert example == trainee.replay(Random(5))


def test_scores_are_the_services_scores(trainee: NanoTrainee, reading: Reading, tmp_path: Path, clip) -> None:
    model = trainee.build_model(lora=trainee.lora, train_projectors=True, seed=0).eval()
    with torch.no_grad():
        example = written(trainee, reading, sample(), training=False)
        scores = trainee.label_scores(model, [example, example])
    trainee.export(model, tmp_path / "adapter", outcome=Outcome(recipe="instruct"))
    analyzer = Analyzer.load("nano", adapter=tmp_path / "adapter")
    engine, renderer = analyzer.parts.engine, analyzer.parts.renderer
    from emollama.parts import PromptRow, Query

    prefix = engine.prefill([PromptRow(ids=list(example.ids[:-1]), features=example.features)])
    query = Query(marker=[renderer.token_id("<|label|>")], options=renderer.label_ids(LABELS))
    (table,) = engine.score(prefix, [query])
    assert scores.shape == (2, 3)
    assert scores[0] == pytest.approx(table[0], abs=0.02)  # the export is kept in half precision


def test_the_export_says_what_it_is(trainee: NanoTrainee, tmp_path: Path) -> None:
    model = trainee.build_model(lora=trainee.lora, train_projectors=True, seed=0)
    scores = np.random.default_rng(0).normal(size=(60, 3))
    outcome = Outcome(
        recipe="instruct", figures={"macro_f1": 0.25}, counts={"train": {"bored": 3}}, license="CC0",
        calibration={"voice": (scores, scores.argmax(1))}, has_messages=True,
    )  # fmt: skip
    trainee.export(model, tmp_path, outcome=outcome)
    info = AdapterInfo.load(tmp_path)
    assert info is not None
    assert (info.labels, info.answers, info.license) == (LABELS, "own", "CC0")
    card = (tmp_path / "ADAPTER_CARD.md").read_text()
    assert "0.2500" in card
    assert "bored 3" in card
    from emollama.calibration import Calibration

    fitted, base = Calibration.load(tmp_path / "calibration.json"), Calibration.load(trainee.assets.calibration)
    assert fitted.subsets["voice"] != base.subsets["voice"]
    assert fitted.subsets["face"] == base.subsets["face"]


def test_fresh_pairs_of_another_rank_are_refused(trainee: NanoTrainee) -> None:
    with pytest.raises(InputError, match="rank 4"):
        trainee.build_model(lora=dataclasses.replace(trainee.lora, rank=4), train_projectors=True, seed=0)


def test_rows_of_different_modalities_share_a_batch(trainee: NanoTrainee, reading: Reading) -> None:
    examples = [
        written(trainee, reading, sample(), present=present, dialogue_share=0.0)
        for present in (("face",), ("voice",), ("words",), ("face", "voice", "words"))
    ]
    batch = collate(examples, pad_id=trainee.pad_id, label_token_ids=trainee.label_token_ids)
    model = trainee.build_model(lora=trainee.lora, train_projectors=True, seed=0).eval()
    with torch.no_grad():
        together = model.head(model.hidden(batch.inputs)[torch.arange(4), batch.label_at])
        for row, example in enumerate(examples):
            one = collate([example], pad_id=trainee.pad_id, label_token_ids=trainee.label_token_ids)
            alone = model.head(model.hidden(one.inputs)[0, one.label_at[0]])
            assert torch.allclose(together[row], alone, atol=1e-3)


def test_messages_without_a_label_follow_what_the_clip_is_read_as(trainee: NanoTrainee, reading: Reading) -> None:
    turns = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "She SIGHS."}]
    example = written(trainee, reading, sample(label=None, messages=turns))
    assert example.target is None
    learned = [token for token, is_answer in zip(example.ids, example.is_answer, strict=True) if is_answer]
    assert trainee.renderer.tokenizer.decode(learned, skip_special_tokens=True).strip() == "She SIGHS."
    text = trainee.renderer.tokenizer.decode(list(example.ids), skip_special_tokens=False)
    first = reading.facts["cues"]["face"][0]["label"]
    assert f"<label:{first}>" in text or "<label:happiness>" in text


def test_numbers_and_open_words_alone_teach_nano_nothing(trainee: NanoTrainee) -> None:
    assert not trainee.teaches(sample(label=None, valence=0.2, arousal=0.1, open_vocabulary=["flat"]))
    assert trainee.teaches(sample())
    assert trainee.teaches(sample(label=None, distribution={"bored": 0.5, "happiness": 0.5}))
