"""Prompts in a frozen open_clip model: where they act, what learns, what is saved, and any labels at all."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from emollama.encoders.clip_backbone import ClipBackbone, ClipShape, build_clip, save_clip, tokenize
from emollama.encoders.clip_prompts import PromptedClip, PromptSettings
from emollama.encoders.emovclip import EmoVclipEncoder, to_pixels
from emollama.errors import CheckpointError, InputError
from emollama.tensors import read_tensors, write_tensors

SHAPE = ClipShape(
    embed_dim=16, image_size=16, patch_size=8, vision_width=32, vision_layers=3, text_width=32, text_layers=3,
    head_width=16, context_length=16,
)  # fmt: skip
LABELS = ("happiness", "deep sorrow", "neutral")


@pytest.fixture(scope="module")
def backbone() -> ClipBackbone:
    torch.manual_seed(0)
    config = SHAPE.to_open_clip()
    return ClipBackbone.of(build_clip(config), config)


def prompted(backbone: ClipBackbone, **settings: object) -> PromptedClip:
    torch.manual_seed(1)
    model = PromptedClip(backbone, dataclasses.replace(PromptSettings.none(), **settings))
    with torch.no_grad():  # far from the small values that they begin with, so that what they do is seen
        for parameter in (*model.vision_prompts.values(), *model.text_prompts.values()):
            parameter.normal_()
    return model


def videos(*, count: int = 2, frames: int = 3) -> torch.Tensor:
    return torch.randn(count, frames, 3, 16, 16, generator=torch.Generator().manual_seed(2))


def pictures(count: int = 5) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 20, 24, 3), dtype=np.uint8)


def test_without_prompts_both_towers_are_open_clips_own(backbone: ClipBackbone) -> None:
    plain = PromptedClip(backbone, PromptSettings.none(text_words="a face of"))
    pixels = videos()[0]
    assert torch.allclose(plain.encode_frames(pixels), backbone.model.encode_image(pixels), atol=1e-5)
    ids = tokenize([f"a face of {label}" for label in LABELS], context_length=16)
    theirs = backbone.model.encode_text(ids, normalize=True)
    assert torch.allclose(plain.encode_labels(LABELS), theirs, atol=1e-5)


@pytest.mark.parametrize("depths", [(0,), (1,), (2,), (0, 2), (0, 1, 2)])
def test_prompts_act_from_their_first_depth_on(backbone: ClipBackbone, depths: tuple[int, ...]) -> None:
    model = prompted(backbone, vision_tokens=2, vision_depths=depths, text_tokens=3, text_depths=depths)
    plain = PromptedClip(backbone, PromptSettings.none())
    pixels = videos()[0]
    seen: dict[str, list[torch.Tensor]] = {"prompted": [], "plain": []}
    for name, one in (("prompted", model), ("plain", plain)):
        hooks = [
            block.register_forward_hook(lambda _, __, out, name=name: seen[name].append(out[:, :5]))
            for block in backbone.model.visual.transformer.resblocks
        ]
        one.encode_frames(pixels)
        for hook in hooks:
            hook.remove()
    same = [torch.allclose(a, b, atol=1e-6) for a, b in zip(seen["prompted"], seen["plain"], strict=True)]
    assert same == [block < depths[0] for block in range(3)]
    assert not torch.allclose(model.encode_labels(LABELS), plain.encode_labels(LABELS), atol=1e-3)


def test_every_prompt_of_every_depth_counts(backbone: ClipBackbone) -> None:
    model = prompted(backbone, vision_tokens=2, vision_depths=(0, 2), text_tokens=2, text_depths=(0, 1))
    pixels = videos()
    for parameter in (*model.vision_prompts.values(), *model.text_prompts.values()):
        before = model(pixels, LABELS)
        with torch.no_grad():
            parameter[-1] *= -1.0
        assert not torch.allclose(model(pixels, LABELS), before, atol=1e-5)


def test_only_prompts_learn_and_the_backbone_stays_what_it_is(backbone: ClipBackbone) -> None:
    model = prompted(
        backbone, vision_tokens=2, vision_depths=(0, 1), text_tokens=2, text_depths=(0, 2), pooling="attention"
    )
    names = {name for name, _ in model.named_parameters()}
    assert names == {
        "vision_prompts.0", "vision_prompts.1", "text_prompts.0", "text_prompts.2", "logit_scale", "frame_score.weight",
    }  # fmt: skip
    before = {name: value.clone() for name, value in backbone.model.state_dict().items()}
    optimizer = torch.optim.SGD(model.train().parameters(), lr=0.1)
    F.cross_entropy(model(videos(), LABELS), torch.tensor([0, 2])).backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in model.parameters())
    assert all(parameter.grad is None for parameter in backbone.model.parameters())
    optimizer.step()
    assert not backbone.model.training
    assert all(torch.equal(value, before[name]) for name, value in backbone.model.state_dict().items())


def test_a_video_is_the_mean_of_its_frames_taken_one_by_one(backbone: ClipBackbone) -> None:
    model = prompted(backbone, vision_tokens=2, vision_depths=(0, 1))
    pixels = videos(count=2, frames=4)
    present = torch.tensor([[True] * 4, [True, True, False, False]])
    pooled = model.encode_videos(pixels, present=present)
    for index, frames in enumerate((4, 2)):
        one_by_one = torch.stack([model.encode_frames(pixels[index, t : t + 1])[0] for t in range(frames)])
        assert torch.allclose(pooled[index], F.normalize(one_by_one.mean(0), dim=0), atol=1e-5)
    with pytest.raises(InputError, match="no frame"):
        model.encode_videos(pixels, present=torch.zeros(2, 4, dtype=torch.bool))


def test_learned_weights_over_time_begin_as_the_mean_and_then_prefer_frames(backbone: ClipBackbone) -> None:
    mean = PromptedClip(backbone, PromptSettings.none())
    model = PromptedClip(backbone, dataclasses.replace(PromptSettings.none(), pooling="attention"))
    pixels = videos(count=1)
    assert torch.allclose(model.encode_videos(pixels), mean.encode_videos(pixels), atol=1e-6)
    frames = F.normalize(model.encode_frames(pixels[0]), dim=-1)
    with torch.no_grad():
        model.frame_score.weight.copy_(200.0 * frames[1:2])
    assert torch.allclose(model.encode_videos(pixels)[0], frames[1], atol=1e-3)


def test_a_context_that_begins_with_words_reads_as_these_words(backbone: ClipBackbone) -> None:
    words = PromptedClip(backbone, PromptSettings.none(text_words="a face that shows"))
    settings = PromptSettings(vision_depths=(), text_tokens=4, text_depths=(0,), text_words="a face that shows")
    learned = PromptedClip(backbone, settings)
    assert torch.allclose(learned.encode_labels(LABELS), words.encode_labels(LABELS), atol=1e-5)
    with pytest.raises(InputError, match="text_tokens is 5; allowed: 4") as caught:
        PromptedClip(backbone, dataclasses.replace(settings, text_tokens=5))
    assert caught.value.field == "text_tokens"


def test_any_label_may_be_asked_for_and_each_stands_alone(backbone: ClipBackbone) -> None:
    encoder = EmoVclipEncoder(prompted(backbone, text_tokens=2, text_depths=(0, 1)), labels=LABELS)
    chances = encoder.classify(pictures(), ("bored stiff", "joy", "trying not to laugh"))
    assert list(chances) == ["bored stiff", "joy", "trying not to laugh"]
    assert sum(chances.values()) == pytest.approx(1.0, abs=1e-5)
    two = encoder.classify(pictures(), ("joy", "bored stiff"))
    assert two["joy"] / two["bored stiff"] == pytest.approx(chances["joy"] / chances["bored stiff"], rel=1e-3)
    assert tuple(encoder.classify(pictures())) == LABELS
    for wrong, field in ((("joy", "joy"), "labels"), (("joy", " "), "labels"), (("very " * 30,), "text")):
        with pytest.raises(InputError, match="allowed") as caught:
            encoder.classify(pictures(), wrong)
        assert caught.value.field == field
    with pytest.raises(InputError, match="no picture"):
        encoder.classify(pictures(0), LABELS)


def test_the_stream_is_the_video_then_its_frames(backbone: ClipBackbone) -> None:
    encoder = EmoVclipEncoder(prompted(backbone, vision_tokens=2, vision_depths=(0,)), max_frames=3)
    stream = encoder.encode(pictures(5))["emotion"]
    assert stream.shape == (1 + 3, encoder.widths["emotion"])
    assert stream.dtype == np.float32
    assert np.allclose(np.linalg.norm(stream, axis=1), 1.0, atol=1e-5)
    pixels = to_pixels(pictures(5)[[0, 2, 4]], 16)
    assert np.allclose(stream[0], encoder.model.encode_videos(pixels[None])[0].numpy(), atol=1e-5)
    assert np.allclose(stream[2], F.normalize(encoder.model.encode_frames(pixels), dim=-1)[1].numpy(), atol=1e-5)
    assert encoder.encode(pictures(0)) == {}


def test_what_is_saved_is_small_and_says_the_same_again(backbone: ClipBackbone, tmp_path: Path) -> None:
    encoder = EmoVclipEncoder(
        prompted(backbone, vision_tokens=2, vision_depths=(0, 2), text_tokens=2, text_depths=(1,)), labels=LABELS
    )
    encoder.save(tmp_path / "prompts")
    assert set(read_tensors(tmp_path / "prompts" / "emovclip.safetensors")) == {
        "logit_scale", "text_prompts.1", "vision_prompts.0", "vision_prompts.2",
    }  # fmt: skip
    save_clip(backbone.model, backbone.config, tmp_path / "backbone")
    loaded = EmoVclipEncoder.load(tmp_path / "prompts", backbone=tmp_path / "backbone")
    assert loaded.labels == LABELS
    assert loaded.classify(pictures()) == pytest.approx(encoder.classify(pictures()), abs=1e-6)
    save_clip(backbone.model, backbone.config, tmp_path / "prompts" / "backbone")
    assert EmoVclipEncoder.load(tmp_path / "prompts").classify(pictures()) == loaded.classify(pictures())


def test_another_backbone_and_damaged_folders_are_refused_by_name(backbone: ClipBackbone, tmp_path: Path) -> None:
    encoder = EmoVclipEncoder(prompted(backbone, vision_tokens=2, vision_depths=(0,)), labels=LABELS)
    encoder.save(tmp_path)
    other = ClipBackbone.of(build_clip(SHAPE.to_open_clip()), SHAPE.to_open_clip())

    def refused(field: str, message: str, *, with_backbone: ClipBackbone = backbone) -> None:
        with pytest.raises(CheckpointError, match=message) as caught:
            EmoVclipEncoder.load(tmp_path, backbone=with_backbone)
        assert caught.value.field == field

    refused("backbone", "were learned on the backbone", with_backbone=other)
    good = json.loads((tmp_path / "emovclip.json").read_text())
    for changes, field, message in (
        ({"format_version": 2}, "format_version", "allowed: 1"),
        ({"extra": 1}, "extra", "too many: extra"),
        ({"settings": {**good["settings"], "layers": 3}}, "settings", "layers"),
        ({"settings": {**good["settings"], "vision_depths": [0, 1]}}, "checkpoint", "missing: vision_prompts.1"),
    ):
        (tmp_path / "emovclip.json").write_text(json.dumps({**good, **changes}))
        refused(field, message)
    (tmp_path / "emovclip.json").write_text(json.dumps(good))
    write_tensors(tmp_path / "emovclip.safetensors", {**encoder.model.state_dict(), "stray": torch.zeros(1)})
    refused("checkpoint", "unexpected: stray")
    (tmp_path / "emovclip.json").unlink()
    refused("checkpoint", "emovclip.json is missing")


def test_a_backbone_is_known_by_its_weights_however_they_are_stored(backbone: ClipBackbone, tmp_path: Path) -> None:
    save_clip(backbone.model, backbone.config, tmp_path)
    assert ClipBackbone.load(tmp_path).sha256 == backbone.sha256
    tensors = read_tensors(tmp_path / "open_clip_model.safetensors")
    write_tensors(tmp_path / "open_clip_model.safetensors", {**tensors, "visual.proj": tensors["visual.proj"] + 1e-3})
    assert ClipBackbone.load(tmp_path).sha256 != backbone.sha256
    tensors.pop("ln_final.bias")
    write_tensors(tmp_path / "open_clip_model.safetensors", tensors)
    with pytest.raises(CheckpointError, match=r"missing: ln_final\.bias"):
        ClipBackbone.load(tmp_path)
    (tmp_path / "open_clip_config.json").unlink()
    with pytest.raises(CheckpointError, match="name open_clip's architecture") as caught:
        ClipBackbone.load(tmp_path)
    assert caught.value.field == "architecture"


def test_open_clip_opens_the_folder_of_a_model_trained_here(backbone: ClipBackbone, tmp_path: Path) -> None:
    import open_clip

    save_clip(backbone.model, backbone.config, tmp_path)
    theirs, _, _ = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}")
    pixels = videos()[0]
    assert torch.allclose(theirs.eval().encode_image(pixels), backbone.model.encode_image(pixels), atol=1e-5)


@pytest.mark.parametrize(
    ("part", "option", "value"),
    [
        ("vision_cfg", "timm_model_name", "convnext_base"),
        ("vision_cfg", "layers", [3, 4, 6, 3]),
        ("vision_cfg", "attentional_pool", True),
        ("text_cfg", "hf_model_name", "roberta-base"),
        ("text_cfg", "no_causal_mask", True),
    ],
)
def test_layouts_that_have_no_place_for_prompts_are_refused_by_field(part: str, option: str, value: object) -> None:
    config = SHAPE.to_open_clip()
    config[part] = {**config[part], option: value}
    with pytest.raises(CheckpointError, match="allowed") as caught:
        build_clip(config)
    assert caught.value.field == f"{part}.{option}"


def test_settings_that_do_not_fit_are_told(backbone: ClipBackbone) -> None:
    for wrong, field in (
        ({"vision_depths": (1, 0)}, "vision_depths"),
        ({"text_depths": (-1,)}, "text_depths"),
        ({"vision_tokens": -1}, "vision_tokens"),
        ({"pooling": "max"}, "pooling"),
    ):
        with pytest.raises(InputError, match="allowed") as caught:
            PromptSettings(**wrong)
        assert caught.value.field == field
    with pytest.raises(InputError, match="allowed: 0 to 2") as caught:
        PromptedClip(backbone, PromptSettings(vision_depths=(0, 3), text_depths=()))
    assert caught.value.field == "vision_depths"
    with pytest.raises(InputError, match="a multiple of patch_size"):
        ClipShape(image_size=50)


def test_in_front_of_a_llama_its_tokens_reach_the_model(
    backbone: ClipBackbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from emollama import presets
    from emollama.config import NANO, EncoderConfig, StreamConfig
    from emollama.types import Box, Clip, FaceTrack

    config = dataclasses.replace(
        NANO,
        encoders=(
            EncoderConfig(
                kind="emovclip", reads="face", streams=("emotion",), weights="own", options={"max_frames": 3}
            ),
        ),
        streams=(
            StreamConfig(name="emotion", modality="visual", width=16, max_tokens=4, placeholder="<|face_token|>"),
        ),
    )
    monkeypatch.setattr(presets, "preset", lambda name: config)
    built = presets.build("own", debug=True)
    box = Box(x=0, y=0, width=20, height=20)
    track = FaceTrack(track_id=0, times=np.arange(5) / 5, boxes=(box,) * 5, crops=pictures(5), share=1.0, is_main=True)
    tokens = built.encode(Clip(name="c", seconds=1.0), track)
    assert tokens["emotion"].shape == (1 + 3, built.config.stream("emotion").width)
    row = built.row(tokens, "a face")
    with torch.no_grad():
        one = built.model(built.batch(row))
        other = built.model(built.batch(built.row({"emotion": -tokens["emotion"]}, "a face")))
    assert not torch.allclose(one, other, atol=1e-4)
    assert built.encode(Clip(name="c", seconds=1.0)) == {}

    prompts = EmoVclipEncoder(prompted(backbone, vision_tokens=1, vision_depths=(1,)), max_frames=3)
    prompts.save(tmp_path)
    save_clip(backbone.model, backbone.config, tmp_path / "backbone")
    (part,) = presets.load_encoders(config, {"own": tmp_path})
    same = part.encode(presets.Seen(clip=Clip(name="c", seconds=1.0), track=track, num_frames=8))
    assert np.allclose(same["emotion"], prompts.encode(pictures(5))["emotion"], atol=1e-5)
