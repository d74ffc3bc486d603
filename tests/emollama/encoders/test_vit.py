"""The plain vision transformer computes what the public implementations compute, and loads strictly."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from emollama.encoders.eva import EVA_G, EvaEncoder, join_patches
from emollama.encoders.face_mae import MAE_LARGE, FaceMaeEncoder
from emollama.encoders.video_mae import VIDEO_MAE_LARGE, VideoMaeEncoder, sample_indices
from emollama.encoders.vit import (
    VisionTransformer,
    load_vit,
    pictures_to_pixels,
    resize_positions,
    shrink,
)
from emollama.errors import CheckpointError, InputError
from emollama.tensors import read_tensors, write_tensors


def randomise(model: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)


def test_mae_is_timms_vit() -> None:
    from timm.models.vision_transformer import VisionTransformer as TimmVit

    ours = VisionTransformer(shrink(MAE_LARGE, image_size=32)).eval()
    randomise(ours)
    theirs = TimmVit(
        img_size=32, patch_size=16, embed_dim=32, depth=2, num_heads=2, mlp_ratio=1.5, num_classes=0, global_pool=""
    ).eval()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    pixels = torch.rand(2, 3, 32, 32)
    assert torch.allclose(ours(pixels), theirs(pixels), atol=1e-5)


def test_eva_is_the_vision_model_of_blip2() -> None:
    from transformers import Blip2VisionConfig, Blip2VisionModel

    ours = VisionTransformer(shrink(EVA_G, image_size=56)).eval()
    randomise(ours)
    theirs = Blip2VisionModel(
        Blip2VisionConfig(
            hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, image_size=56,
            patch_size=14, layer_norm_eps=1e-6,
        )
    ).eval()  # fmt: skip
    renamed = {
        "embeddings.class_embedding": ours.cls_token,
        "embeddings.position_embedding": ours.pos_embed,
        "embeddings.patch_embedding.weight": ours.patch_embed.proj.weight,
        "embeddings.patch_embedding.bias": ours.patch_embed.proj.bias,
    }
    for index, block in enumerate(ours.blocks):
        prefix = f"encoder.layers.{index}"
        renamed |= {
            f"{prefix}.self_attn.qkv.weight": block.attn.qkv.weight,
            f"{prefix}.self_attn.qkv.bias": torch.cat((block.attn.q_bias, torch.zeros(32), block.attn.v_bias)),
        }
        for mine, other in (
            ("attn.proj", "self_attn.projection"), ("norm1", "layer_norm1"), ("norm2", "layer_norm2"),
            ("mlp.fc1", "mlp.fc1"), ("mlp.fc2", "mlp.fc2"),
        ):  # fmt: skip
            module = block.get_submodule(mine)
            renamed |= {f"{prefix}.{other}.weight": module.weight, f"{prefix}.{other}.bias": module.bias}
    report = theirs.load_state_dict(renamed, strict=False)
    assert set(report.missing_keys) == {"post_layernorm.weight", "post_layernorm.bias"}
    assert not report.unexpected_keys
    pixels = torch.rand(1, 3, 56, 56)
    with torch.inference_mode():
        hidden = theirs(pixels, output_hidden_states=True).hidden_states[-1]
        assert torch.allclose(ours(pixels), hidden, atol=1e-5)


def test_video_mae_is_the_encoder_of_transformers() -> None:
    from transformers import VideoMAEConfig, VideoMAEModel

    ours = VisionTransformer(shrink(VIDEO_MAE_LARGE, image_size=32)).eval()
    randomise(ours)
    theirs = VideoMAEModel(
        VideoMAEConfig(
            hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
            image_size=32, patch_size=16, num_frames=4, tubelet_size=2,
            layer_norm_eps=1e-6, qv_bias=True, use_mean_pooling=True,
        )
    ).eval()  # fmt: skip
    names = set(theirs.state_dict())
    renamed = {
        "embeddings.patch_embeddings.projection.weight": ours.patch_embed.proj.weight,
        "embeddings.patch_embeddings.projection.bias": ours.patch_embed.proj.bias,
    }
    for index, block in enumerate(ours.blocks):
        prefix = f"encoder.layer.{index}"
        q, k, v = block.attn.qkv.weight.chunk(3)
        renamed |= {
            f"{prefix}.attention.attention.query.weight": q,
            f"{prefix}.attention.attention.key.weight": k,
            f"{prefix}.attention.attention.value.weight": v,
            f"{prefix}.attention.attention.query.bias": block.attn.q_bias,
            f"{prefix}.attention.attention.value.bias": block.attn.v_bias,
        }
        for mine, other in (
            ("attn.proj", "attention.output.dense"), ("norm1", "layernorm_before"), ("norm2", "layernorm_after"),
            ("mlp.fc1", "intermediate.dense"), ("mlp.fc2", "output.dense"),
        ):  # fmt: skip
            module = block.get_submodule(mine)
            renamed |= {f"{prefix}.{other}.weight": module.weight, f"{prefix}.{other}.bias": module.bias}
    if set(renamed) != names:
        pytest.skip(f"this release of transformers names VideoMAE's parameters otherwise: {sorted(names)[:4]}")
    theirs.load_state_dict(renamed, strict=True)
    pixels = torch.rand(1, 4, 3, 32, 32)
    with torch.inference_mode():
        assert torch.allclose(ours(pixels.transpose(1, 2)), theirs(pixels).last_hidden_state, atol=1e-5)


def test_weights_load_strictly_and_positions_are_resized(tmp_path: Path) -> None:
    small = shrink(EVA_G, image_size=56)
    large = dataclasses.replace(small, image_size=112)
    model = VisionTransformer(small)
    write_tensors(tmp_path / "model.safetensors", model.state_dict())
    assert torch.equal(load_vit(tmp_path, small).pos_embed, model.pos_embed)
    grown = load_vit(tmp_path / "model.safetensors", large)
    assert grown.pos_embed.shape == (1, 65, 32)
    assert torch.equal(grown.pos_embed[:, :1], model.pos_embed[:, :1])
    with pytest.raises(CheckpointError, match="not a square"):
        resize_positions(torch.zeros(1, 12, 32), small)
    tensors = read_tensors(tmp_path / "model.safetensors")
    tensors["head.weight"] = torch.zeros(1)
    write_tensors(tmp_path / "model.safetensors", tensors)
    with pytest.raises(CheckpointError, match=r"unexpected: head\.weight"):
        load_vit(tmp_path, small)


def test_fixed_positions_come_back_after_loading(tmp_path: Path) -> None:
    shape = shrink(VIDEO_MAE_LARGE, image_size=32)
    model = VisionTransformer(shape).eval()
    write_tensors(tmp_path / "v.safetensors", model.state_dict())
    pixels = torch.rand(1, 3, 4, 32, 32)
    assert torch.allclose(load_vit(tmp_path / "v.safetensors", shape)(pixels), model(pixels), atol=1e-6)


def test_four_neighbours_of_a_row_become_one_token() -> None:
    patches = torch.arange(16.0).view(1, 16, 1)
    assert join_patches(patches)[0].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]]
    with pytest.raises(InputError, match="cannot be joined"):
        join_patches(torch.zeros(1, 6, 1))


def test_encoders_give_their_streams() -> None:
    rng = np.random.default_rng(0)
    crops = rng.integers(0, 256, (20, 40, 40, 3), dtype=np.uint8)
    frames = rng.integers(0, 256, (3, 60, 80, 3), dtype=np.uint8)
    eva = EvaEncoder.build(debug=True)
    streams = eva.encode(frames)
    assert {name: tokens.shape for name, tokens in streams.items()} == {"patches": (4, 128), "cls": (1, 32)}
    assert np.array_equal(eva.encode(frames[:1])["cls"], streams["cls"])  # the first frame is the one that is read
    mae = FaceMaeEncoder.build(debug=True)
    whole, halves = mae.encode(crops)["face"], [mae.encode(part)["face"] for part in (crops[:10], crops[10:])]
    assert np.allclose(whole, np.mean(halves, axis=0), atol=1e-5)
    assert VideoMaeEncoder.build(debug=True).encode(crops)["temporal"].shape == (1, 32)
    assert mae.encode(crops[:0]) == VideoMaeEncoder.build(debug=True).encode(crops[:0]) == {}


def test_video_frames_are_pairs_of_neighbours() -> None:
    indices = sample_indices(64).reshape(8, 2)
    assert (indices[:, 1] - indices[:, 0] == 1).all()
    assert (np.diff(indices[:, 0]) > 0).all()
    assert sample_indices(9).tolist() == [0, 1] * 8
    assert sample_indices(1).tolist() == [0, 0] * 8
    assert sample_indices(10).max() <= 9


def test_pictures_are_scaled_and_standardised() -> None:
    white = np.full((1, 10, 20, 3), 255, np.uint8)
    assert torch.allclose(pictures_to_pixels(white, 8), torch.ones(1, 3, 8, 8))
    standard = pictures_to_pixels(white, 10, mean=(0.5,) * 3, std=(0.25,) * 3)
    assert torch.allclose(standard, torch.full((1, 3, 10, 10), 2.0))
    with pytest.raises(InputError, match=r"\[N, H, W, 3\]"):
        pictures_to_pixels(white[0], 8)
    with pytest.raises(InputError, match="multiple of"):
        dataclasses.replace(EVA_G, image_size=450)
