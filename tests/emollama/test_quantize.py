"""bitsandbytes for real on a processor: NF4 weights, LoRA learns through them, the answer stays close."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from emollama.backbones.llama import build_llama, save_llama
from emollama.backbones.lora import attach_lora
from emollama.backbones.quantize import is_quantized, load_quantized_llama
from emollama.config import LlamaShape, LoraSettings, ProjectorConfig
from emollama.errors import CheckpointError, InputError
from emollama.model import EmoLlama, ModelBatch
from emollama.projectors import build_projectors
from emollama.tensors import read_tensors, write_tensors

pytest.importorskip("bitsandbytes", reason="4 and 8 bits need the extra 'gpu'")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")

SHAPE = LlamaShape(
    vocab_size=61, hidden_size=64, intermediate_size=128, num_layers=2, num_heads=4, num_kv_heads=2, tie_embeddings=True
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_llama(build_llama(SHAPE, seed=0), tmp_path, shape=SHAPE, dtype=torch.float32)
    return tmp_path


@pytest.mark.parametrize("bits", [4, 8])
def test_quantised_weights_answer_nearly_the_same(folder: Path, bits: int) -> None:
    ids = torch.tensor([[1, 5, 9, 13]])
    exact = build_llama(SHAPE, seed=0).eval()(ids).logits.detach().log_softmax(-1)
    model = load_quantized_llama(folder, bits=bits, compute_dtype=torch.float32).eval()
    assert is_quantized(model)
    assert not is_quantized(build_llama(SHAPE, seed=0))
    close = model(ids).logits.detach().float().log_softmax(-1)
    assert torch.nn.functional.kl_div(close, exact, log_target=True, reduction="batchmean") < 0.05


def test_lora_learns_through_four_bits(folder: Path) -> None:
    backbone = attach_lora(
        load_quantized_llama(folder, compute_dtype=torch.float32), LoraSettings(rank=4, alpha=8.0, dropout=0.0), seed=0
    )
    projectors = build_projectors({"face": 6}, 64, ProjectorConfig())
    model = EmoLlama(backbone, dict(projectors.items()), {"face": 50})
    ids = torch.tensor([[1, 50, 5, 9, 13]])
    batch = ModelBatch(
        input_ids=ids,
        features={"face": torch.randn(1, 6)},
        labels=torch.tensor([[-100, -100, -100, 9, 13]]),
    )
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=1e-2)
    losses = []
    for _ in range(6):
        loss, _ = model.answer_loss(batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.5


def test_bits_and_keys_are_checked(folder: Path) -> None:
    with pytest.raises(InputError, match="allowed: 4, 8"):
        load_quantized_llama(folder, bits=3)
    tensors = read_tensors(folder / "model.safetensors")
    del tensors["model.norm.weight"]
    write_tensors(folder / "model.safetensors", tensors)
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight"):
        load_quantized_llama(folder)
    (folder / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match="is a pickle"):
        load_quantized_llama(folder)
