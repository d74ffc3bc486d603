import io
import json
from dataclasses import replace

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from scipy import signal

from emollama.encoders.voice import VoiceEncoder
from emollama.errors import DatasetError, InputError
from emollama.labels import EMODB_6
from emollama.prosody import FUNCTIONAL_NAMES, measure, measure_frames
from emollama.types import Audio
from eval.parts.emodb import evaluate
from train.loop import run
from train.recipes import nano_voice as recipe

RATE = 16_000
EMOTIONS = (*EMODB_6, "boredom")


def speech(seed, seconds=1.0):
    rng = np.random.default_rng(seed)
    t = np.arange(int(seconds * RATE)) / RATE
    phase = np.cumsum(rng.uniform(110, 260) * (1 + 0.1 * np.sin(2 * np.pi * 1.5 * t))) / RATE
    pulses = np.diff(np.floor(phase), prepend=0.0)
    sound = signal.lfilter([1.0], [1.0, -1.8, 0.87], pulses) * (0.1 + np.sin(2 * np.pi * 2.5 * t) ** 2)
    return (0.3 * sound / np.abs(sound).max()).astype(np.float32)


def flac(samples):
    file = io.BytesIO()
    with av.open(file, "w", format="flac") as container:
        stream = container.add_stream("flac", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray((samples[None] * 32767).astype(np.int16), format="s16", layout="mono")
        frame.rate = RATE
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return file.getvalue()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    (folder / "speech").mkdir()
    rows = [
        {
            "name": f"{speaker}{emotion}", "speaker": speaker, "sex": "female", "sentence": "a01", "emotion": emotion,
            "sample_rate": RATE, "seconds": 1.0, "flac": flac(speech(10 * i + j)),
        }
        for i, speaker in enumerate(("03", "08", "15"))
        for j, emotion in enumerate(EMOTIONS)
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), folder / "speech" / "emodb.parquet")
    return folder


@pytest.fixture(scope="module")
def config(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    options = recipe.VoiceOptions(
        data=str(data), cache=str(folder / "copies"), copies=2, num_members=1, width=16, num_layers=1, num_heads=2,
        hidden=8, crop_frames=60, folds=(("03",), ("08",)),
    )  # fmt: skip
    return replace(
        recipe.nano_voice(), task=options, run_dir=str(folder / "voice"), export_dir=str(folder / "export"), epochs=1,
        batch_size=8, validate_every_epochs=1,
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(config):
    result = run(config, config.task.build(config))
    assert result.steps == 2
    return result


def test_two_steps_make_a_model_that_reads(trained, config):
    assert {"uar", "uar_03", "uar_08", "war", "uar_spectral", "uar_prosodic"} <= set(trained.metrics)
    encoder = VoiceEncoder.load(trained.export / "voice.safetensors")
    audio = Audio(samples=speech(99))
    readings, features = encoder.read(audio, measure(audio))
    assert readings.labels == EMODB_6
    assert features.tokens.shape == (1, 6 + len(FUNCTIONAL_NAMES))
    assert len(encoder.members) == config.task.num_members  # the folds' networks are not shipped


def test_the_run_leaves_out_of_fold_opinions(trained):
    opinions = json.loads((trained.run_dir / "oof.json").read_text())
    logs = opinions["log_probabilities"]
    assert set(logs) == {f"{speaker}{emotion}" for speaker in ("03", "08") for emotion in EMOTIONS}
    assert np.exp(list(logs.values())).sum(1) == pytest.approx(np.ones(len(logs)), abs=1e-3)
    with np.load(trained.run_dir / "functionals.npz") as stored:
        assert stored["standardised"].shape == (21, len(FUNCTIONAL_NAMES))
        assert list(stored["functional_names"]) == list(FUNCTIONAL_NAMES)


def test_the_exported_model_can_be_scored(trained, data):
    figures = evaluate(data, model=trained.export)
    assert figures["recordings"] == 18
    assert 0 <= figures["uar"] <= 1


def test_a_network_learns_nothing_from_the_speakers_it_leaves_out(config):
    task = config.task.build(config)
    torch.manual_seed(0)
    model = task.build_model()
    batch = task.batches(epoch=0, seed=0)[0]
    only = np.flatnonzero(task.corpus.speakers[batch.rows] == "03")
    index = torch.from_numpy(only)
    theirs = batch._replace(
        **{name: getattr(batch, name)[index] for name in ("mel", "contours", "functionals", "targets")},
        rows=batch.rows[only],
    )
    assert len(only) >= 2
    task.loss(model, theirs)[0].backward()
    without, with_, final = model
    assert without.held_out == ("03",)
    assert all(p.grad is None for p in without.parameters())
    assert all(any(p.grad is not None for p in m.parameters()) for m in (with_, final))


def test_batches_are_the_same_for_the_same_seed_and_never_hold_boredom(config):
    task = config.task.build(config)
    first, again, other = (task.batches(epoch=e, seed=3)[1] for e in (0, 0, 1))
    assert torch.equal(first.mel, again.mel)
    assert not torch.equal(first.mel, other.mel)
    assert "boredom" not in task.corpus.emotions[first.rows]


def test_copies_are_measured_once(config, monkeypatch):
    config.task.build(config)
    monkeypatch.setattr(recipe, "describe", lambda *_: pytest.fail("measured again"))
    config.task.build(config)


@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_stretching_changes_the_tempo_and_not_the_pitch(factor):
    sound = speech(1, seconds=2.0)
    changed = recipe.stretch(sound, factor)
    assert len(changed) / len(sound) == pytest.approx(1 / factor, rel=0.03)
    before, after = (measure_frames(s) for s in (sound, changed))
    pitch = [np.median(f.pitch_hz[f.voiced]) for f in (before, after)]
    assert pitch[1] == pytest.approx(pitch[0], rel=0.05)


def test_altered_copies_are_still_voices():
    for seed in range(6):
        changed = recipe.alter(speech(2), np.random.default_rng(seed))
        assert np.isfinite(changed).all()
        assert measure(Audio(samples=changed)).segments


def test_the_temperature_is_found():
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.standard_normal((4000, 6))).float()
    truth = torch.multinomial((logits / 2).softmax(1), 1)[:, 0].numpy()
    assert recipe.fit_temperature(logits.log_softmax(1).numpy(), truth) == pytest.approx(2, rel=0.15)


def test_what_cannot_be_trained_is_said(config, tmp_path):
    with pytest.raises(InputError, match="copies"):
        recipe.VoiceOptions(copies=0)
    with pytest.raises(DatasetError, match="not there"):
        replace(config.task, data=str(tmp_path)).build(config)
    everyone = replace(config.task, folds=(("03", "08", "15"),))
    with pytest.raises(InputError, match="no speaker"):
        everyone.build(replace(config, task=everyone)).build_model()
