"""Every preset builds tiny, encodes a real clip, runs forward and generates; full sizes are checked without memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from emollama.backbones.frozen import memory_report
from emollama.backbones.llama import build_llama
from emollama.config import PRESETS, ModelConfig, StreamConfig, preset
from emollama.errors import CheckpointError, DependencyError, InputError, UnknownNameError
from emollama.presets import Built, build, build_random, load
from emollama.runtime import Sampling
from emollama.types import Audio, Box, Clip, FaceTrack, Frames


def make_clip(*, seconds: float = 1.5) -> tuple[Clip, FaceTrack]:
    rng = np.random.default_rng(0)
    times = np.arange(12) / 8.0
    images = rng.integers(0, 256, (12, 60, 80, 3), dtype=np.uint8)
    t = np.arange(int(seconds * 16_000)) / 16_000
    voiced = sum(np.sin(2 * np.pi * 150 * k * t) / k for k in range(1, 20)) * (0.2 + 0.1 * np.sin(2 * np.pi * 4 * t))
    clip = Clip(
        name="made.mp4",
        seconds=seconds,
        frames=Frames(images=images, times=times, source_fps=8.0),
        audio=Audio(samples=(voiced * 0.3).astype(np.float32)),
    )
    crops = rng.integers(0, 256, (12, 48, 48, 3), dtype=np.uint8)
    boxes = tuple(Box(x=1, y=1, width=48, height=48) for _ in times)
    return clip, FaceTrack(track_id=0, times=times, boxes=boxes, crops=crops, share=1.0, is_main=True)


@pytest.fixture(scope="module", params=sorted(PRESETS))
def built(request: pytest.FixtureRequest) -> Built:
    return build(request.param, debug=True)


def test_a_clip_becomes_features_a_forward_and_a_reply(built: Built) -> None:
    clip, track = make_clip()
    features = built.encode(clip, track)
    expected = {stream.name for stream in built.config.streams}
    assert set(features) == expected or (built.config.name == "nano" and set(features) == {"face"})
    for name, tokens in features.items():
        stream = built.config.stream(name)
        assert tokens.shape[1] == stream.width
        assert np.isfinite(tokens).all()
    row = built.row(features, "What does this person feel?")
    with torch.inference_mode():
        logits = built.model(built.batch(row))[0, -1]
    runtime = built.runtime()
    prefix = runtime.prefill([row])
    assert torch.allclose(runtime.next_logits(prefix)[0], logits, atol=1e-4)
    reply = list(runtime.decode(prefix, sampling=Sampling(max_tokens=5)))
    assert len(reply) <= 5
    assert isinstance(built.tokenizer.decode(reply), str)


def test_what_the_clip_lacks_is_an_absent_key(built: Built) -> None:
    clip, _ = make_clip()
    bare = Clip(name="bare", seconds=1.0)
    assert built.encode(bare) == {}
    for name in built.encode(clip):
        assert built.config.stream(name).name not in ("face", "temporal")


def test_configs_survive_json(built: Built) -> None:
    assert ModelConfig.from_json_dict(built.config.to_json_dict()) == built.config
    with pytest.raises(CheckpointError, match="has no field colour"):
        ModelConfig.from_json_dict({**built.config.to_json_dict(), "colour": 1})
    with pytest.raises(UnknownNameError, match="stream"):
        built.config.stream("smell")


def test_unknown_presets_and_odd_streams_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="nano"):
        preset("gpt")
    config = PRESETS["nano"]
    with pytest.raises(InputError, match="exactly what the encoders give"):
        ModelConfig(**{**config.__dict__, "streams": config.streams[:1]})
    with pytest.raises(InputError, match="an identifier"):
        StreamConfig(name="a b", modality="audio", width=1, max_tokens=1, placeholder="x")


def test_emotion_llama_has_the_published_sizes() -> None:
    from emollama.backbones.lora import attach_lora
    from emollama.encoders.eva import EVA_G
    from emollama.encoders.video_mae import VIDEO_MAE_LARGE
    from emollama.projectors import build_projector

    config = PRESETS["emotion-llama-7b"]
    model = attach_lora(build_llama(config.backbone, device="meta", dtype=torch.float16), config.lora)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert trained == 33_554_432
    assert sum(parameter.numel() for parameter in model.parameters()) == 6_771_970_048
    with torch.device("meta"):
        sizes = {
            stream.name: sum(p.numel() for p in build_projector(stream.width, 4096, stream.projector).parameters())
            for stream in config.streams
        }
    assert sizes == {
        "patches": 23_072_768, "face": 4_198_400, "temporal": 4_198_400, "audio": 4_198_400, "cls": 5_771_264,
    }  # fmt: skip
    assert EVA_G.num_patches // 4 == 256
    assert VIDEO_MAE_LARGE.num_patches == 1568
    assert sum(stream.max_tokens for stream in config.streams) == 260


def test_emollama_8b_has_the_sizes_of_its_parts() -> None:
    config = PRESETS["emollama-8b"]
    model = build_llama(config.backbone, device="meta", dtype=torch.bfloat16)
    assert sum(parameter.numel() for parameter in model.parameters()) == 8_030_261_248
    assert config.num_frames * (1 + 4 * 4) == config.stream("scene").max_tokens


@pytest.mark.parametrize(
    ("name", "lora", "projectors"), [("emotion-llama-7b", 33_554_432, 41_439_232), ("emollama-8b", 167_772_160, 0)]
)
def test_what_is_trained_of_a_full_size_is_counted_without_memory(name: str, lora: int, projectors: int) -> None:
    model = build_random(name, device="meta")
    assert all(parameter.is_meta for parameter in model.parameters())
    report = memory_report(model)
    own = sum(parameter.numel() for parameter in model.projectors.parameters())
    assert report.trained - own == lora
    assert not projectors or own == projectors
    assert report.frozen_bytes >= 2 * (report.parameters - report.trained)
    with pytest.raises(InputError, match="allowed: 0"):
        build_random(name, bits=3)


def test_loading_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    given = {"projectors": tmp_path / "projectors.safetensors", "placeholder_ids": {"face": 1}}
    with pytest.raises(DependencyError, match=r"llama-3\.1-8b-instruct.*download=True"):
        load("emollama-8b", **given)  # type: ignore[arg-type]
    with pytest.raises(DependencyError, match=r"eva_vit_g\.pth"):
        load("emotion-llama-7b", folders={"llama-2-7b-chat": tmp_path}, **given)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="does not use: eva-clip-g"):
        load("nano", folders={"eva-clip-g": tmp_path}, **given)  # type: ignore[arg-type]
