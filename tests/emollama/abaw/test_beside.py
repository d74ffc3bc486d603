"""Heads beside a face model: a track is told as a submission tells its frames; what does not fit is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from emollama.abaw.adaptive_rate import AdaptiveRate
from emollama.abaw.answers import answer_frames
from emollama.abaw.beside import TunedFace, heads_beside, over_time, with_heads
from emollama.abaw.heads import Plan, TunedHeads
from emollama.datasets.frame_scores import FrameScores
from emollama.encoders.face import FaceEncoder, FaceModel, preprocess
from emollama.encoders.face_models import FaceModelConfig
from emollama.encoders.frame_head import WIDTHS, FrameHead
from emollama.encoders.onnx_face import OnnxFaceEncoder, export_onnx
from emollama.errors import CheckpointError
from emollama.labels import ABAW_8, ABAW_UNITS
from emollama.timeline import segments, to_csv, to_json

FRAMES = np.array([1, 2, 3, 5, 6, 9, 10, 11, 12, 16])  # of a video at 30 a second, with holes
TIMES = 7.0 + (FRAMES - 1) / 30.0
THRESHOLDS = tuple(np.linspace(0.3, 0.7, 12).round(2).tolist())
PLANS = {
    "expr": Plan(width=1, head=(0.6,), thresholds=(0.2, 0.1, 0.3, 0.1, 0.2, 0.1, 0.1, 2.0), trust=0.377),
    "va": Plan(smoothing="gaussian", width=1.5, head=(0.7, 0.4)),
    "au": Plan(width=3, thresholds=THRESHOLDS),
}
READS = {"expr": "embeddings", "va": "scores", "au": "embeddings"}


def faces(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (count, 7, 7, 3), np.uint8).repeat(8, axis=1).repeat(8, axis=2)


@pytest.fixture(scope="module")
def encoder() -> FaceEncoder:
    torch.manual_seed(0)
    model = FaceModel(FaceModelConfig().at_debug_size())
    with torch.no_grad():
        for _ in range(40):  # statistics with which one face differs from another
            model.train()(preprocess(faces(12), model.config))
        model.head.weight.mul_(8.0)
    return FaceEncoder(model, name="small")  # which reads mirror images, too


def heads_for(task: str, *, width: int | None = None, **changes) -> TunedHeads:
    width = width or {"scores": 10, "embeddings": 16}[READS[task]]
    weight = np.random.default_rng(3).normal(scale=4.0, size=(WIDTHS[task], width)).astype(np.float32)
    weight -= weight.mean(axis=1, keepdims=True)
    face = FrameHead(
        task=task, reads=READS[task], weights=(weight,), biases=(np.zeros(WIDTHS[task], np.float32),),
        thresholds=THRESHOLDS if task == "au" else (),
    )  # fmt: skip
    return TunedHeads(task=task, face=face, **{"plan": PLANS[task], **changes})


@pytest.fixture
def folder(encoder, tmp_path) -> Path:
    encoder.save(tmp_path / "face.safetensors", dtype=torch.float32)
    for task in PLANS:
        heads_for(task).save(tmp_path / "face.heads" / task)
    return tmp_path


def test_a_track_is_told_as_a_submission_tells_its_frames(folder):
    plain = FaceEncoder.load(folder / "face.safetensors")
    tuned = with_heads(plain, folder / "face.safetensors")
    assert isinstance(tuned, TunedFace)
    readings, features = tuned.read(faces(10), TIMES, 4)
    before, tokens, straight = plain.read_straight(faces(10), TIMES, 4)
    assert np.array_equal(features.tokens, tokens.tokens)  # what the backbone reads does not change
    assert not np.allclose(plain.embed(faces(10)).embedding, straight.embedding)  # mirror images are not in it
    kept = {"v": FrameScores(video="v", frames=FRAMES, scores=straight.scores, embeddings=straight.embedding)}
    last = {"v": int(FRAMES[-1])}
    answers = {task: answer_frames(heads_for(task), kept, last).answers["v"][FRAMES - 1] for task in PLANS}
    assert np.stack([readings.valence, readings.arousal], axis=1) == pytest.approx(answers["va"], abs=1e-6)
    assert readings.action_units == ABAW_UNITS
    assert np.array_equal(readings.units > np.array(readings.unit_thresholds), answers["au"].astype(bool))
    assert 0.0 < answers["au"].mean() < 1.0
    told = [ABAW_8.index(readings.labels[k]) for k in readings.probabilities.argmax(axis=1)]
    assert told == answers["expr"].tolist()  # with a divisor that lets nothing be "other"
    assert len(set(told)) > 1
    assert readings.probabilities.sum(axis=1) == pytest.approx(np.ones(10))
    assert not np.allclose(readings.valence, before.valence)


def test_sure_frames_are_the_models_own(folder):
    """The frame filter: 0 trusts the model everywhere, 1 nowhere."""
    encoder = FaceEncoder.load(folder / "face.safetensors")
    told = []
    for trust in (0.0, 1.0, None):
        plan = replace(PLANS["expr"], trust=trust, width=0)
        heads_for("expr", plan=plan).save(folder / "face.heads" / "expr")
        told.append(with_heads(encoder, folder / "face.safetensors").read(faces(10), TIMES, 0)[0].probabilities)
    own = encoder.read_straight(faces(10), TIMES, 0)[2].scores[:, [5, 0, 2, 3, 4, 6, 7]]
    assert told[0].argmax(axis=1).tolist() == own.argmax(axis=1).tolist()
    assert np.array_equal(told[1], told[2])
    assert told[0].argmax(axis=1).tolist() != told[1].argmax(axis=1).tolist()


def test_a_window_lasts_as_long_at_every_frame_rate():
    plan = Plan(width=15, fps=30.0)  # half a second on either side
    curve = {}
    for rate in (30, 10, 5):
        times = np.arange(0, 4, 1 / rate)
        curve[rate] = dict(zip(times.round(6), over_time(plan, times, np.sin(times)[:, None])[:, 0], strict=True))
    for time in (1.0, 2.0, 3.0):
        expected = np.mean(np.sin(time + np.arange(-15, 16) / 30))
        assert [curve[rate][time] for rate in (30, 10, 5)] == pytest.approx([expected] * 3, abs=3e-3)
    assert over_time(plan, np.array([2.0]), np.ones((1, 2))).tolist() == [[1.0, 1.0]]  # a picture


def test_segments_tell_which_units_are_there(folder):
    tuned = with_heads(FaceEncoder.load(folder / "face.safetensors"), folder / "face.safetensors")
    readings, _ = tuned.read(faces(10), TIMES, 0)
    times = np.arange(10) * 0.4
    units = np.zeros((10, 12))
    units[:4, 0], units[:5, 1], units[:, 2] = 1.0, 1.0, THRESHOLDS[2]  # for less than half, for half, not above
    first = np.tile(np.eye(7)[0], (10, 1))
    flicker = first.copy()
    flicker[4] = np.eye(7)[1]
    steady = replace(readings, times=times, units=units, probabilities=first)
    (segment,) = segments(steady)
    assert segment.active_units == ("AU2",)
    assert json.loads(to_json([segment]))[0]["active_units"] == ["AU2"]
    assert to_csv([segment]).splitlines()[0].endswith(",active_units")
    assert to_csv([segment]).splitlines()[1].endswith(",AU2")
    (plain,) = segments(replace(steady, unit_thresholds=()))
    assert plain.active_units is None
    assert "active_units" not in to_csv([plain])
    # what the heads smoothed is not smoothed again
    shown = [len(segments(replace(steady, probabilities=flicker, is_smooth=smooth))) for smooth in (True, False)]
    assert shown == [3, 1]


def test_one_head_for_units_alone_brings_its_thresholds_and_its_window(encoder, tmp_path):
    encoder.save(tmp_path / "face.safetensors", dtype=torch.float32)
    head = replace(heads_for("au").face, half_width=3)
    head.save(tmp_path / "face.au.safetensors")
    loaded = FaceEncoder.load(tmp_path / "face.safetensors")
    alone, _ = with_heads(loaded, tmp_path / "face.safetensors").read(faces(10), TIMES, 0)
    (tmp_path / "face.heads").mkdir()
    heads_for("au").save(tmp_path / "face.heads" / "au")
    with pytest.raises(CheckpointError, match=r"two heads for action units lie beside face\.safetensors; keep"):
        with_heads(loaded, tmp_path / "face.safetensors")
    for file in tmp_path.glob("face.au.*"):
        file.unlink()
    loaded = FaceEncoder.load(tmp_path / "face.safetensors")
    folder, _ = with_heads(loaded, tmp_path / "face.safetensors").read(faces(10), TIMES, 0)
    assert np.array_equal(alone.units, folder.units)
    assert alone.unit_thresholds == folder.unit_thresholds == THRESHOLDS


def test_a_graph_is_read_by_the_same_heads(folder):
    encoder = FaceEncoder.load(folder / "face.safetensors")
    export_onnx(encoder, folder / "face.onnx")
    graph = with_heads(OnnxFaceEncoder.load(folder / "face.onnx", threads=1), folder / "face.onnx")
    ours, _ = with_heads(encoder, folder / "face.safetensors").read(faces(10), TIMES, 0)
    theirs, _ = graph.read(faces(10), TIMES, 0)
    assert theirs.units == pytest.approx(ours.units, abs=1e-3)
    assert theirs.valence == pytest.approx(ours.valence, abs=1e-3)


def test_without_heads_a_model_stays_as_it_is(encoder, tmp_path):
    assert with_heads(encoder, tmp_path / "face.safetensors") is encoder
    assert heads_beside(tmp_path / "face.safetensors") == {}


def test_what_does_not_belong_there_is_refused_by_name(folder, encoder):
    path = folder / "face.safetensors"
    (folder / "face.heads" / "emi").mkdir()
    with pytest.raises(CheckpointError, match=r"face\.heads holds emi; allowed: a folder each for expr, va, au"):
        heads_beside(path)
    (folder / "face.heads" / "emi").rmdir()
    (folder / "face.heads" / "va" / "plan.json").unlink()
    with pytest.raises(CheckpointError, match=r"va holds no plan\.json"):
        heads_beside(path)
    sound = FrameHead(task="va", reads="sound", weights=(np.zeros((2, 5)),), biases=(np.zeros(2),))
    rate = AdaptiveRate(strides=(10, 1), thresholds=(0.5,))
    other = FaceEncoder(FaceModel(replace(FaceModelConfig().at_debug_size(), has_affect=False)), name="other")
    seven = FaceModelConfig(labels=ABAW_8[:7]).at_debug_size()
    for model, task, heads, message in (
        (encoder, "au", heads_for("va"), "are heads for va; allowed: au"),
        (encoder, "va", heads_for("va", sound=sound), "listen, too; allowed: heads of the face alone"),
        (encoder, "expr", heads_for("expr", plan=Plan(rate=rate)), "have an adaptive frame rate"),
        (encoder, "au", heads_for("au", width=20), "read 20 numbers; its embeddings are 16: train them on this model"),
        (other, "va", heads_for("va"), "read 10 numbers; its scores are 8"),
        (other, "va", TunedHeads(task="va"), "the model gives no valence and arousal"),
        (FaceEncoder(FaceModel(seven), name="seven"), "au", heads_for("au"), "want a model of anger, contempt"),
        (
            FaceEncoder(FaceModel(replace(FaceModelConfig().at_debug_size(), action_units=("AU1",))), name="units"),
            "au", heads_for("au"), "outputs of its own read action units",
        ),
    ):  # fmt: skip
        with pytest.raises(CheckpointError, match=message):
            TunedFace(model, {task: heads})
