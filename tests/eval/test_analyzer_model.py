"""The shipped analyzer as it is evaluated: nano itself, on clips made here."""

from __future__ import annotations

import dataclasses
import shutil
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emollama.abaw.heads import Plan, TunedHeads
from emollama.adapter import AdapterInfo, base_digest
from emollama.analyze import Analyzer
from emollama.encoders.frame_head import FrameHead
from emollama.errors import InputError
from emollama.labels import GOEMOTIONS_28, NANO_LABELS
from emollama.types import Clip, FaceReadings, Frames, Transcript
from eval.ablation import variants
from eval.analyzer_model import AnalyzerModel, remember
from eval.ask import Given, give, keep, modalities_of
from eval.run import EvalOptions, evaluate
from eval.scoring import ScoreSettings
from eval.series import affect_at, labels_at
from eval.task import Item
from eval.tasks import load_task
from tests.eval.toy import same_origin, toy_task

SAMPLE = Path(__file__).parents[2] / "emollama" / "assets" / "sample"


@pytest.fixture(scope="module")
def model() -> AnalyzerModel:
    return AnalyzerModel.load("nano")


@pytest.fixture(scope="module")
def sample() -> Clip:
    item = Item(id="sample", gold="x", clip=SAMPLE / "sample.mp4", end=2.0)
    return dataclasses.replace(give(item).clip, transcript=Transcript(text="I am so happy today!"))


def words(text: str, **fields: Any) -> Given:
    return give(Item(id="w", gold="x", transcript=text, **fields))


def test_a_label_is_what_the_analyzer_says(model: AnalyzerModel) -> None:
    task = toy_task(labels=("happy", "sad", "angry"), score="iemocap")
    answer = model.answer(words("I am so happy, this is wonderful!"), task)
    seen = Analyzer.load("nano").analyze(None, transcript="I am so happy, this is wonderful!", labels=task.labels)
    assert answer.prediction == seen.emotion.label == "happy"
    assert answer.probabilities == pytest.approx(dict(seen.emotion.scores))
    assert answer.abstained == seen.emotion.abstained


def test_names_of_one_emotion_are_asked_once(model: AnalyzerModel) -> None:
    answer = model.answer(words("The train leaves at nine."), toy_task(labels=("neutral", "calm", "happy", "sad")))
    assert answer.probabilities is not None
    assert set(answer.probabilities) == {"neutral", "calm", "happy", "sad"}
    assert answer.probabilities["calm"] == 0.0
    assert answer.prediction == "neutral"


def test_several_labels_are_the_open_vocabulary_where_it_holds_them(model: AnalyzerModel) -> None:
    text = "Thank you so much, I love it!"
    task = toy_task(score="goemotions", asks="labels", labels=GOEMOTIONS_28)
    answer = model.answer(words(text), task)
    assert "gratitude" in answer.prediction
    opened = model.answer(words(text), toy_task(score="emer", asks="open")).prediction
    assert answer.prediction == opened
    other = model.answer(words(text), dataclasses.replace(task, labels=("joy", "anger", "boredom")))
    assert other.probabilities is not None
    top = max(other.probabilities.values())
    assert set(other.prediction) == {name for name, p in other.probabilities.items() if p >= top / 2}


def test_a_valence_is_told_on_the_scale_of_the_data_set(model: AnalyzerModel) -> None:
    given = words("I am so happy, this is wonderful!", meta={"valence_limit": 5.0})
    answer = model.answer(given, toy_task(score="mer2023_multi", labels=("happy", "sad", "neutral")))
    affect = model.answer(given, toy_task(score="mosi", asks="affect")).prediction
    assert answer.prediction["label"] == "happy"
    assert answer.prediction["valence"] == pytest.approx(5 * affect["valence"])
    assert affect["valence"] > 0


def test_a_choice_is_the_likeliest_text(model: AnalyzerModel) -> None:
    task = toy_task(score="emobench_m", asks="choice")
    choices = ("The person appears sad.", "The person appears happy.")
    given = words("I am so happy, this is wonderful!", question="What does the person feel?", choices=choices)
    answer = model.answer(given, task)
    assert answer.prediction == "B"
    assert answer.probabilities is not None
    assert sum(answer.probabilities.values()) == pytest.approx(1.0)
    swapped = words("I am so happy, this is wonderful!", question="What does the person feel?", choices=choices[::-1])
    assert model.answer(swapped, task).prediction == "A"
    with pytest.raises(InputError, match="1 choices"):
        model.answer(words("x", choices=("one",)), task)


