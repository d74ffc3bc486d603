"""From an mp4 to 260 tokens in front of the backbone: every one of Emotion-LLaMA's four encoders runs, none is fed
zeros. Widths are reduced and weights random; what the encoders look at is of the published size and number."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from emollama.chat_prompt import ChatRenderer
from emollama.checkpoint import ASSETS
from emollama.encoders.eva import EVA_G, EvaEncoder
from emollama.encoders.face_mae import MAE_LARGE, FaceMaeEncoder
from emollama.encoders.hubert import HubertEncoder
from emollama.encoders.video_mae import VIDEO_MAE_LARGE, VideoMaeEncoder
from emollama.encoders.vit import VisionTransformer, shrink
from emollama.faces import track_faces
from emollama.media import read_clip
from emollama.model import ModelBatch
from emollama.peak_frame import PeakFrame
from emollama.preset_senses import PresetSenses
from emollama.presets import Part, Seen, _part, assemble_model, build_debug_backbone, build_encoders
from emollama.prosody import measure
from emollama.types import Clip, FaceTrack, Message
from tests.conftest import make_video


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    """A new mp4 of 4 s: the drawn person of the bundled clip, ten pictures a second, and their voice."""
    source = read_clip(ASSETS / "sample" / "sample.mp4", fps=10.0, end=4.0)
    assert source.frames is not None
    assert source.audio is not None
    path = tmp_path_factory.mktemp("path") / "person.mp4"
    images = source.frames.images
    make_video(path, seconds=len(images) / 10, fps=10, images=list(images), audio=source.audio.samples,
               width=images.shape[2], height=images.shape[1])  # fmt: skip
    return read_clip(path, fps=10.0)


@pytest.fixture(scope="module")
def track(clip: Clip) -> FaceTrack:
    assert clip.frames is not None
    return next(track for track in track_faces(clip.frames, audio=clip.audio) if track.is_main)


@pytest.fixture(scope="module")
def parts() -> tuple[Part, ...]:
    """The four encoders, 32 wide and two blocks deep; EVA-CLIP-g sees 448 px, VideoMAE sixteen frames."""
    torch.manual_seed(0)
    config = build_encoders("emotion-llama-7b", debug=True)[0]
    sixteen = dataclasses.replace(shrink(VIDEO_MAE_LARGE, image_size=224), num_frames=VIDEO_MAE_LARGE.num_frames)
    made = {
        "eva": EvaEncoder(VisionTransformer(shrink(EVA_G, image_size=448))),
        "face_mae": FaceMaeEncoder(VisionTransformer(shrink(MAE_LARGE, image_size=224))),
        "video_mae": VideoMaeEncoder(VisionTransformer(sixteen)),
        "hubert": HubertEncoder.build(debug=True),
    }
    return tuple(_part(encoder, made[encoder.kind]) for encoder in config.encoders)


class Watched:
    """What went into a module, by its hook."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.inputs: list[torch.Tensor] = []
        self.handle = module.register_forward_pre_hook(lambda _, given: self.inputs.append(given[0].detach().clone()))


@pytest.fixture
def watched(parts: tuple[Part, ...]) -> Iterator[dict[str, Watched]]:
    found = {part.config.kind: Watched(part.encoder.model) for part in parts}
    yield found
    for each in found.values():
        each.handle.remove()


