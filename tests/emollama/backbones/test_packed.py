"""The forward pass of training computes what the whole model does, gradients too, for every kind of batch."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from emollama.backbones import packed
from emollama.backbones.llama import build_llama
from emollama.backbones.lora import attach_lora, base_of
from emollama.config import LORA_TARGETS, LlamaShape, LoraSettings
from emollama.model import EmoLlama, ModelBatch
from emollama.projectors import build_projectors

SHAPE = LlamaShape(
    vocab_size=40, hidden_size=32, intermediate_size=48, num_layers=3, num_heads=4, num_kv_heads=2, max_positions=64
)
PLACEHOLDERS = {"face": 38, "voice": 39}


@pytest.fixture
def model() -> EmoLlama:
    """Grouped queries, LoRA on everything, with pairs that are not zero."""
    backbone = build_llama(SHAPE, seed=1).requires_grad_(False)
    lora = attach_lora(backbone, LoraSettings(rank=4, alpha=8.0, dropout=0.0, targets=LORA_TARGETS), seed=2)
    generator = torch.Generator().manual_seed(3)
    for name, parameter in lora.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.2, generator=generator)
    torch.manual_seed(4)
    return EmoLlama(lora, dict(build_projectors({"face": 5, "voice": 6}, 32).items()), PLACEHOLDERS).train()


def make_batch(lengths: tuple[int, ...] = (9, 4, 12), *, left: bool = False, mask: bool = True) -> ModelBatch:
    generator = torch.Generator().manual_seed(5)
    longest = max(lengths)
    ids = torch.randint(1, 30, (len(lengths), longest), generator=generator)
    real = torch.zeros(ids.shape, dtype=torch.long)
    for row, length in enumerate(lengths):
        real[row, longest - length :] = 1
        if not left:
            real[row] = real[row].flip(0)
    ids[0, real[0].nonzero()[0]] = PLACEHOLDERS["face"]
    features = {"face": torch.randn(1, 5, generator=generator)}
    return ModelBatch(input_ids=ids, attention_mask=real if mask else None, features=features)


def some_places(batch: ModelBatch, share: float = 0.4) -> Tensor:
    chosen = torch.rand(batch.input_ids.shape, generator=torch.Generator().manual_seed(6)) < share
    return chosen if batch.attention_mask is None else chosen & batch.attention_mask.bool()


def gradients(model: EmoLlama) -> dict[str, Tensor]:
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def assert_same(model: EmoLlama, batch: ModelBatch, wanted: Tensor, *, within: float = 1e-5) -> None:
    """Compare the states at ``wanted``, and the gradients of a function of them, with those of the whole model."""
    expected = model.hidden(batch)[wanted]
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(7))
    (expected.float() * weights).sum().backward()
    before = gradients(model)
    actual = model.hidden_at(batch, wanted)
    (actual.float() * weights).sum().backward()
    after = gradients(model)
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() < within
    assert after.keys() == before.keys()
    for name, gradient in before.items():
        assert (after[name] - gradient).abs().max() < 10 * within * max(1.0, gradient.abs().max()), name
    assert all(gradient.abs().max() > 0 for name, gradient in before.items() if "lora" in name)


@pytest.fixture
def counted(monkeypatch) -> list[int]:
    """Notes how many places each packed pass was asked for."""
    calls: list[int] = []
    whole = packed.hidden_at

    def call(llama, embeddings, attention_mask, wanted):
        calls.append(int(wanted.sum()))
        return whole(llama, embeddings, attention_mask, wanted)

    monkeypatch.setattr(packed, "hidden_at", call)
    return calls


@pytest.mark.parametrize("lengths", [(9, 4, 12), (7, 7), (1, 5, 2, 8)])
@pytest.mark.parametrize("share", [0.4, 1.0])
def test_states_and_gradients_are_those_of_the_whole_model(model, counted, lengths, share):
    batch = make_batch(lengths)
    wanted = some_places(batch, share)
    assert_same(model, batch, wanted)
    assert counted == [int(wanted.sum())]


def test_a_batch_without_padding_needs_no_mask(model, counted):
    batch = make_batch((6, 6), mask=False)
    assert_same(model, batch, some_places(batch))
    assert len(counted) == 1


def test_rows_without_a_wanted_place_and_batches_without_any(model):
    batch = make_batch()
    wanted = some_places(batch)
    wanted[1] = False
    assert_same(model, batch, wanted)
    nothing = model.hidden_at(batch, torch.zeros_like(wanted))
    assert nothing.shape == (0, 32)


def test_rows_padded_on_the_left_run_the_model_as_it_is(model, counted):
    batch = make_batch(left=True)
    assert_same(model, batch, some_places(batch))
    assert counted == []


def test_recomputed_activations_change_nothing(model, counted):
    batch = make_batch()
    kept = model.hidden_at(batch, some_places(batch)).sum()
    kept.backward()
    before = gradients(model)
    model.enable_gradient_checkpointing()
    again = model.hidden_at(batch, some_places(batch)).sum()
    again.backward()
    assert again.item() == pytest.approx(kept.item(), abs=1e-5)
    after = gradients(model)
    assert all((after[name] - gradient).abs().max() < 1e-5 for name, gradient in before.items())
    assert len(counted) == 2


def test_bfloat16_is_as_close_as_bfloat16_is(model):
    batch = make_batch()
    with torch.autocast("cpu", torch.bfloat16):
        assert_same(model, batch, some_places(batch), within=0.03)


def test_dropout_of_the_pairs_is_drawn_and_seeded(model):
    for module in model.modules():
        if hasattr(module, "lora_dropout"):
            module.lora_dropout["default"] = torch.nn.Dropout(0.5)
    batch = make_batch()
    wanted = some_places(batch)
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(model.hidden_at(batch, wanted))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.allclose(drawn[0], drawn[2])
    model.eval()
    assert (model.hidden_at(batch, wanted) - model.hidden(batch)[wanted]).abs().max() < 1e-5


def test_what_cannot_be_packed_is_not(model):
    llama = base_of(model.backbone)
    assert packed.supports(llama)
    hook = llama.model.layers[1].register_forward_hook(lambda *_: None)
    assert not packed.supports(llama)  # whoever put it there wants it called
    hook.remove()
    assert packed.supports(llama)
    assert not packed.supports(torch.nn.Linear(1, 1))
    first = next(llama.model.layers[0].parameters())
    first.ds_id = 0  # partitioned by DeepSpeed
    assert not packed.supports(llama)
    del first.ds_id
    llama.model.layers[0].__class__ = type("FSDPLlamaDecoderLayer", (type(llama.model.layers[0]),), {})
    assert not packed.supports(llama)  # sharded by FSDP2


def test_the_loss_of_answers_runs_packed_and_is_the_same(model, counted):
    batch = make_batch()
    labels = torch.where(some_places(batch), batch.input_ids, -100)
    loss, count = model.answer_loss(dataclasses.replace(batch, labels=labels))
    targets = labels[:, 1:]
    logits = model(batch)[:, :-1][targets != -100]
    assert loss.item() == pytest.approx(
        torch.nn.functional.cross_entropy(logits, targets[targets != -100]).item(), abs=1e-5
    )
    assert counted == [count]
