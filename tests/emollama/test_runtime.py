"""The runtime answers what the training-time model would: label likelihoods, decoded text, prefixes reused."""

from __future__ import annotations

import itertools
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from emollama.backbones.lean import LeanLlama
from emollama.backbones.llama import build_llama, save_llama
from emollama.config import LlamaShape, ProjectorConfig
from emollama.errors import InputError
from emollama.model import EmoLlama, ModelBatch
from emollama.projectors import build_projectors
from emollama.runtime import Chooser, Row, Runtime, Sampling, is_cancelled, one_of

SHAPE = LlamaShape(
    vocab_size=97, hidden_size=32, intermediate_size=48, num_layers=2, num_heads=4, num_kv_heads=2, max_positions=128,
    tie_embeddings=True,
)  # fmt: skip
FACE, VOICE = 90, 91
PLACEHOLDERS = {"face": FACE, "voice": VOICE}


def make_pair(kind: str = "mlp") -> tuple[EmoLlama, Runtime]:
    torch.manual_seed(0)
    backbone = build_llama(SHAPE, seed=0).eval()
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.mul_(3.0)
    config = ProjectorConfig(kind=kind, num_queries=2, num_heads=2, depth=1)  # type: ignore[arg-type]
    projectors = build_projectors({"face": 6, "voice": 4}, 32, config)
    model = EmoLlama(backbone, projectors, PLACEHOLDERS).eval()
    lean = LeanLlama.from_tensors(SHAPE, backbone.state_dict())
    return model, Runtime(lean, dict(projectors.items()), PLACEHOLDERS)


@pytest.fixture(scope="module")
def pair() -> tuple[EmoLlama, Runtime]:
    return make_pair()


@pytest.fixture(scope="module")
def runtime(pair: tuple[EmoLlama, Runtime]) -> Runtime:
    return pair[1]


def some_rows() -> list[Row]:
    rng = np.random.default_rng(0)
    return [
        Row(
            [1, FACE, FACE, 5, VOICE, 6],
            {"face": rng.normal(size=(2, 6)), "voice": torch.from_numpy(rng.normal(size=(1, 4)))},
        ),
        Row([1, 5, 6, 7, 8, 9, 10, 11]),
        Row([1, VOICE, 7], {"voice": rng.normal(size=(1, 4)).astype(np.float32)}),
    ]


def logits_of(model: EmoLlama, row: Row, more: list[int]) -> torch.Tensor:
    features = {name: torch.as_tensor(np.asarray(value)).float() for name, value in row.features.items()}
    with torch.inference_mode():
        return model(ModelBatch(input_ids=torch.tensor([[*row.input_ids, *more]]), features=features))[0]


def test_label_scores_are_summed_log_likelihoods_of_the_model(pair) -> None:
    model, runtime = pair
    rows, labels = some_rows(), [[20], [21, 22, 23], [24, 25], [26]]
    scores = runtime.label_scores(runtime.prefill(rows), labels)
    assert scores.shape == (3, 4)
    for (b, row), (index, label) in itertools.product(enumerate(rows), enumerate(labels)):
        logprobs = logits_of(model, row, label).log_softmax(-1)
        begin = len(row.input_ids) - 1
        wanted = sum(float(logprobs[begin + n, token]) for n, token in enumerate(label))
        assert float(scores[b, index]) == pytest.approx(wanted, abs=1e-3)


def test_single_token_labels_need_only_their_rows_of_the_head(runtime: Runtime) -> None:
    prefix = runtime.prefill(some_rows())
    bare = runtime.label_scores(prefix, [[20], [21], [22]], is_normalised=False)
    full = runtime.label_scores(prefix, [[20], [21], [22]])
    assert torch.allclose(bare.softmax(-1), full.softmax(-1), atol=1e-5)
    assert torch.allclose(runtime.next_logits(prefix, [20, 21, 22]), bare, atol=1e-5)
    assert runtime.next_logits(prefix).shape == (3, 97)
    with pytest.raises(InputError, match="1 or more tokens each"):
        runtime.label_scores(prefix, [[20], []])


