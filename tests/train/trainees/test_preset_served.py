"""A large preset from two steps of training to an answer: `Analyzer.load` of what a job exports, by either engine."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import httpx
import numpy as np
import pytest

from emollama.adapter import AdapterInfo
from emollama.analyze import Analyzer
from emollama.assemble import RuntimeEngine
from emollama.backbones.multi_lora import SharedLlama
from emollama.checkpoint import ASSETS
from emollama.conversation import AnswerForm, ReplyOptions, conversation_of
from emollama.errors import CheckpointError, DependencyError, InputError
from emollama.manifest import Sample
from emollama.media import read_clip
from emollama.paged_parts import PagedChatEngine
from emollama.preset_parts import Bases, is_preset
from emollama.preset_renderer import LABEL_QUESTION, REASON_QUESTION
from emollama.stages import Done, Labelled
from emollama.tensors import read_tensors, write_tensors
from emollama.types import Analysis, Clip
from server.app import create_app
from server.media_worker import InProcess
from server.settings import Settings
from train.clip_task import ClipOptions
from train.loop import run
from train.recipes import load_recipe
from train.trainees import preset as preset_trainee
from train.trainees.preset import PresetTrainee

SAMPLE = ASSETS / "sample" / "sample.mp4"
LABELS = ("happy", "sad", "bored to death")
TEXT = "I could do this all day."
RECIPES = {"emollama-8b": "instruct", "emotion-llama-7b": "emotion_llama_stage1"}


@pytest.fixture(scope="module", params=sorted(RECIPES))
def export(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, feature_cache: Path) -> Path:
    """Two steps of a recipe at debug size over the bundled clip, as a person would train it."""
    folder = tmp_path_factory.mktemp(request.param)
    shutil.copyfile(SAMPLE, folder / "sample.mp4")
    rows = [
        {"id": f"{index}", "clip": "sample.mp4", "start": float(index), "end": index + 2.0, "label": LABELS[index % 3],
         "transcript": TEXT, "split": "train"}
        for index in range(1)
    ]  # fmt: skip
    rows += [
        {"id": f"t{index}", "transcript": TEXT, "label": label, "split": "valid" if index else "train"}
        for index, label in enumerate(LABELS)
    ]
    manifest = folder / "manifest.jsonl"
    header = {"manifest_version": 1, "labels": list(LABELS), "license": "CC0", "name": "toy"}
    manifest.write_text("\n".join(json.dumps(row) for row in (header, *rows)) + "\n")
    config = load_recipe(RECIPES[request.param])
    task = dataclasses.replace(
        config.task, model=request.param, manifest=str(manifest), cache=str(feature_cache), read_workers=1, debug=True
    )
    config = dataclasses.replace(
        config, run_dir=str(folder / "run"), max_steps=2, epochs=2, batch_size=2, accumulate_steps=1,
        learning_rate=3e-2, warmup_steps=0, task=task,
    )  # fmt: skip
    result = run(config, config.task.build(config))
    assert result.export is not None
    return result.export


@pytest.fixture(scope="module")
def clip() -> Clip:
    """The first second and a half of the bundled clip."""
    whole = read_clip(SAMPLE)
    assert whole.frames is not None
    assert whole.audio is not None
    kept = whole.frames.times < 1.5
    frames = dataclasses.replace(whole.frames, images=whole.frames.images[kept], times=whole.frames.times[kept])
    audio = dataclasses.replace(whole.audio, samples=whole.audio.samples[: int(1.5 * 16_000)])
    return dataclasses.replace(whole, seconds=1.5, frames=frames, audio=audio)


@pytest.fixture(scope="module")
def analyzer(export: Path) -> Analyzer:
    return Analyzer.load(export)


@pytest.fixture(scope="module")
def paged(export: Path) -> Iterator[Analyzer]:
    made = Analyzer.load(export, engine="paged")
    yield made
    made.parts.engine.replies.close()  # type: ignore[attr-defined]


def test_what_two_steps_of_training_made_labels_a_clip(analyzer: Analyzer, export: Path, clip: Clip) -> None:
    answer = analyzer.analyze(clip, transcript=TEXT)
    assert tuple(answer.emotion.scores) == LABELS
    assert sum(answer.emotion.scores.values()) == pytest.approx(1.0)
    assert answer.emotion.label in LABELS
    assert answer.modalities.visual.used == bool(answer.timeline)
    assert answer.modalities.text.used
    assert answer.rationale
    info = AdapterInfo.load(export)
    assert info is not None
    assert (answer.model, answer.adapter) == (info.base, "export")
    document = json.loads(json.dumps(answer.to_json_dict()))
    assert document["emotion"]["label"] == answer.emotion.label


def test_scores_are_those_that_validation_measured_while_training(analyzer: Analyzer, export: Path, clip: Clip) -> None:
    """The trainer scores what it trained; the service what it loaded. Same clip, same question, same numbers."""
    info = AdapterInfo.load(export)
    assert info is not None
    trainee = PresetTrainee(ClipOptions(model=info.base, debug=True, adapter=str(export)), LABELS)
    model = trainee.build_model(lora=None, train_projectors=False, seed=0).eval()
    reading = trainee.read(clip)
    sample = Sample(id="a", clip="a.mp4", transcript=TEXT)
    present = trainee.present(sample, reading)
    example = trainee.examples(sample, reading, present=present, rng=Random(0), training=False)
    trained = trainee.label_scores(model, example)[0]
    seen = analyzer.understand(clip, transcript=TEXT, quote=False)
    assert set(seen.features) == set(reading.tokens)
    logs = np.log([seen.emotion.scores[name] for name in LABELS])
    assert logs - logs[0] == pytest.approx(trained - trained[0], abs=2e-3)


def test_answers_are_asked_in_the_first_of_trainings_wordings() -> None:
    questions = json.loads((Path(preset_trainee.__file__).parent / "questions.json").read_text())
    assert questions["label"][0] == LABEL_QUESTION
    assert questions["reason"][0] == REASON_QUESTION


def test_both_engines_answer_alike(analyzer: Analyzer, paged: Analyzer, clip: Clip) -> None:
    assert isinstance(analyzer.parts.engine, RuntimeEngine)
    assert isinstance(paged.parts.engine, PagedChatEngine)
    for source, words in ((clip, TEXT), (clip, None), (None, TEXT)):
        one, other = (each.understand(source, transcript=words) for each in (analyzer, paged))
        assert dict(one.emotion.scores) == pytest.approx(dict(other.emotion.scores), abs=1e-4)
        assert one.cues == other.cues
    marker, stop = analyzer.parts.renderer.token_id("<|label|>"), analyzer.parts.renderer.stop_id
    assert one.cues is not None
    assert one.emotion.label is not None
    ids = [marker, *analyzer.parts.renderer.followup(one.emotion.label, one.cues, "Why?")]
    greedy: dict[str, Any] = {"stop_id": stop, "max_new_tokens": 24, "temperature": 0.0, "seed": 0}
    greedy["banned"] = frozenset()
    replies = [
        list(each.parts.engine.generate(seen.prefix, ids, **greedy)) for each, seen in ((analyzer, one), (paged, other))
    ]
    assert replies[0] == replies[1]
    assert len(replies[0]) > 3
    assert paged.analyze(clip, transcript=TEXT).rationale
    with pytest.raises(InputError, match="paged engine allows: none"):
        next(paged.parts.engine.generate(other.prefix, ids, **greedy, choices=[[5]]))


def test_a_claim_that_nothing_supports_is_replaced(analyzer: Analyzer) -> None:
    """Two steps teach nobody to write; what comes out fails its check and the readings speak instead."""
    answer = analyzer.analyze(None, transcript=TEXT)
    assert any("replaced by sentences made from the readings" in warning for warning in answer.warnings)
    assert answer.rationale.startswith("The person appears")
    assert [item.reading for item in answer.evidence["text"]]


def test_a_callers_own_labels_are_scored_in_the_callers_words(analyzer: Analyzer) -> None:
    answer = analyzer.analyze(None, transcript=TEXT, labels="Fed up, Joy, sadness")
    assert tuple(answer.emotion.scores) == ("Fed up", "Joy", "sadness")
    assert analyzer.analyze(None, transcript=TEXT, labels=["odd", "even"]).affect.valence is None


def test_what_is_absent_is_not_claimed(analyzer: Analyzer, clip: Clip) -> None:
    silent = dataclasses.replace(clip, audio=None)
    seen = analyzer.understand(silent, transcript=None)
    assert seen.cues is not None
    assert seen.cues.voice is None
    assert not any(analyzer.parts.judge.sources[name] == "voice" for name in seen.features)  # type: ignore[union-attr]
    assert seen.evidence["audio"] == ()
    assert seen.cues.face
    nothing = analyzer.analyze(dataclasses.replace(clip, audio=None, frames=None), transcript=None)
    assert nothing.emotion.abstained
    assert nothing.emotion.label is None


def test_it_is_told_stage_by_stage_and_asked_further(analyzer: Analyzer, clip: Clip) -> None:
    events = list(analyzer.stages(clip, transcript=TEXT))
    labelled = next(event for event in events if isinstance(event, Labelled))
    assert isinstance(events[-1], Done)
    assert events[-1].analysis.emotion == labelled.emotion
    talk = conversation_of(analyzer)
    reading = talk.read(clip, transcript=TEXT)
    asked = talk.ask(reading, "What does the voice tell you?")
    said = list(talk.replies(asked, ReplyOptions(max_tokens=16)))
    assert said[-1].finish in ("stop", "length")
    schema = {"type": "object", "properties": {"emotion": {"type": "string", "enum": list(LABELS)}},
              "required": ["emotion"], "additionalProperties": False}  # fmt: skip
    options = ReplyOptions(form=AnswerForm(kind="json_schema", schema=schema))
    asked = talk.ask(reading, "As JSON, please.", options=options)
    document = json.loads("".join(piece.text for piece in talk.replies(asked, options)))
    assert document["emotion"] in LABELS


def test_a_preset_is_told_from_other_models_and_what_it_lacks_is_named(
    export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = AdapterInfo.load(export)
    assert info is not None
    assert is_preset(export)
    assert is_preset(info.base)
    assert not is_preset("nano")
    assert not is_preset(tmp_path)
    named = Analyzer.load(info.base, adapter=export)
    assert tuple(named.analyze(None, transcript=TEXT).emotion.scores) == LABELS
    with pytest.raises(CheckpointError, match="has no projectors of its own"):
        Analyzer.load(info.base)
    other = next(name for name in RECIPES if name != info.base)
    with pytest.raises(CheckpointError, match=f"was trained on '{info.base}', not on '{other}'"):
        Analyzer.load(other, adapter=export)
    with pytest.raises(InputError, match="engine is 'warp'; allowed: auto, lean, paged"):
        Analyzer.load(export, engine="warp")
    with pytest.raises(InputError, match="allowed for this model: auto"):
        Analyzer.load("nano", engine="paged")
    # an adapter of the real base: its backbone and encoders are looked for and the first that is missing is named
    for file in export.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    dataclasses.replace(info, base_sha256="0" * 64).save(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "none"))
    with pytest.raises(DependencyError, match="llama-"):
        Analyzer.load(tmp_path)


def logs_of(answer: Analysis) -> np.ndarray:
    return np.log([answer.emotion.scores[name] for name in LABELS])


def test_adapters_of_one_base_share_it_and_answer_as_those_that_do_not(
    analyzer: Analyzer, export: Path, clip: Clip, tmp_path: Path
) -> None:
    """The second adapter is the first with its update turned round; both answer from one base, side by side."""
    turned = tmp_path / "turned"
    shutil.copytree(export, turned)
    weights = read_tensors(turned / "adapter_model.safetensors")
    write_tensors(turned / "adapter_model.safetensors", {k: -v if "lora_B" in k else v for k, v in weights.items()})
    bases = Bases(shared_from_bytes=0)
    shared = [Analyzer.load(folder, bases=bases) for folder in (export, turned)]
    assert len(bases) == 1
    first, second = (each.parts.engine.runtime for each in shared)  # type: ignore[attr-defined]
    assert first.backbone.layers is second.backbone.layers
    assert shared[0].parts.engine.replies is shared[1].parts.engine.replies  # type: ignore[attr-defined]
    alone = [analyzer, Analyzer.load(turned)]
    answers: list[Any] = [None, None]

    def ask(index: int) -> None:
        answers[index] = shared[index].analyze(clip, transcript=TEXT)

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for answer, each in zip(answers, alone, strict=True):
        wanted = each.analyze(clip, transcript=TEXT)
        assert logs_of(answer) == pytest.approx(logs_of(wanted), abs=2e-3)
        assert answer.rationale == wanted.rationale
    assert logs_of(answers[0]) != pytest.approx(logs_of(answers[1]), abs=0.1)
    # a small base is merged, as nothing is gained by sharing it
    small = Analyzer.load(export, bases=Bases())
    assert not isinstance(small.parts.engine.runtime.backbone, SharedLlama)  # type: ignore[attr-defined]


def test_the_service_answers_with_it_and_loads_a_further_adapter(export: Path, media: Any, tmp_path: Path) -> None:
    """`/analyze` by the trained folder, then by another adapter on the same base, picked by ``model``."""
    shutil.copytree(export, tmp_path / "root" / "second")
    sound = media.wav(tmp_path / "a.wav", samples=media.tone(0.4, hz=220.0)) or tmp_path / "a.wav"
    settings = Settings(
        model=str(export), data_dir=tmp_path / "data", adapter_root=tmp_path / "root", temp_dir=tmp_path
    )  # fmt: skip
    app = create_app(settings, decoder=InProcess())

    async def ask() -> list[httpx.Response]:
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client,
        ):
            while "export" not in app.state.models.names:
                await asyncio.sleep(0.05)
            file, words = {"file": ("a.wav", Path(sound).read_bytes(), "audio/wav")}, {"transcript": TEXT}
            first = await client.post("/analyze", files=file, data=words)
            loaded = await client.post("/v1/load_lora_adapter", json={"lora_name": "second", "lora_path": "second"})
            again = await client.post("/analyze", files=file, data={**words, "model": "second"})
            return [first, loaded, again]

    first, loaded, again = asyncio.run(ask())
    assert [each.status_code for each in (first, loaded, again)] == [200, 200, 200], (first.text, loaded.text)
    assert set(first.json()["emotion"]["scores"]) == set(LABELS)
    assert again.json()["adapter"] == "second"
    assert again.json()["emotion"] == first.json()["emotion"]
