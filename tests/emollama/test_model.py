"""EmoLlama: features land on their placeholders, counts must match, and only what should learn learns."""

from __future__ import annotations

import pytest
import torch

from emollama.backbones.llama import build_llama
from emollama.backbones.lora import attach_lora
from emollama.config import LlamaShape, LoraSettings, ProjectorConfig
from emollama.errors import InputError
from emollama.model import IGNORED, EmoLlama, ModelBatch
from emollama.projectors import build_projector, build_projectors

SHAPE = LlamaShape(
    vocab_size=61, hidden_size=32, intermediate_size=48, num_layers=2, num_heads=4, num_kv_heads=2, tie_embeddings=True
)
FACE, VOICE = 50, 51


def make_model(*, lora: bool = False, kind: str = "mlp") -> EmoLlama:
    backbone = build_llama(SHAPE, seed=0).eval()
    if lora:
        backbone = attach_lora(backbone, LoraSettings(rank=2, alpha=4.0, dropout=0.0), seed=1)
    config = ProjectorConfig(kind=kind, num_queries=3, num_heads=2, depth=1)  # type: ignore[arg-type]
    projectors = build_projectors({"face": 6, "voice": 4}, 32, config)
    return EmoLlama(backbone, projectors, {"face": FACE, "voice": VOICE})


def make_batch() -> ModelBatch:
    ids = torch.tensor([[1, FACE, FACE, 7, 8, 9], [1, VOICE, 5, 6, 0, 0]])
    return ModelBatch(
        input_ids=ids,
        attention_mask=(ids != 0).long(),
        features={"face": torch.randn(2, 6), "voice": torch.randn(1, 4)},
        labels=torch.where(ids > 5, torch.where(ids < FACE, ids, IGNORED), IGNORED),
    )


def test_features_overwrite_placeholders_in_row_order() -> None:
    model, batch = make_model(), make_batch()
    embedded = model.embed(batch)
    table = model.backbone.get_input_embeddings().weight
    assert torch.allclose(embedded[0, 1:3], model.projectors["face"](batch.features["face"]))
    assert torch.allclose(embedded[1, 1:2], model.projectors["voice"](batch.features["voice"]))
    assert torch.equal(embedded[0, 3], table[7])


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_wrong_number_of_tokens_raises(count: int) -> None:
    model, batch = make_model(), make_batch()
    features = {**batch.features, "face": torch.randn(count, 6)}
    with pytest.raises(InputError, match=rf"'face' gives {count} feature tokens for 2 placeholders"):
        model.embed(ModelBatch(input_ids=batch.input_ids, features=features))


def test_an_absent_stream_with_a_placeholder_and_an_unknown_stream_raise() -> None:
    model, batch = make_model(), make_batch()
    with pytest.raises(InputError, match="'voice' gives 0"):
        model.embed(ModelBatch(input_ids=batch.input_ids, features={"face": torch.randn(2, 6)}))
    with pytest.raises(InputError, match="unknown stream pulse"):
        model.embed(ModelBatch(input_ids=batch.input_ids, features={"pulse": torch.randn(2, 6)}))


def test_padding_changes_nothing_on_either_side() -> None:
    model = make_model()
    ids = torch.tensor([[1, 5, 6, 7]])
    plain = model(ModelBatch(input_ids=ids))
    pad = torch.zeros(1, 2, dtype=torch.long)
    for padded, at in ((torch.cat((ids, pad), 1), slice(0, 4)), (torch.cat((pad, ids), 1), slice(2, 6))):
        logits = model(ModelBatch(input_ids=padded, attention_mask=(padded != 0).long()))
        assert torch.allclose(logits[:, at], plain, atol=1e-5)


def test_logits_at_positions_equal_the_full_ones() -> None:
    model, batch = make_model(), make_batch()
    where = torch.zeros_like(batch.input_ids, dtype=torch.bool)
    where[0, 5] = where[1, 3] = True
    assert torch.allclose(model(batch, logits_at=where), model(batch)[where], atol=1e-6)