def test_greedy_decoding_follows_the_models_argmax(pair) -> None:
    model, runtime = pair
    for index, row in enumerate(some_rows()):
        tokens = list(runtime.decode(runtime.prefill(some_rows()), index, sampling=Sampling(max_tokens=12)))
        wanted: list[int] = []
        for _ in range(12):
            token = int(logits_of(model, row, wanted)[-1].argmax())
            if token == 2:
                break
            wanted.append(token)
        assert tokens == wanted


def test_extending_a_prefix_equals_computing_the_whole(runtime: Runtime) -> None:
    rows = some_rows()
    prefix = runtime.prefill(rows, reserve=4)
    longer = runtime.extend(prefix, 2, [30, FACE, 31], {"face": np.ones((1, 6), np.float32)}, reserve=500)
    features = {**rows[2].features, "face": np.ones((1, 6), np.float32)}
    whole = runtime.prefill([Row([*rows[2].input_ids, 30, FACE, 31], features)])
    assert torch.allclose(longer.hidden, whole.hidden, atol=1e-4)
    assert prefix.lengths == (6, 8, 3)
    assert longer.lengths == (6,)
    assert longer.num_rows == 1


def test_a_resampler_projects_clip_by_clip() -> None:
    model, runtime = make_pair("resampler")
    tokens = torch.randn(7, 6)
    row = Row([1, FACE, FACE, 5], {"face": tokens})
    with torch.inference_mode():
        wanted = model(ModelBatch(input_ids=torch.tensor([row.input_ids]), features={"face": [tokens]}))[0, -1]
    assert torch.allclose(runtime.next_logits(runtime.prefill([row]))[0], wanted, atol=1e-4)


def test_features_must_match_their_placeholders(runtime: Runtime) -> None:
    with pytest.raises(InputError, match="'face' gives 1 feature tokens for 2 placeholders"):
        runtime.prefill([Row([1, FACE, FACE], {"face": np.ones((1, 6))})])
    with pytest.raises(InputError, match="unknown stream pulse"):
        runtime.prefill([Row([1], {"pulse": np.ones((1, 6))})])
    with pytest.raises(InputError, match="1 or more tokens"):
        runtime.prefill([Row([])])
    with pytest.raises(InputError, match="1 or more rows"):
        runtime.prefill([])


