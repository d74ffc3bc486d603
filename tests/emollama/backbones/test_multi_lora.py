"""Adapters that share a base: each row's tokens are its merged model's, and an adapter costs only itself."""

from __future__ import annotations

import gc
import weakref
from collections import defaultdict
from pathlib import Path

import pytest
import torch

from emollama.backbones.lean import LeanLlama
from emollama.backbones.llama import build_llama
from emollama.backbones.lora import attach_lora, save_lora
from emollama.backbones.multi_lora import LoraUpdate, SharedLlama
from emollama.config import LORA_TARGETS, LlamaShape, LoraSettings
from emollama.errors import CheckpointError
from emollama.generate import Engine, Request
from emollama.runtime import Row, Runtime, Sampling

SHAPE = LlamaShape(
    vocab_size=97, hidden_size=32, intermediate_size=48, num_layers=2, num_heads=4, num_kv_heads=2, max_positions=128,
)  # fmt: skip
SETTINGS = (
    LoraSettings(rank=4, alpha=8.0, targets=LORA_TARGETS),
    LoraSettings(rank=2, alpha=2.0, targets=("q_proj", "v_proj")),
    LoraSettings(rank=3, alpha=9.0, targets=("k_proj", "o_proj", "up_proj", "down_proj")),
)


def tensors() -> dict[str, torch.Tensor]:
    model = build_llama(SHAPE, seed=0)
    generator = torch.Generator().manual_seed(1)
    for name, tensor in model.state_dict().items():
        if "norm" in name:
            tensor += 0.3 * torch.rand(tensor.shape, generator=generator)
        else:
            tensor *= 3.0
    return dict(model.state_dict())


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three adapters that change what the model says, of different ranks and places."""
    made = []
    for seed, settings in enumerate(SETTINGS):
        peft = attach_lora(build_llama(SHAPE, seed=0), settings, seed=seed)
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in peft.named_parameters():
            if "lora_" in name:
                parameter.data = torch.randn(parameter.shape, generator=generator) * 0.4
        folder = tmp_path_factory.mktemp("adapter")
        save_lora(peft, folder)
        made.append(folder)
    return made


@pytest.fixture(scope="module")
def shared() -> SharedLlama:
    return SharedLlama.build(SHAPE, tensors())


@pytest.fixture(scope="module")
def merged(folders: list[Path]) -> list[LeanLlama]:
    """The base, then each adapter written into a copy of it."""
    return [LeanLlama.from_tensors(SHAPE, tensors(), adapter=folder) for folder in (None, *folders)]


@pytest.fixture(scope="module")
def views(shared: SharedLlama, folders: list[Path]) -> list[SharedLlama]:
    return [shared, *(shared.adapted(shared.read_update(folder)) for folder in folders)]


def prompt(seed: int, length: int) -> list[int]:
    return torch.randint(3, 97, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def replies(runtime: Runtime, seeds: range) -> list[list[int]]:
    return [
        list(runtime.decode(runtime.prefill([Row(prompt(seed, 4 + 3 * seed))]), sampling=Sampling(max_tokens=12)))
        for seed in seeds
    ]


def test_each_adapter_answers_as_its_merged_model(merged: list[LeanLlama], views: list[SharedLlama]) -> None:
    said = []
    for whole, view in zip(merged, views, strict=True):
        one, other = Runtime(whole, {}, {}), Runtime(view, {}, {})
        rows = [Row(prompt(seed, 5 + seed)) for seed in range(3)]
        first, second = one.prefill(rows), other.prefill(rows)
        assert torch.allclose(one.next_logits(first), other.next_logits(second), atol=1e-3)
        labels = [[5], [6, 7, 8], [9, 10]]
        assert torch.allclose(one.label_scores(first, labels), other.label_scores(second, labels), atol=1e-3)
        said.append(replies(other, range(4)))
        assert said[-1] == replies(one, range(4))
    assert all(said[0] != each for each in said[1:])


def test_rows_of_all_adapters_share_one_batch(merged: list[LeanLlama], views: list[SharedLlama]) -> None:
    """Replies join and leave at different times, so rows change places among others' rows."""
    runtimes = [Runtime(view, {}, {}) for view in views]
    engine = Engine(runtimes[0], max_rows=6)
    asked = {}
    for index in range(14):
        which, given = index % 4, Row(prompt(index, 3 + index))
        sampling = Sampling(max_tokens=4 + (5 * index) % 11)
        request_id = engine.add(Request(prefix=runtimes[which].prefill([given]), sampling=sampling))
        asked[request_id] = (which, given, sampling)
    found: dict[str, list[int]] = defaultdict(list)
    passes = 0
    while engine.has_work:
        passes += 1
        for event in engine.step():
            if event.token_id is not None:
                found[event.request_id].append(event.token_id)
    for request_id, (which, given, sampling) in asked.items():
        alone = Runtime(merged[which], {}, {})
        assert found[request_id] == list(alone.decode(alone.prefill([given]), sampling=sampling))
    assert passes < sum(sampling.max_tokens for _, _, sampling in asked.values()) / 3  # they went together


def test_an_adapter_costs_itself_and_is_freed_while_others_answer(shared: SharedLlama, folders: list[Path]) -> None:
    update = shared.read_update(folders[1])
    width, rank = SHAPE.hidden_size, SETTINGS[1].rank
    out = (SHAPE.num_heads + 2 * SHAPE.num_kv_heads) * SHAPE.size_of_head
    assert update.num_bytes == 4 * SHAPE.num_layers * 2 * rank * (width + out)
    view = shared.adapted(update)
    assert view.layers is shared.layers
    assert view.embedding.data_ptr() == shared.embedding.data_ptr()
    other = Runtime(shared.adapted(shared.read_update(folders[0])), {}, {})
    batch = other.batch()
    batch.admit(other.prefill([Row([1, 2, 3])]), 0, reserve=8)
    batch.admit(Runtime(view, {}, {}).prefill([Row([1, 2, 3, 4])]), 0, reserve=8)
    gone = weakref.ref(update)
    del update, view
    gc.collect()
    assert gone() is not None  # a row that is being answered holds it
    batch.advance([[5], [6]])
    batch.drop(1)
    gc.collect()
    assert gone() is None
    batch.advance([[5]])


def test_bf16_stays_close_to_the_merged_weights(folders: list[Path]) -> None:
    whole = LeanLlama.from_tensors(SHAPE, tensors(), adapter=folders[0])
    half = SharedLlama.build(SHAPE, tensors(), dtype=torch.bfloat16)
    view = Runtime(half.adapted(half.read_update(folders[0])), {}, {})
    exact = Runtime(whole, {}, {})
    rows = [Row(prompt(3, 9))]
    one, other = exact.next_logits(exact.prefill(rows)), view.next_logits(view.prefill(rows))
    assert torch.corrcoef(torch.stack((one[0], other[0])))[0, 1] > 0.99


def test_an_adapter_that_does_not_fit_is_refused(shared: SharedLlama, folders: list[Path], tmp_path: Path) -> None:
    for file in folders[0].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = tmp_path / "adapter_config.json"
    config.write_text(config.read_text().replace('"r": 4', '"r": 5'))
    with pytest.raises(CheckpointError, match="lora_A"):
        shared.read_update(tmp_path)
    assert LoraUpdate(()).num_bytes == 0
