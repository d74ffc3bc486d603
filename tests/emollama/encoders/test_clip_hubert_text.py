"""The encoders of other people's packages at tiny size: streams, strict loading, what is absent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from emollama.encoders import ENCODERS
from emollama.encoders.clip import ClipEncoder
from emollama.encoders.hubert import HubertEncoder
from emollama.encoders.text import TextEncoder
from emollama.errors import CheckpointError, InputError
from emollama.tensors import write_tensors
from emollama.types import Audio, Transcript


def test_clip_gives_cls_and_a_grid_per_frame() -> None:
    encoder = ClipEncoder.build(debug=True, grid=2)
    frames = np.random.default_rng(0).integers(0, 256, (3, 30, 40, 3), dtype=np.uint8)
    scene = encoder.encode(frames)["scene"]
    assert scene.shape == (3 * (1 + 4), encoder.widths["scene"])
    assert np.allclose(encoder.encode(frames[1:2])["scene"], scene[5:10], atol=1e-5)
    assert encoder.encode(frames[:0]) == {}
    with pytest.raises(InputError, match="grid is 9"):
        ClipEncoder.build(debug=True, grid=9)


def test_clip_weights_load_strictly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from open_clip.transformer import VisionTransformer

    from emollama.encoders import clip

    def tower(architecture: str) -> torch.nn.Module:
        return VisionTransformer(56, 14, 32, 2, 2, 2.0, output_dim=16, output_tokens=True)

    monkeypatch.setattr(clip, "_tower", tower)
    source = tower("any")
    tensors = {f"visual.{name}": tensor for name, tensor in source.state_dict().items()}
    write_tensors(tmp_path / clip.WEIGHTS, {**tensors, "logit_scale": torch.zeros(())})
    loaded = ClipEncoder.load(tmp_path)
    assert torch.equal(loaded.visual.conv1.weight, source.conv1.weight)
    tensors.pop("visual.class_embedding")
    write_tensors(tmp_path / clip.WEIGHTS, tensors)
    with pytest.raises(CheckpointError, match="missing: class_embedding"):
        ClipEncoder.load(tmp_path)


def test_clip_towers_are_open_clips_own() -> None:
    from emollama.encoders.clip import _tower

    with torch.device("meta"):
        visual = _tower("ViT-L-14-quickgelu")
    assert sum(parameter.numel() for parameter in visual.parameters()) == 303_966_208
    with pytest.raises(CheckpointError, match="knows no architecture"):
        _tower("ViT-X")


@pytest.fixture(scope="module")
def hubert() -> HubertEncoder:
    return HubertEncoder.build(debug=True)


def test_hubert_averages_over_time_and_pads_short_sounds(hubert: HubertEncoder) -> None:
    rng = np.random.default_rng(0)
    sound = rng.normal(size=20_000).astype(np.float32)
    vector = hubert.encode(Audio(samples=sound))["audio"]
    assert vector.shape == (1, 32)
    assert np.allclose(hubert.encode(Audio(samples=sound * 0.1))["audio"], vector, atol=1e-3)  # loudness is removed
    assert np.isfinite(hubert.encode(Audio(samples=sound[:100]))["audio"]).all()
    assert hubert.encode(Audio(samples=sound[:0])) == {}
    with pytest.raises(InputError, match="allowed: 16000"):
        hubert.encode(Audio(samples=sound, sample_rate=8_000))


def test_hubert_loads_a_folder_strictly(tmp_path: Path, hubert: HubertEncoder) -> None:
    with pytest.raises(CheckpointError, match="holds no"):
        HubertEncoder.load(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match="is a pickle"):
        HubertEncoder.load(tmp_path)
    hubert.model.save_pretrained(tmp_path)
    sound = Audio(samples=np.random.default_rng(1).normal(size=17_000).astype(np.float32))
    assert np.allclose(HubertEncoder.load(tmp_path).encode(sound)["audio"], hubert.encode(sound)["audio"], atol=1e-5)


def test_text_is_cut_and_embedded() -> None:
    table = torch.randn(300, 4)
    encoder = TextEncoder(lambda text: list(text.encode()), table, max_tokens=3)
    features = encoder.encode(Transcript(text=" hello "))
    assert features is not None
    assert np.allclose(features.tokens, table[list(b"hel")].numpy())
    assert encoder.encode(None) is None
    assert encoder.token_ids(Transcript(text="  ")) == []
    with pytest.raises(InputError, match="embedding table"):
        TextEncoder(lambda text: [1]).encode(Transcript(text="a"))
    with pytest.raises(InputError, match="max_tokens"):
        TextEncoder(lambda text: [1], max_tokens=0)


def test_every_encoder_is_where_the_table_says() -> None:
    import importlib

    for place in ENCODERS.values():
        module, _, name = place.partition(":")
        assert hasattr(importlib.import_module(module), name)


def test_sound_over_time_is_the_mean_of_its_states_and_long_sound_is_heard_in_pieces(hubert: HubertEncoder) -> None:
    rng = np.random.default_rng(2)
    sound = Audio(samples=rng.normal(size=24_000).astype(np.float32), start=0.5)
    found = hubert.over_time(sound, rate=10.0)
    assert found is not None
    assert np.allclose(found.times, 0.5 + 0.05 + 0.1 * np.arange(15))
    whole = np.concatenate([np.full(5, i) for i in range(15)])[:74]  # 74 states of 20 ms, the first at 12.5 ms
    mean = sum((whole == i).sum() * found.features[i] for i in range(15)) / 74
    assert np.allclose(mean, hubert.encode(sound)["audio"][0], atol=1e-4)
    assert hubert.over_time(Audio(samples=np.zeros(0, np.float32))) is None
    short = hubert.over_time(Audio(samples=sound.samples[:3_000]))
    assert short is not None
    assert short.times.max() < 3_000 / 16_000 + 0.1  # what is padded is not heard
    long = hubert.over_time(Audio(samples=rng.normal(size=16_000 * 42).astype(np.float32)), rate=2.0)
    assert long is not None
    assert np.allclose(long.times, 0.25 + 0.5 * np.arange(84))
    with pytest.raises(InputError, match="rate is 0"):
        hubert.over_time(sound, rate=0)


def test_wav2vec2_loads_without_the_layer_that_recognises_speech_and_nothing_else(tmp_path: Path) -> None:
    from transformers import Wav2Vec2ForCTC

    from emollama.encoders.wav2vec2 import Wav2Vec2Encoder

    config = Wav2Vec2Encoder.build(debug=True).model.config
    Wav2Vec2ForCTC(config).save_pretrained(tmp_path)
    encoder = Wav2Vec2Encoder.load(tmp_path)
    sound = Audio(samples=np.random.default_rng(3).normal(size=20_000).astype(np.float32))
    vector = encoder.encode(sound)["audio"]
    assert vector.shape == (1, encoder.widths["audio"]) == (1, 32)
    assert np.isfinite(vector).all()
    from safetensors.torch import load_file

    tensors = load_file(tmp_path / "model.safetensors")
    spare = next(name for name in tensors if "layers.1.attention.k_proj.weight" in name)
    write_tensors(tmp_path / "model.safetensors", {n: t for n, t in tensors.items() if n != spare})
    with pytest.raises(CheckpointError, match="does not fit the model"):
        Wav2Vec2Encoder.load(tmp_path)


def test_full_sizes_of_the_sounds_encoders() -> None:
    from emollama.encoders.wav2vec2 import Wav2Vec2Encoder

    with torch.device("meta"):
        assert Wav2Vec2Encoder.build().widths == {"audio": 768}
        assert sum(p.numel() for p in Wav2Vec2Encoder.build().model.parameters()) == 94_371_712
