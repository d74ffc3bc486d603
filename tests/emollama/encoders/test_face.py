"""Face models: what they read is shaped, deterministic and the same for every size and light of the same face."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from emollama.encoders import ENCODERS
from emollama.encoders.face import (
    FACE_MODELS,
    FaceEncoder,
    FaceModel,
    FaceModelConfig,
    pool_over_time,
    preprocess,
)
from emollama.errors import CheckpointError, InputError, UnknownNameError


def crops(count: int, size: int = 70, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 255, (count, 7, 7, 3), np.uint8)
    return coarse.repeat(size // 7, axis=1).repeat(size // 7, axis=2)


@pytest.fixture(scope="module")
def encoder() -> FaceEncoder:
    torch.manual_seed(0)
    return FaceEncoder.build("nano-face", debug=True)


def test_a_track_is_read_over_time_and_pooled_into_tokens(encoder):
    times = np.arange(20) * 0.2
    readings, features = encoder.read(crops(20), times, 3)
    assert readings.track_id == 3
    assert readings.labels == encoder.config.labels
    assert readings.probabilities.shape == (20, 8)
    assert readings.probabilities.sum(1) == pytest.approx(np.ones(20), abs=1e-5)
    assert readings.valence.shape == readings.arousal.shape == (20,)
    assert np.abs(readings.valence).max() <= 1
    assert features.encoder == "nano-face"
    assert features.tokens.shape == (8, encoder.token_width)
    assert features.tokens.dtype == np.float32
    assert features.tokens[:, -8:].mean(0) == pytest.approx(np.log(readings.probabilities).mean(0), abs=0.05)


def test_a_batch_reads_as_one_by_one(encoder):
    pictures = crops(5)
    together = encoder.embed(pictures)
    for index in range(5):
        alone = encoder.embed(pictures[index : index + 1])
        assert alone.log_probabilities[0] == pytest.approx(together.log_probabilities[index], abs=1e-4)
        assert alone.embedding[0] == pytest.approx(together.embedding[index], abs=1e-4)
    small = FaceEncoder(encoder.model, name="x", batch_size=2)
    assert small.embed(pictures).va == pytest.approx(together.va, abs=1e-4)


def test_light_size_and_mirror_do_not_change_the_reading(encoder):
    pictures = crops(3, size=70)
    base = encoder.embed(pictures).log_probabilities
    darker = encoder.embed((pictures // 2 + 10).astype(np.uint8)).log_probabilities
    assert darker == pytest.approx(base, abs=0.05)
    assert encoder.embed(pictures[:, :, ::-1]).log_probabilities == pytest.approx(base, abs=1e-4)
    assert encoder.embed(crops(3, size=140)).log_probabilities == pytest.approx(base, abs=0.3)


def test_a_flat_or_empty_track(encoder):
    flat = encoder.embed(np.full((1, 50, 50, 3), 128, np.uint8))
    assert np.isfinite(flat.log_probabilities).all()
    assert encoder.embed(np.zeros((0, 50, 50, 3), np.uint8)).embedding.shape == (0, 16)
    with pytest.raises(InputError, match="0 crops"):
        encoder.read(np.zeros((0, 50, 50, 3), np.uint8), np.zeros(0), 0)
    with pytest.raises(InputError, match="2 crops and 3 times"):
        encoder.read(crops(2), np.zeros(3), 0)


@pytest.mark.parametrize("bad", [np.zeros((2, 48, 48), np.uint8), np.zeros((2, 48, 48, 3), np.float32)])
def test_crops_of_another_kind_are_refused(bad):
    with pytest.raises(InputError, match="uint8"):
        preprocess(bad, FaceModelConfig())


def test_saved_weights_load_to_nearly_the_same_reading(encoder, tmp_path):
    encoder.save(tmp_path / "face.safetensors", figures={"accuracy": 0.5})
    loaded = FaceEncoder.load(tmp_path / "face.safetensors")
    assert loaded.embed(crops(2)).log_probabilities == pytest.approx(
        encoder.embed(crops(2)).log_probabilities, abs=0.01
    )
    assert not any(p.requires_grad for p in loaded.model.parameters())
    assert load_file(tmp_path / "face.safetensors")["head.weight"].dtype == torch.float16
    assert json.loads((tmp_path / "face.json").read_text())["figures"] == {"accuracy": 0.5}


def test_a_checkpoint_that_does_not_fit_is_refused(encoder, tmp_path):
    path = tmp_path / "face.safetensors"
    with pytest.raises(CheckpointError, match=r"face\.json"):
        FaceEncoder.load(path)
    encoder.save(path)
    state = load_file(path)
    del state["head.bias"]
    save_file(state, path)
    with pytest.raises(CheckpointError, match=r"head\.bias"):
        FaceEncoder.load(path)
    path.write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="damaged"):
        FaceEncoder.load(path)
    encoder.save(path)
    document = json.loads(path.with_suffix(".json").read_text())
    document["model"]["colour_space"] = "lab"
    path.with_suffix(".json").write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match="colour_space"):
        FaceEncoder.load(path)


ONE_OF_EACH_SHAPE = list({config: name for name, config in FACE_MODELS.items()}.values())


@pytest.mark.parametrize("name", ONE_OF_EACH_SHAPE)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # timm's own imports
def test_every_named_model_builds_saves_and_loads(name, tmp_path):
    encoder = FaceEncoder.build(name, debug=True, flip=False)
    read = encoder.embed(crops(2))
    assert read.log_probabilities.shape == (2, len(FACE_MODELS[name].labels))
    assert np.isnan(read.va).all() == (not FACE_MODELS[name].has_affect)
    encoder.save(tmp_path / "face.safetensors")
    again = FaceEncoder.load(tmp_path / "face.safetensors", flip=False).embed(crops(2))
    assert again.log_probabilities == pytest.approx(read.log_probabilities, abs=0.05)


def test_hsemotion_models_have_their_published_layout():
    config = FACE_MODELS["enet_b0_8_va_mtl"]
    assert (config.num_outputs, config.size, config.labels[4]) == (10, 224, "happiness")
    assert FACE_MODELS["enet_b2_7"].labels == (
        "anger",
        "disgust",
        "fear",
        "happiness",
        "neutral",
        "sadness",
        "surprise",
    )
    white = preprocess(np.full((1, 10, 10, 3), 255, np.uint8), config)
    assert white.shape == (1, 3, 224, 224)
    assert white[0, :, 0, 0].tolist() == pytest.approx([2.2489, 2.4286, 2.64], abs=1e-3)


def test_nano_is_small():
    assert sum(p.numel() for p in FaceModel(FACE_MODELS["nano-face"]).parameters()) <= 6_000_000


def test_an_unknown_model_lists_the_known_ones():
    with pytest.raises(UnknownNameError, match="nano-face"):
        FaceEncoder.build("resnet")


@pytest.mark.parametrize("fields", [{"size": 4}, {"colour": "sepia"}, {"widths": (8,)}])
def test_a_config_outside_its_range_is_refused(fields):
    with pytest.raises(InputError, match=next(iter(fields))):
        FaceModelConfig(**fields)


def test_pooling_follows_time_not_count():
    values = np.arange(10, dtype=np.float32)[:, None]
    times = np.array([0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 8.0])  # a gap: the face came back at 8 s
    pooled = pool_over_time(values, times)
    assert pooled.shape == (2, 1)
    assert pooled[:, 0].tolist() == [4.0, 9.0]
    assert pool_over_time(values[:3], times[:3])[:, 0].tolist() == [0, 1, 2]
    assert pool_over_time(values, np.zeros(10)).tolist() == [[4.5]]


def test_reading_a_face_with_nano_needs_neither_timm_nor_transformers():
    code = (
        "import sys, numpy as np; from emollama.encoders.face import FaceEncoder;"
        "FaceEncoder.build('nano-face', debug=True).embed(np.zeros((1, 48, 48, 3), np.uint8));"
        "print([m for m in ('timm', 'transformers', 'peft', 'cv2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_registry_knows_it():
    assert ENCODERS["face"].endswith(":FaceEncoder")