def test_a_rationale_is_a_text_with_labels(model: AnalyzerModel) -> None:
    answer = model.answer(words("I hate this!"), toy_task(score="emer", asks="rationale"))
    assert answer.prediction["text"] == answer.text
    assert "appears" in answer.prediction["text"]
    assert answer.prediction["labels"]


def test_nothing_to_judge_is_abstained_and_nothing_at_all_is_an_error(model: AnalyzerModel) -> None:
    grey = Frames(images=np.full((1, 200, 200, 3), 90, np.uint8), times=np.zeros(1), source_fps=None, is_still=True)
    given = Given(item=Item(id="g", gold="sad"), clip=Clip(name="g", seconds=0.0, frames=grey))
    answer = model.answer(given, toy_task())
    assert (answer.prediction, answer.abstained) == (None, True)
    with pytest.raises(InputError, match="neither picture, sound nor words"):
        model.answer(Given(item=given.item, clip=Clip(name="g", seconds=0.0)), toy_task())


def test_action_units_are_refused_before_the_run(model: AnalyzerModel) -> None:
    with pytest.raises(InputError, match="has no tuned head for action units"):
        model.check(load_task("abaw_au"))


def test_action_units_of_every_frame_are_decided_by_tuned_thresholds(sample: Clip, tmp_path: Path) -> None:
    for part in (SAMPLE.parent / "nano").iterdir():
        (tmp_path / part.name).symlink_to(part)
    weight = np.random.default_rng(0).normal(scale=0.3, size=(12, 256)).astype(np.float32)
    thresholds = (0.01, *[0.5] * 10, 0.99)
    head = FrameHead(task="au", reads="embeddings", weights=(weight,), biases=(np.zeros(12),), thresholds=thresholds)
    TunedHeads(task="au", face=head, plan=Plan(width=2, thresholds=thresholds)).save(tmp_path / "face.heads" / "au")
    model = AnalyzerModel.load(str(tmp_path))
    model.check(load_task("abaw_au"))
    readings = model.analyzer.understand(sample).readings[0]
    times = [float(readings.times[0]), float(readings.times[3]), 1e3]
    gold = {"frames": [f"{t}" for t in times], "times": times, "values": [[0] * 12] * 3}
    answer = model.answer(Given(item=Item(id="s", gold=gold), clip=sample), load_task("abaw_au"))
    flags = (readings.units > np.array(thresholds)).astype(int)
    assert answer.prediction == flags[[0, 3, -1]].tolist()
    assert 0 < flags[:, 1:11].mean() < 1
    assert answer.notes == {"frames_interpolated": 1}


def test_every_frame_of_a_series_is_answered(model: AnalyzerModel, sample: Clip) -> None:
    times = [0.0, 0.1, 0.33, 1.2, 1.9]
    gold = {"frames": [f"{t}" for t in times], "times": times, "values": ["neutral"] * 5}
    given = Given(item=Item(id="s", gold=gold), clip=sample)
    labels = model.answer(given, toy_task(score="abaw_expr", asks="series", labels=NANO_LABELS)).prediction
    assert len(labels) == 5
    assert set(labels) <= set(NANO_LABELS)
    affect = model.answer(given, toy_task(score="abaw_va", asks="series")).prediction
    assert all(-1 <= pair["valence"] <= 1 for pair in affect)
    blind = model.answer(keep(given, ("text",)), toy_task(score="abaw_va", asks="series"))
    assert blind.prediction == [None] * 5
    assert blind.notes == {"frames_without_any_face": 5}


def readings() -> FaceReadings:
    return FaceReadings(
        track_id=0,
        times=np.array([1.0, 1.2, 1.4, 3.0]),
        labels=("happiness", "sadness", "surprise"),
        probabilities=np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.2, 0.7], [0.5, 0.1, 0.4]]),
        valence=np.array([0.0, 0.2, 0.4, -0.4]),
        arousal=np.array([0.1, 0.1, 0.1, 0.1]),
    )


def test_frames_between_readings_are_interpolated_and_those_far_from_any_are_counted() -> None:
    times = np.array([0.0, 1.0, 1.1, 1.21, 2.2, 3.1])
    affect, num_far = affect_at(readings(), times, step=0.2)
    assert [pair["valence"] for pair in affect] == pytest.approx([0.0, 0.0, 0.1, 0.21, 0.0, -0.4])
    assert num_far == 2  # 0.0 and 2.2
    labels, _ = labels_at(readings(), times, ("sad", "happy", "bored"), step=0.2)
    assert labels == ["happy", "happy", "sad", "sad", "happy", "happy"]


def test_a_compound_expression_is_the_mean_of_its_two() -> None:
    labels, _ = labels_at(readings(), np.array([1.4, 3.0]), ("happily surprised", "sadly surprised"), step=0.2)
    assert labels == ["sadly surprised", "happily surprised"]