def test_an_mp4_becomes_260_tokens_in_front_of_the_backbone(
    clip: Clip, track: FaceTrack, parts: tuple[Part, ...], watched: dict[str, Watched]
) -> None:
    config, _, tokenizer = build_encoders("emotion-llama-7b", debug=True)
    sensed = PresetSenses(parts, config, measure_voice=measure).read(clip, track)
    assert {name: tokens.shape for name, tokens in sensed.tokens.items()} == {
        "patches": (256, 4 * 32), "face": (1, 32), "temporal": (1, 32), "audio": (1, 32), "cls": (1, 32),
    }  # fmt: skip
    assert sensed.present == ("face", "voice")
    assert clip.audio is not None
    shapes = {kind: [tuple(given.shape) for given in each.inputs] for kind, each in watched.items()}
    assert shapes["eva"] == [(1, 3, 448, 448)]
    assert shapes["video_mae"] == [(1, 3, 16, 224, 224)]
    assert sum(shape[0] for shape in shapes["face_mae"]) == len(track.crops) > 16
    assert shapes["hubert"] == [(1, len(clip.audio.samples))]
    for each in watched.values():
        assert all(float(given.float().std()) > 0.01 for given in each.inputs)
    frames = watched["video_mae"].inputs[0][0].transpose(0, 1)  # [16, 3, S, S]
    assert len({frame.numpy().tobytes() for frame in frames}) == 16  # sixteen moments, none a copy
    assert all(np.isfinite(tokens).all() and float(np.std(tokens)) > 0 for tokens in sensed.tokens.values())

    chat = ChatRenderer(tokenizer, template="emotion-llama", streams=config.streams)
    model = assemble_model(config, build_debug_backbone(config), placeholder_ids=chat.placeholder_ids)
    counts = {name: len(tokens) for name, tokens in sensed.tokens.items()}
    ids = chat.prompt([Message(role="user", content="Which emotion?")], counts=counts, task="emotion")
    places = torch.isin(torch.tensor(ids), torch.tensor(sorted(chat.placeholder_ids.values())))
    assert int(places.sum()) == 260
    batch = ModelBatch(
        input_ids=torch.tensor([ids]), features={n: [torch.from_numpy(t)] for n, t in sensed.tokens.items()}
    )
    with torch.inference_mode():
        rows = model.embed(batch)[0]
    assert rows.shape == (len(ids), config.backbone.hidden_size)
    # every place holds its own token, none the placeholder's embedding
    words = model.backbone.get_input_embeddings().weight[torch.tensor(ids)]
    assert not torch.isclose(rows[places], words[places], atol=1e-5).all(dim=1).any()
    assert torch.equal(rows[~places], words[~places])


def test_each_encoder_notices_what_it_looks_at_and_nothing_else(
    clip: Clip, track: FaceTrack, parts: tuple[Part, ...]
) -> None:
    def read(seen: Seen) -> dict[str, np.ndarray]:
        return {name: tokens for part in parts for name, tokens in part.encode(seen).items()}

    seen = Seen(clip=clip, track=track, num_frames=1)
    before = read(seen)
    assert clip.frames is not None
    assert clip.audio is not None
    dark = dataclasses.replace(clip.frames, images=clip.frames.images // 4)
    backwards = dataclasses.replace(clip.audio, samples=clip.audio.samples[::-1].copy())
    changes: dict[frozenset[str], Any] = {
        frozenset({"patches", "cls"}): dataclasses.replace(seen, clip=dataclasses.replace(clip, frames=dark)),
        frozenset({"audio"}): dataclasses.replace(seen, clip=dataclasses.replace(clip, audio=backwards)),
        frozenset({"face", "temporal"}): dataclasses.replace(
            seen, track=dataclasses.replace(track, crops=track.crops // 2)
        ),
    }
    for moved, other in changes.items():
        after = read(other)
        assert {name for name in before if not np.array_equal(before[name], after[name])} == moved
    assert set(read(dataclasses.replace(seen, track=None))) == {"patches", "cls", "audio"}
    assert set(read(dataclasses.replace(seen, clip=dataclasses.replace(clip, audio=None)))) == set(before) - {"audio"}


def test_the_peak_frame_is_shown_where_it_is_asked_for(
    clip: Clip, track: FaceTrack, parts: tuple[Part, ...], watched: dict[str, Watched]
) -> None:
    config = build_encoders("emotion-llama-7b", debug=True)[0]
    peak = PeakFrame.load()
    at = peak.time(track)
    assert at is not None
    assert at > track.times[0]
    eva = tuple(part for part in parts if part.config.kind == "eva")
    for finder in (None, peak):
        PresetSenses(eva, config, measure_voice=measure, peak=finder).read(clip, track)
    first, shown = (given.numpy() for given in watched["eva"].inputs)
    assert not np.array_equal(first, shown)
    assert clip.frames is not None
    nearest = int(np.abs(clip.frames.times - at).argmin())
    alone = dataclasses.replace(
        clip,
        frames=dataclasses.replace(
            clip.frames,
            images=clip.frames.images[nearest : nearest + 1],
            times=clip.frames.times[nearest : nearest + 1],
        ),
    )
    PresetSenses(eva, config, measure_voice=measure).read(alone, track)
    assert np.array_equal(watched["eva"].inputs[-1].numpy(), shown)
    PresetSenses(eva, config, measure_voice=measure, peak=peak).read(clip, None)  # without a face the first stands
    assert np.array_equal(watched["eva"].inputs[-1].numpy(), first)
