"""The backbone recipe in small: prompts are those of inference, branches do not see each other, a run exports."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from emollama.backbones.llama import load_llama
from emollama.errors import DatasetError
from emollama.labels import NANO_LABELS
from train.config import TrainConfig
from train.loop import run
from train.recipes import load_recipe
from train.recipes.nano_backbone import BackboneOptions, BackboneTask, debug, label_figures
from train.recipes.ngram_teacher import cached_probabilities, out_of_fold_probabilities

SENTENCES = {
    "anger": "I am so angry at you, stop it!",
    "joy": "I love this, thank you so much!",
    "sadness": "I miss her and this is so sad.",
    "surprise": "Wow, I did not expect that!",
    "fear": "I am afraid of the dark.",
    "disgust": "Ew, that is gross.",
    "neutral": "The train leaves at 10.",
}


def write(path: Path, columns: dict[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    names = list(SENTENCES) * 5
    for split in ("train", "dev"):
        write(
            folder / "text" / f"goemotions-{split}.parquet",
            {
                "id": [f"c{n}" for n in range(len(names))],
                "text": [SENTENCES[name] for name in names],
                "labels": [[name] for name in names],
            },
        )
    labels = pa.array([["joy", "surprise"], ["anger"], ["trust"], []], type=pa.list_(pa.string()))
    write(
        folder / "text" / "xed-en.parquet", {"text": ["You win !", "Go away .", "I will .", "Noon ."], "labels": labels}
    )
    ratings = [1.0 + n % 5 for n in range(12)]
    write(
        folder / "text" / "emobank.parquet",
        {
            "id": [f"e{n}" for n in range(12)],
            "split": ["train", "dev"] * 6,
            "text": [f"Sentence {n} of a story." for n in range(12)],
            "v": ratings,
            "a": ratings[::-1],
            "d": ratings,
        },
    )
    return folder


def configured(data: Path, tmp_path: Path, **changes: object) -> TrainConfig:
    config = debug()
    task = dataclasses.replace(config.task, data=str(data), **changes)
    return dataclasses.replace(config, task=task, run_dir=str(tmp_path / "run"), device="cpu")


def test_two_steps_export_a_folder_that_loads(data: Path, tmp_path: Path) -> None:
    config = configured(data, tmp_path)
    result = run(config, config.task.build(config))
    assert result.steps == 2
    assert {"macro_f1", "accuracy", "ece", "nll", "valence_pearson", "arousal_pearson"} <= set(result.metrics)
    assert result.export is not None
    model = load_llama(result.export)
    assert model.config.tie_word_embeddings
    assert torch.isfinite(model(input_ids=torch.tensor([[0, 7, 100, 8, 9]])).logits).all()


def test_a_branch_of_a_batch_scores_like_the_prompt_of_inference(data: Path, tmp_path: Path) -> None:
    config = configured(data, tmp_path, bpe_dropout=0.0, token_dropout=0.0, plain_text=0.0, teacher_share=0.0)
    task = config.task.build(config)
    torch.manual_seed(0)
    model = task.build_model().eval()
    texts = [text for text in task.texts if "open" in text.targets][:3]
    batch = task.text_batch(texts, np.random.default_rng(0))
    with torch.no_grad():
        hidden = model.model(
            input_ids=batch.ids, attention_mask=batch.mask, position_ids=batch.positions, use_cache=False
        ).last_hidden_state
        for name, marker in (("label", "<|label|>"), ("open", "<|open|>")):
            rows, columns, _, _ = batch.asked[name]
            for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
                prompt = task.renderer.modalities(transcript=list(SENTENCES.values())[row])
                prompt = [*prompt, task.renderer.token_id(marker)]
                alone = model.model(input_ids=torch.tensor([prompt]), use_cache=False).last_hidden_state[0, -1]
                torch.testing.assert_close(hidden[row, column], alone, atol=1e-4, rtol=1e-3)


def test_batches_repeat_for_the_same_seed_and_epoch_and_change_with_the_epoch(data: Path, tmp_path: Path) -> None:
    config = configured(data, tmp_path, teacher_share=0.0)
    first, again = (config.task.build(config).batches(epoch=0, seed=3) for _ in range(2))
    later = config.task.build(config).batches(epoch=1, seed=3)
    assert len(first) == len(again) > 2
    assert all(torch.equal(one.ids, two.ids) for one, two in zip(first, again, strict=True))
    assert torch.equal(first[2].ids, list(again)[2].ids)
    assert not all(torch.equal(one.ids, two.ids) for one, two in zip(first, later, strict=False))
    with pytest.raises(IndexError):
        first[len(first)]


def test_training_lowers_the_loss(data: Path, tmp_path: Path) -> None:
    config = configured(data, tmp_path, teacher_share=0.0, num_instructions=0)
    task = config.task.build(config)
    torch.manual_seed(0)
    model = task.build_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    losses = []
    for epoch in range(6):
        for batch in task.batches(epoch=epoch, seed=0):
            loss, figures = task.loss(model, batch)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if "label" in figures:
                losses.append(figures["label"])
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:5])


def test_instruction_batches_learn_the_answers_only(data: Path, tmp_path: Path) -> None:
    config = configured(data, tmp_path)
    task = config.task.build(config)
    batch = task.instruction_batch(np.random.default_rng(1))
    learned = batch.next_ids != -100
    stop, asked = task.renderer.stop_id, task.renderer.token_id("<|assistant|>")
    assert (batch.next_ids[learned] == stop).sum() == len(batch.ids)
    for row in range(len(batch.ids)):
        first = int(learned[row].nonzero()[0])
        assert batch.ids[row, first] == asked


def test_undone_merges_spell_the_same_text(data: Path, tmp_path: Path) -> None:
    config = configured(data, tmp_path, bpe_dropout=0.5)
    task = config.task.build(config)
    ids = np.array(task.renderer.encode("wonderful surprises happened yesterday"))
    split = task._split_merges(ids, np.random.default_rng(0))
    assert len(split) > len(ids)
    assert task.renderer.tokenizer.decode(split.tolist()) == "wonderful surprises happened yesterday"


def test_the_teacher_judges_texts_it_did_not_see() -> None:
    texts = [text for text in SENTENCES.values() for _ in range(10)]
    labels = [["happiness" if name == "joy" else name] for name in SENTENCES for _ in range(10)]
    probabilities = out_of_fold_probabilities(texts, labels, NANO_LABELS, seed=0)
    assert probabilities.shape == (70, 8)
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-4)
    truth = np.array([NANO_LABELS.index(names[0]) for names in labels])
    assert (probabilities.argmax(1) == truth).mean() > 0.9
    assert probabilities[:, NANO_LABELS.index("contempt")].max() == 0


def test_a_kept_teacher_is_read_back_and_other_texts_are_judged_anew(tmp_path: Path) -> None:
    texts, labels = (
        ["so sad", "so sad now", "so mad", "so mad now"] * 5,
        [["sadness"], ["sadness"], ["anger"], ["anger"]] * 5,
    )
    first = cached_probabilities(texts, labels, NANO_LABELS, seed=0, folder=tmp_path)
    (kept,) = tmp_path.iterdir()
    np.save(kept, first + 1)
    np.testing.assert_array_equal(cached_probabilities(texts, labels, NANO_LABELS, seed=0, folder=tmp_path), first + 1)
    cached_probabilities(texts, labels, NANO_LABELS, seed=1, folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_figures_count_contempt_as_wrong_and_average_seven_classes() -> None:
    truth = np.array([0, 1, 2, 3, 4, 5, 6])
    right = np.eye(8)[truth]
    assert label_figures(right, truth)["macro_f1"] == 1.0
    wrong = right.copy()
    wrong[0] = np.eye(8)[7]
    assert label_figures(wrong, truth)["macro_f1"] == pytest.approx(6 / 7)


def test_the_recipe_is_named_and_missing_data_says_what_to_do(tmp_path: Path) -> None:
    config = load_recipe("nano_backbone")
    assert isinstance(config.task, BackboneOptions)
    shape = config.task.build(config).shape
    assert (shape.hidden_size, shape.tie_embeddings, shape.bos_token_id, shape.eos_token_ids) == (256, True, 0, (1,))
    missing = configured(tmp_path / "nowhere", tmp_path)
    task = missing.task.build(missing)
    assert isinstance(task, BackboneTask)
    with pytest.raises(DatasetError, match="EMOLLAMA_DATA"):
        task.batches(epoch=0, seed=0)
