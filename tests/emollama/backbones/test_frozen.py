"""The frozen backbone in several precisions: it learns nothing itself, adapters learn through it, and what it holds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from emollama.backbones.frozen import load_frozen, memory_report
from emollama.backbones.llama import build_llama, save_llama
from emollama.backbones.lora import attach_lora
from emollama.backbones.quantize import is_quantized, quantize_llama
from emollama.backbones.score import answer_log_likelihoods
from emollama.config import LORA_TARGETS, LlamaShape, LoraSettings
from emollama.errors import InputError
from emollama.model import EmoLlama, ModelBatch
from emollama.projectors import build_projectors

SHAPE = LlamaShape(vocab_size=61, hidden_size=64, intermediate_size=128, num_layers=2, num_heads=4, num_kv_heads=2)
NEEDS_BNB = "4 and 8 bits need the extra 'gpu'"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("backbone")
    save_llama(build_llama(SHAPE, seed=0), path, shape=SHAPE, dtype=torch.float32)
    return path


def batch() -> ModelBatch:
    torch.manual_seed(0)
    return ModelBatch(
        input_ids=torch.tensor([[1, 50, 5, 9, 13]]),
        features={"face": torch.randn(1, 6)},
        labels=torch.tensor([[-100, -100, -100, 9, 13]]),
    )


@pytest.mark.parametrize("bits", [0, 4, 8])
def test_only_adapters_and_projectors_learn_with_recomputed_activations(folder: Path, bits: int) -> None:
    if bits:
        pytest.importorskip("bitsandbytes", reason=NEEDS_BNB)
    backbone = load_frozen(folder, bits=bits)
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    assert is_quantized(backbone) == bool(bits)
    assert type(backbone.lm_head) is torch.nn.Linear
    before = {name: parameter.clone() for name, parameter in backbone.named_parameters()}
    tuned = attach_lora(backbone, LoraSettings(rank=2, alpha=4.0, dropout=0.0, targets=LORA_TARGETS), seed=0)
    model = EmoLlama(tuned, dict(build_projectors({"face": 6}, 64).items()), {"face": 50}).train()
    for parameter in model.projectors.parameters():
        parameter.requires_grad_(False)  # then no gradient reaches the input, and LoRA must get one all the same
    model.enable_gradient_checkpointing()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=1e-2)
    losses = []
    for _ in range(4):
        loss, _ = model.answer_loss(batch())
        optimiser.zero_grad()
        loss.backward()
        assert all(parameter.grad is not None for parameter in trained)
        optimiser.step()
        losses.append(loss.item())
        with torch.no_grad():  # a validation between two steps leaves the weights as they were
            model.eval().answer_loss(batch())
        model.train()
    assert losses[-1] < losses[0] - 0.1
    kept = {name.replace(".base_layer", ""): p for name, p in tuned.get_base_model().named_parameters()}
    assert all(torch.equal(kept[name], value) for name, value in before.items())


def test_quantising_in_place_is_what_reading_a_folder_gives(folder: Path) -> None:
    pytest.importorskip("bitsandbytes", reason=NEEDS_BNB)
    ids = torch.tensor([[1, 5, 9, 13]])
    read = load_frozen(folder, bits=4).eval()
    made = quantize_llama(build_llama(SHAPE, seed=0), compute_dtype=torch.float32).eval()
    assert torch.allclose(read(ids).logits, made(ids).logits, atol=1e-5)


def test_four_bits_hold_the_same_weights_in_less(folder: Path) -> None:
    pytest.importorskip("bitsandbytes", reason=NEEDS_BNB)
    whole, packed = memory_report(load_frozen(folder)), memory_report(load_frozen(folder, bits=4))
    assert packed.parameters == whole.parameters
    assert packed.frozen_bytes < 0.45 * whole.frozen_bytes
    tuned = memory_report(attach_lora(load_frozen(folder), LoraSettings(rank=2, alpha=4.0)))
    assert tuned.trained == 2 * (2 * (64 + 64) + 2 * (64 + 32))
    assert tuned.total_bytes == tuned.frozen_bytes + 16 * tuned.trained
    assert tuned.peak_bytes is None or tuned.peak_bytes > 0


def test_a_precision_that_is_not_there_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="allowed: 0"):
        load_frozen(folder, bits=2)


def test_answers_that_share_a_prompt_score_as_each_would_alone() -> None:
    model = build_llama(SHAPE, seed=2).eval()
    prompts = [[1, 5, 9], [1, 7], [1, 5, 9, 13, 3, 8]]
    answers = [[4], [6, 2], [6, 8, 2], [6, 2, 2, 11]]
    embedded = [model.get_input_embeddings()(torch.tensor(prompt)).detach() for prompt in prompts]
    found = answer_log_likelihoods(model, embedded, answers, rows_at_once=5)
    for row, prompt in enumerate(prompts):
        for column, answer in enumerate(answers):
            logits = model(torch.tensor([prompt + answer])).logits.detach()[0, len(prompt) - 1 : -1].log_softmax(-1)
            alone = sum(float(logits[index, token]) for index, token in enumerate(answer))
            assert float(found[row, column]) == pytest.approx(alone, abs=1e-4)
