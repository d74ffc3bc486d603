"""Fine-tuning on a manifest: order, balance, dropout, validation, and a run whose adapter answers."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from emollama.analyze import Analyzer
from emollama.errors import DatasetError, InputError
from emollama.manifest import Sample, read_manifest, write_manifest
from train.clip_batch import similar_lengths
from train.clip_task import ClipOptions, ClipTask, set_apart
from train.config import TrainConfig, override
from train.loop import run
from train.recipes import load_recipe
from train.trainees import preset_of


@pytest.fixture
def make_task(make_manifest: Callable[..., Path], feature_cache: Path, tmp_path: Path) -> Callable[..., ClipTask]:
    def make(source: Path | None = None, *, overrides: tuple[str, ...] = (), **options: Any) -> ClipTask:
        path = source or make_manifest()
        config = override(load_recipe("debug"), [f"run_dir={tmp_path / 'run'}", *overrides])
        given = {"manifest": str(path), "cache": str(feature_cache), "valid_share": 0.3, **options}
        config = dataclasses.replace(config, task=dataclasses.replace(config.task, **given))
        return config.task.build(config)

    return make


def test_two_steps_give_an_adapter_that_the_service_loads(make_task: Callable[..., ClipTask]) -> None:
    task = make_task()
    result = run(task.config, task)
    assert result.steps == 2
    assert {"macro_f1", "accuracy", "nll", "replay_loss", "loss"} <= set(result.metrics)
    assert result.export is not None
    analyzer = Analyzer.load("nano", adapter=result.export)
    answer = analyzer.analyze(None, transcript="Nothing ever happens here.")
    assert set(answer.emotion.scores) == {"boredom", "happiness"}
    assert len(answer.rationale.split()) > 10


@pytest.mark.parametrize("recipe", ["align", "instruct"])
def test_the_recipes_train_what_they_say(recipe: str, make_manifest: Callable[..., Path], feature_cache: Path) -> None:
    config = override(
        load_recipe(recipe), [f"task.manifest={make_manifest(clips=1, texts=3)}", f"task.cache={feature_cache}"]
    )
    trained = {name for name, p in config.task.build(config).build_model().named_parameters() if p.requires_grad}
    assert any(name.startswith("projectors.") for name in trained)
    assert any("lora_" in name for name in trained) == (recipe == "instruct")
    assert not [name for name in trained if "lora_" not in name and not name.startswith("projectors.")]


def test_the_label_loss_falls_and_the_base_is_not_forgotten(make_task: Callable[..., ClipTask]) -> None:
    task = make_task(overrides=("batch_size=8",), replay_share=0.2)
    model = task.build_model()
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    with torch.no_grad():
        before = task.replay_loss(model.eval())
    labels = []
    for epoch in range(12):
        model.train()
        for batch in task.batches(epoch=epoch, seed=0):
            loss, figures = task.loss(model, batch)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            labels.append(float(figures.get("label_loss", labels[-1] if labels else 0.0)))
    assert sum(labels[-4:]) < 0.5 * sum(labels[:4])
    with torch.no_grad():
        after = task.replay_loss(model.eval())
    assert before is not None
    assert after is not None
    assert after < before + 0.1


def test_an_epoch_is_the_same_for_the_same_seed_and_any_batch_can_be_made_alone(
    make_task: Callable[..., ClipTask],
) -> None:
    task = make_task(overrides=("batch_size=2",), modality_dropout=0.5)
    listed = list(task.batches(epoch=1, seed=3))
    again = task.batches(epoch=1, seed=3)
    last = len(again) - 1
    assert len(listed) == len(again)
    assert torch.equal(again[last].inputs.input_ids, listed[last].inputs.input_ids)
    assert task.slots(epoch=1, seed=3) == task.slots(epoch=1, seed=3)
    assert task.slots(epoch=1, seed=3) != task.slots(epoch=2, seed=3)


def test_every_slot_is_in_exactly_one_batch(make_task: Callable[..., ClipTask]) -> None:
    task = make_task(overrides=("batch_size=3",), replay_share=0.0)
    batches = task.batches(epoch=0, seed=1)
    assert sum(len(batch.label_at) for batch in batches) == len(task.slots(epoch=0, seed=1))


def test_rare_classes_come_more_often_when_asked_to(tmp_path: Path, make_task: Callable[..., ClipTask]) -> None:
    rows = [Sample(id=f"m{n}", transcript=f"many {n}", label="boredom") for n in range(18)]
    rows += [Sample(id=f"f{n}", transcript=f"few {n}", label="happiness") for n in range(2)]
    write_manifest(tmp_path / "skewed.jsonl", rows)

    def counted(balance: float) -> Counter[str | None]:
        task = make_task(tmp_path / "skewed.jsonl", valid_share=0.0, replay_share=0.0, balance=balance)
        task.prepare()
        chosen = [slot for epoch in range(40) for slot in task.slots(epoch=epoch, seed=0)]
        return Counter(task.known["train"][slot].sample.top_label for slot in chosen if slot is not None)

    as_they_come, alike = counted(0.0), counted(1.0)
    assert as_they_come["boredom"] == 9 * as_they_come["happiness"]
    assert alike["boredom"] == pytest.approx(alike["happiness"], rel=0.2)


def test_modality_dropout_leaves_something_and_leaves_something_out(make_task: Callable[..., ClipTask]) -> None:
    task = make_task(modality_dropout=0.5)
    rng = Random(0)
    drawn = {task._kept(("face", "voice", "words"), rng) for _ in range(200)}
    assert () not in drawn
    assert ("face", "voice", "words") in drawn
    assert ("voice",) in drawn
    assert {task._kept(("voice",), rng) for _ in range(20)} == {("voice",)}


def test_validation_is_set_apart_by_speaker(tmp_path: Path) -> None:
    rows = [
        Sample(id=f"{speaker}-{n}", transcript=f"{speaker} says {n}", label=("a", "b")[n % 2], speaker=speaker)
        for speaker in "pqrstu"
        for n in range(4)
    ]
    write_manifest(tmp_path / "m.jsonl", rows)
    train, valid = set_apart(read_manifest(tmp_path / "m.jsonl"), share=0.2, seed=0)
    assert not {one.speaker for one in train} & {one.speaker for one in valid}
    assert len(train) + len(valid) == 24
    assert valid
    alone = [row.model_copy(update={"speaker": "p"}) for row in rows]
    write_manifest(tmp_path / "one.jsonl", alone)
    train, valid = set_apart(read_manifest(tmp_path / "one.jsonl"), share=0.25, seed=0)
    assert len(valid) == pytest.approx(6, abs=2)
    assert all(one.speaker == "p" for one in valid)


def test_what_is_exported_has_the_figures_of_its_own_weights(
    make_task: Callable[..., ClipTask], tmp_path: Path
) -> None:
    task = make_task()
    model = task.build_model().eval()
    with torch.no_grad():
        first = task.validate(model)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.mul_(0.5)
        task.export(model, tmp_path / "other")
    info = json.loads((tmp_path / "other" / "emollama.json").read_text())
    assert info["figures"]["nll"] != pytest.approx(first["nll"], abs=1e-6)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"manifest": ""}, "manifest is empty"),
        ({"labels": "anger,fear"}, "'boredom' of"),
        ({"model": "mega"}, "unknown model 'mega'"),
    ],
)
def test_wrong_options_are_named(make_task: Callable[..., ClipTask], options: dict[str, Any], said: str) -> None:
    with pytest.raises((InputError, DatasetError), match=said):
        make_task(**options)


@pytest.mark.parametrize(
    ("name", "value"), [("valid_share", 1.0), ("balance", 2.0), ("bits", 3), ("replay_share", -0.1)]
)
def test_values_are_checked(name: str, value: float) -> None:
    with pytest.raises(InputError, match=name):
        ClipOptions(**{name: value})


def test_a_manifest_of_one_label_is_refused(tmp_path: Path, make_task: Callable[..., ClipTask]) -> None:
    write_manifest(tmp_path / "one.jsonl", [Sample(id=str(n), transcript=f"x {n}", label="glad") for n in range(4)])
    with pytest.raises(DatasetError, match="the only label"):
        make_task(tmp_path / "one.jsonl")


def test_samples_that_teach_nothing_are_left_out_and_a_set_of_them_is_refused(
    tmp_path: Path, make_task: Callable[..., ClipTask], caplog: pytest.LogCaptureFixture
) -> None:
    rows = [Sample(id=str(n), transcript=f"x {n}", label=("glad", "bored")[n % 2], split="train") for n in range(4)]
    rows.append(Sample(id="numbers", transcript="y", valence=0.5, arousal=0.1, split="train"))
    write_manifest(tmp_path / "some.jsonl", rows)
    task = make_task(tmp_path / "some.jsonl", valid_share=0.0)
    assert "numbers" not in {one.id for one in task.samples["train"]}
    assert "'numbers'" in caplog.text
    write_manifest(tmp_path / "none.jsonl", rows[-1:])
    with pytest.raises(DatasetError, match=r"learns from.*give them a label"):
        make_task(tmp_path / "none.jsonl")


def test_without_labelled_validation_the_last_weights_are_exported(
    tmp_path: Path, make_task: Callable[..., ClipTask]
) -> None:
    turns = [{"role": "user", "content": "How?"}, {"role": "assistant", "content": "Flat and dull."}]
    write_manifest(
        tmp_path / "talk.jsonl",
        [Sample.model_validate({"id": str(n), "transcript": f"x {n}", "messages": turns}) for n in range(4)],
    )
    task = make_task(tmp_path / "talk.jsonl", overrides=("monitor=macro_f1:max", "max_steps=1"))
    task.prepare()
    result = run(task.config, task)
    assert task.config.export == "last"
    assert result.export is not None
    analyzer = Analyzer.load("nano", adapter=result.export)
    assert "happiness" in analyzer.labels  # no labels were taught: the base's


def test_stretches_of_one_recording_are_all_trained_on(make_manifest: Callable[..., Path]) -> None:
    train, valid = set_apart(read_manifest(make_manifest(clips=4, texts=0)), share=0.2, seed=0)
    assert (len(train), valid) == (4, ())


def test_the_config_survives_json(make_task: Callable[..., ClipTask]) -> None:
    document = make_task().config.to_json_dict()
    assert isinstance(document, dict)
    assert document["task"]["lora"]["rank"] == 32
    assert isinstance(load_recipe("instruct"), TrainConfig)


def test_a_loss_in_parts_is_the_loss_of_the_whole(
    make_task: Callable[..., ClipTask], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make_task(overrides=("batch_size=12",), dialogue_share=0.4, replay_share=0.3)
    model = task.build_model().eval()
    batch = task.batches(epoch=0, seed=2)[0]
    parts = batch.parts()
    assert len(parts) > 1
    assert sum(part.num_tokens for part in parts) == batch.num_tokens
    assert sum(part.num_answers for part in parts) == batch.num_answers
    assert sum(part.inputs.input_ids.numel() for part in parts) < batch.inputs.input_ids.numel()
    with torch.no_grad():
        loss, figures = task.loss(model, batch)
        monkeypatch.setattr(type(batch), "parts", lambda self: [self])
        whole, expected = task.loss(model, batch)
    assert float(loss) == pytest.approx(float(whole), rel=1e-5)
    assert set(figures) == set(expected) == {"label_loss", "answer_loss"}


@pytest.mark.parametrize(
    ("lengths", "groups"),
    [
        ([5, 5, 5], [[0, 1, 2]]),
        ([100, 5, 101, 6], [[1, 3], [0, 2]]),
        ([50, 60, 55], [[0, 2, 1]]),
        ([7], [[0]]),
    ],
)
def test_rows_are_grouped_where_padding_costs_more_than_a_pass(lengths: list[int], groups: list[list[int]]) -> None:
    assert similar_lengths(lengths, overhead=40) == groups


def test_a_folder_of_a_model_is_trained_as_nano_is(tmp_path: Path) -> None:
    assert preset_of(str(tmp_path)) == "nano"
    assert preset_of("emollama-8b") == "emollama-8b"