def test_ablation_tracks_and_encodes_a_clip_once(sample: Clip) -> None:
    calls: dict[str, int] = {}
    parts = Analyzer.load("nano").parts

    def counted(name: str, function: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            calls[name] = calls.get(name, 0) + 1
            return function(*arguments, **named)

        return call

    class Reader:
        def __init__(self, name: str, reader: Any) -> None:
            self.read = counted(name, reader.read)

    parts = dataclasses.replace(
        parts,
        track_faces=counted("faces", parts.track_faces),
        measure_voice=counted("prosody", parts.measure_voice),
        face=Reader("face", parts.face),
        voice=Reader("voice", parts.voice),
    )
    model = AnalyzerModel(Analyzer(parts))
    plain = Analyzer.load("nano")
    given = Given(item=Item(id="s", gold="happy"), clip=sample)
    task = toy_task()
    assert modalities_of(sample) == ("visual", "audio", "text")
    model.answer(given, task)
    for variant in variants(task.modalities):
        shown = keep(given, variant.kept)
        answer = model.answer(shown, task)
        seen = plain.understand(shown.clip, labels=task.labels)
        assert answer.prediction == (seen.emotion.label if seen.emotion.label else None)
    assert calls["faces"] == 2  # with the sound and without it: it helps to choose the speaking face
    assert calls["prosody"] == 1
    assert calls.get("voice", 0) <= 1


def test_what_is_remembered_belongs_to_the_clip() -> None:
    calls = []

    def track(frames: Any, *, audio: Any = None, check: Any = None) -> Any:
        calls.append(frames)
        return (len(calls),)

    parts = dataclasses.replace(Analyzer.load("nano").parts, track_faces=track)

    class Pictures:
        pass

    tracker = remember(parts).track_faces
    first, second = Pictures(), Pictures()
    assert tracker(first, audio=None) == tracker(first, audio=None) == (1,)  # type: ignore[arg-type]
    assert tracker(second, audio=None) == (2,)  # type: ignore[arg-type]
    assert tracker(first, audio=None) == (1,)  # type: ignore[arg-type]
    calls.clear()
    gone = weakref.ref(second)
    del second
    assert gone() is None  # a clip that is done is not held on to


def test_an_adapter_names_its_base(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no adapter folder"):
        AnalyzerModel.load("nano", base="nano")
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match="does not name its base"):
        AnalyzerModel.load(str(tmp_path))


def test_an_adapter_folder_is_a_model_of_its_own(tmp_path: Path, model: AnalyzerModel) -> None:
    nano = SAMPLE.parent / "nano"
    folder = tmp_path / "mine"
    shutil.copytree(nano / "adapter", folder)
    digest = base_digest(nano / "backbone", nano / "tokenizer.json")
    AdapterInfo(base="nano", base_sha256=digest, labels=("happy", "sad")).save(folder)
    mine = AnalyzerModel.load(str(folder))
    assert mine.name == "nano-mine"
    assert mine.describe()["adapter"] == "mine"
    assert mine.describe()["weights_sha256"] != model.describe()["weights_sha256"]
    given, task = words("I am so happy, this is wonderful!"), toy_task()
    assert mine.answer(given, task).prediction == "happy"


@pytest.fixture
def data(tmp_path: Path, media: type) -> Path:
    """FER+, EmoDB and GoEmotions in miniature, as their tables lie in the raw data folder."""
    from tests.eval.tasks.miniatures import emodb, ferplus, goemotions

    for build in (ferplus, emodb, goemotions):
        build(tmp_path / "data", media)
    return tmp_path / "data"


@pytest.mark.parametrize("name", ["ferplus", "emodb", "goemotions"])
def test_nano_runs_its_three_sets_the_same_twice_and_resumed(
    name: str, data: Path, tmp_path: Path, model: AnalyzerModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    same_origin(monkeypatch)
    task = load_task(name)
    options = EvalOptions(score=ScoreSettings(num_resamples=20))

    def kept(folder: Path) -> dict[str, Any]:
        document = evaluate(task, model, data, folder, dataclasses.replace(options, resume=folder.exists())).document
        return {key: value for key, value in document.items() if key != "latency"}

    first = kept(tmp_path / "first")
    assert kept(tmp_path / "second") == first
    assert first["counts"]["failed"] == 0
    assert first["n"] == 2
    answers = tmp_path / "second" / "predictions.jsonl"
    answers.write_text(answers.read_text().splitlines(keepends=True)[0])
    assert kept(tmp_path / "second") == first