def test_answer_loss_is_the_cross_entropy_of_the_labelled_tokens() -> None:
    model, batch = make_model(), make_batch()
    loss, num_tokens = model.answer_loss(batch)
    assert batch.labels is not None
    logits = model(batch)[:, :-1].flatten(0, 1)
    expected = torch.nn.functional.cross_entropy(logits, batch.labels[:, 1:].flatten(), ignore_index=IGNORED)
    assert num_tokens == 4
    assert torch.allclose(loss, expected, atol=1e-5)
    weights = torch.zeros_like(batch.input_ids, dtype=torch.float32)
    weights[0, 3] = 1.0
    weighted, _ = model.answer_loss(
        ModelBatch(**{**batch.__dict__, "weights": weights}),
    )
    assert torch.allclose(weighted, -model(batch)[0, 2].log_softmax(-1)[7], atol=1e-5)


def test_answer_loss_says_what_is_missing() -> None:
    model, batch = make_model(), make_batch()
    with pytest.raises(InputError, match="needs labels"):
        model.answer_loss(ModelBatch(**{**batch.__dict__, "labels": None}))
    with pytest.raises(InputError, match="no token"):
        model.answer_loss(ModelBatch(**{**batch.__dict__, "labels": torch.full_like(batch.input_ids, IGNORED)}))


def test_gradients_reach_lora_and_projectors_only() -> None:
    model, batch = make_model(lora=True), make_batch()
    model.answer_loss(batch)[0].backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == ("lora_" in name or name.startswith("projectors")), name


@pytest.mark.parametrize("kind", ["linear", "mlp", "resampler"])
def test_every_projector_gets_a_gradient_in_the_same_order_whatever_streams_a_batch_has(kind: str) -> None:
    """Processes that train together hold different streams and have to reduce the same gradients in one order."""
    model = make_model(lora=True, kind=kind).train()
    order: list[str] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(lambda _, name=name: order.append(name))
    seen = {}
    for streams in ((), ("face",), ("voice",), ("voice", "face")):
        ids = torch.tensor([[1, 7, 8, 9, 10, 5, 6, 7, 8]])
        features = {}
        for stream, (placeholder, width, at) in {"face": (FACE, 6, 1), "voice": (VOICE, 4, 5)}.items():
            if stream in streams:
                ids[0, at : at + (3 if kind == "resampler" else 1)] = placeholder
                tokens = torch.randn(1, width)
                features[stream] = [tokens] if kind == "resampler" else tokens
        batch = ModelBatch(input_ids=ids, features={name: features[name] for name in streams}, labels=ids)
        order.clear()
        model.zero_grad()
        model.answer_loss(batch)[0].backward()
        seen[streams] = tuple(order)
        for stream, projector in model.projectors.items():
            assert all(p.grad is not None for p in projector.parameters())
            assert any(p.grad.abs().max() > 0 for p in projector.parameters()) == (stream in streams)
    assert len(set(seen.values())) == 1


def test_a_resampler_gives_its_queries_whatever_the_length() -> None:
    model = make_model(kind="resampler")
    clips = [torch.randn(2, 6), torch.randn(9, 6)]
    ids = torch.tensor([[1, FACE, FACE, FACE], [1, FACE, FACE, FACE]])
    assert model(ModelBatch(input_ids=ids, features={"face": clips})).shape == (2, 4, 61)
    with pytest.raises(InputError, match="one clip at a time"):
        model(ModelBatch(input_ids=ids, features={"face": torch.cat(clips)}))


def test_streams_of_projectors_and_placeholders_must_agree() -> None:
    projectors = {"face": build_projector(6, 32)}
    with pytest.raises(InputError, match="must name the same streams"):
        EmoLlama(build_llama(SHAPE, seed=0), projectors, {"voice": VOICE})


def test_projectors_survive_saving_and_refuse_a_stranger(tmp_path) -> None:
    from emollama.errors import CheckpointError

    first, second = make_model(), make_model()
    first.save_projectors(tmp_path / "projectors.safetensors")
    second.load_projectors(tmp_path / "projectors.safetensors")
    tokens = torch.randn(3, 6)
    assert torch.equal(first.projectors["face"](tokens), second.projectors["face"](tokens))
    with pytest.raises(CheckpointError, match="missing"):
        make_model(kind="resampler").load_projectors(tmp_path / "projectors.safetensors")


def test_a_batch_moves_whole() -> None:
    moved = make_batch().to("meta")
    assert moved.input_ids.is_meta
    assert moved.features["face"].is_meta  # type: ignore[union-attr]
    assert moved.weights is None