def test_a_seed_repeats_itself_and_another_differs(runtime: Runtime) -> None:
    prefix = runtime.prefill(some_rows())
    drawn = [
        list(runtime.decode(prefix, 1, sampling=Sampling(max_tokens=16, temperature=1.5, top_p=0.95, seed=seed)))
        for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    assert list(runtime.decode(prefix, 1, sampling=Sampling(max_tokens=3, temperature=1.0)))


def test_top_p_keeps_only_the_likeliest() -> None:
    logits = torch.tensor([0.0, 5.0, 4.9, -3.0])
    chooser = Chooser(Sampling(temperature=1.0, top_p=0.6, seed=0))
    assert {chooser.choose(logits).token_id for _ in range(60)} == {1, 2}
    narrow = Chooser(Sampling(temperature=1.0, top_p=0.01, seed=0))
    assert {narrow.choose(logits).token_id for _ in range(20)} == {1}


def test_banned_tokens_never_come_and_choices_are_kept(runtime: Runtime) -> None:
    prefix = runtime.prefill(some_rows())
    free = list(runtime.decode(prefix, 0, sampling=Sampling(max_tokens=6)))
    without = list(runtime.decode(prefix, 0, sampling=Sampling(max_tokens=6, banned=frozenset(free))))
    assert not set(free) & set(without)
    constraint = one_of([[40, 41], [40, 42, 43], [44]], end=[2])
    for seed in range(5):
        sampling = Sampling(max_tokens=6, temperature=2.0, seed=seed, constraint=constraint)
        assert tuple(runtime.decode(prefix, 0, sampling=sampling)) in {(40, 41), (40, 42, 43), (44,)}
    with pytest.raises(InputError, match="banned"):
        Chooser(Sampling(banned=frozenset(range(4)))).choose(torch.zeros(4))
    with pytest.raises(InputError, match="allows no token"):
        Chooser(Sampling(constraint=lambda ids: [])).choose(torch.zeros(4))


def test_logprobs_are_those_of_the_distribution() -> None:
    logits = torch.tensor([1.0, 3.0, 2.0])
    choice = Chooser(Sampling(num_logprobs=2)).choose(logits)
    wanted = logits.log_softmax(-1)
    assert choice.token_id == 1
    assert choice.logprob == pytest.approx(float(wanted[1]))
    assert [token for token, _ in choice.top] == [1, 2]
    assert choice.top[1][1] == pytest.approx(float(wanted[2]))


def test_a_repetition_penalty_turns_away_from_what_was_said() -> None:
    chooser = Chooser(Sampling(repetition_penalty=2.0))
    assert [chooser.choose(torch.tensor([-1.0, 2.0, 1.5])).token_id for _ in range(2)] == [1, 2]


def test_stop_tokens_cancel_and_deadline_end_a_reply(runtime: Runtime) -> None:
    prefix = runtime.prefill(some_rows())
    free = list(runtime.decode(prefix, 0, sampling=Sampling(max_tokens=8)))
    stop = free[3]
    assert (
        list(runtime.decode(prefix, 0, sampling=Sampling(max_tokens=8, stop_ids=(stop,)))) == free[: free.index(stop)]
    )
    event = threading.Event()
    got = []
    for token in runtime.decode(prefix, 0, sampling=Sampling(max_tokens=8), cancel=event):
        got.append(token)
        if len(got) == 2:
            event.set()
    assert got == free[:2]
    assert list(runtime.decode(prefix, 0, deadline=time.monotonic() - 1)) == []
    assert list(runtime.decode(prefix, 0, cancel=lambda: True)) == []
    assert not is_cancelled(None)


def test_a_reply_ends_where_the_context_ends(runtime: Runtime) -> None:
    prefix = runtime.prefill([Row([1] + [5] * 119)])
    banned = frozenset({2})
    assert len(list(runtime.decode(prefix, sampling=Sampling(max_tokens=50, banned=banned)))) == 8
    with pytest.raises(InputError, match="at most 128"):
        runtime.prefill([Row([5] * 129)])
    full = runtime.prefill([Row([5] * 128)])
    assert list(runtime.decode(full)) == []


@pytest.mark.parametrize(
    "change",
    [{"max_tokens": 0}, {"temperature": -0.1}, {"top_p": 0.0}, {"repetition_penalty": 3.0}, {"num_logprobs": 21}],
)
def test_sampling_is_checked(change: dict) -> None:
    with pytest.raises(InputError) as error:
        Sampling(**change)
    assert error.value.field == next(iter(change))


def test_loading_from_files_gives_the_same_answers(pair, tmp_path: Path) -> None:
    model, runtime = pair
    save_llama(model.backbone, tmp_path / "backbone", shape=SHAPE, dtype=torch.float32)
    model.save_projectors(tmp_path / "projectors.safetensors")
    loaded = Runtime.load(
        tmp_path / "backbone",
        projectors=tmp_path / "projectors.safetensors",
        widths={"face": 6, "voice": 4},
        placeholder_ids=PLACEHOLDERS,
    )
    rows = some_rows()
    assert torch.allclose(loaded.prefill(rows).hidden, runtime.prefill(rows).hidden, atol=1e-5)
    with pytest.raises(InputError, match="same streams"):
        Runtime(runtime.backbone, {}, PLACEHOLDERS)
