"""Recipe ``nano_backbone``: nano's LLaMA, trained from scratch on emotional English.

One sentence is read once and asked several questions in parallel: after ``<s><|words|> text <|/words|>`` come the
branches ``<|label|>``, ``<|open|>`` and ``<|affect|>``, each of which sees the sentence and itself but not the other
branches, at the positions it would have alone. So the prompt of inference and the prompt of training are the same ids.

What is learned at once:

- ``<|label|>``: the Ekman class over `NANO_LABELS`, over the MER 6, and the 28 fine labels of GoEmotions, so that any
  of these closed sets can be asked. Targets are soft: several labels share the mass, and part of it comes from a linear
  n-gram model's out-of-fold opinion (`train.recipes.ngram_teacher`), the cheapest cure for overfitting 43k comments.
- ``<|open|>``: the 28 fine labels.
- ``<|affect|>``: valence, then arousal, of EmoBank as two-bucket soft targets.
- next tokens: of the sentences, and of the instruction grammar's answers (cues to rationale).

Against overfitting: BPE-dropout (merges undone at random), token dropout, lower-casing and missing punctuation as
recognisers write, dropout on embeddings and residual branches, label smoothing, weight averaging.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from emollama import metrics
from emollama.backbones.llama import build_llama, save_llama
from emollama.backbones.score import next_token_logits
from emollama.config import LlamaShape
from emollama.datasets import emobank, goemotions, xed
from emollama.labels import EKMAN_7, GOEMOTIONS_28, MER_6, NANO_LABELS
from emollama.phrases import ask
from emollama.prompt import Renderer, label_token
from train.builders.cues import random_cues
from train.config import TrainConfig, data_dir
from train.recipes.ngram_teacher import cached_probabilities
from train.tokenizer import AROUSAL_TOKENS, NUM_BUCKETS, VALENCE_TOKENS

_NANO_TOKENIZER = Path(__file__).parents[2] / "emollama" / "assets" / "nano" / "tokenizer.json"
# MER's six have worry where Ekman has fear, and nothing for disgust.
_TO_MER = {name: name for name in MER_6 if name != "worry"} | {"fear": "worry"}
# The targets of a text, each a soft distribution over the tokens of one closed set.
_TARGETS = ("label", "mer", "fine", "open", "valence", "arousal")
_IGNORED = -100


@dataclass(frozen=True, kw_only=True)
class BackboneOptions:
    """Model sizes, what a loss is worth, and how texts are roughened. All probabilities are per text or per token."""

    data: str = ""
    tokenizer: str = str(_NANO_TOKENIZER)
    hidden_size: int = 256
    intermediate_size: int = 704
    num_layers: int = 4
    num_heads: int = 4
    max_positions: int = 1024
    dropout: float = 0.1
    embedding_dropout: float = 0.15
    bpe_dropout: float = 0.06
    token_dropout: float = 0.08
    plain_text: float = 0.2
    label_smoothing: float = 0.02
    teacher_share: float = 0.5
    weight_xed: float = 0.35
    weight_lm: float = 0.25
    weight_mer: float = 0.1
    weight_fine: float = 0.3
    weight_open: float = 0.5
    weight_affect: float = 0.5
    lm_fraction: float = 0.3
    num_instructions: int = 2400
    instruction_batch: int = 12
    max_text_tokens: int = 80
    max_texts: int = 0

    def build(self, config: TrainConfig) -> BackboneTask:
        return BackboneTask(config, self)


def nano_backbone() -> TrainConfig:
    """Four epochs in bfloat16 on one CPU core; the log of the shipped run is ``docs/logs/backbone.jsonl``."""
    return TrainConfig(
        recipe="nano_backbone",
        run_dir="runs/backbone",
        task=BackboneOptions(),
        epochs=4,
        batch_size=64,
        learning_rate=1.5e-3,
        min_learning_rate_ratio=0.1,
        warmup_steps=200,
        weight_decay=0.1,
        betas=(0.9, 0.98),
        ema_decay=0.998,
        precision="bf16",
        threads=1,
        monitor="macro_f1:max",
        export="best",
        export_dir="emollama/assets/nano/backbone",
    )


def debug() -> TrainConfig:
    """Tiny sizes for tests: the same code in seconds."""
    options = BackboneOptions(
        hidden_size=32, intermediate_size=64, num_layers=2, num_heads=2, num_instructions=4, instruction_batch=2,
        max_texts=64,
    )  # fmt: skip
    return TrainConfig(
        recipe="nano_backbone", run_dir="runs/backbone-debug", task=options, epochs=1, max_steps=2, batch_size=4,
        monitor="macro_f1:max",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TextBatch:
    """Padded sequences and where their losses are.

    ``ids``, ``positions`` [B, T]; ``mask`` [B, 1, T, T] (true = may look); ``next_ids`` [B, T] with -100 where no next
    token is learned; ``asked``: name -> (rows [n], columns [n], targets [n, K], weights [n]) of each closed set.
    """

    ids: Tensor
    positions: Tensor
    mask: Tensor
    next_ids: Tensor
    asked: dict[str, tuple[Tensor, Tensor, Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class _Text:
    """One sentence: token ids as written and as a plain transcript, and its targets with their weights."""

    written: np.ndarray
    plain: np.ndarray
    targets: dict[str, tuple[np.ndarray, float]]


class BackboneTask:
    def __init__(self, config: TrainConfig, options: BackboneOptions) -> None:
        self.config, self.options = config, options
        self.data = data_dir(options.data)
        self.renderer = Renderer.load(Path(options.tokenizer))
        token = self.renderer.token_id
        words = [token(name) for name in VALENCE_TOKENS], [token(name) for name in AROUSAL_TOKENS]
        fine = [token(label_token(name)) for name in GOEMOTIONS_28]
        self.sets = {
            "label": torch.tensor([token(label_token(name)) for name in NANO_LABELS]),
            "mer": torch.tensor([token(label_token(name)) for name in MER_6]),
            "fine": torch.tensor(fine),
            "open": torch.tensor(fine),
            "valence": torch.tensor(words[0]),
            "arousal": torch.tensor(words[1]),
        }
        self.weights = {
            "label": 1.0, "mer": options.weight_mer, "fine": options.weight_fine, "open": options.weight_open,
            "valence": options.weight_affect, "arousal": options.weight_affect,
        }  # fmt: skip
        self.halves = _merge_halves(Path(options.tokenizer), self.renderer.tokenizer.get_vocab_size())

    # ---- data ------------------------------------------------------------------------------------------------------

    @cached_property
    def texts(self) -> list[_Text]:
        options = self.options
        limit = options.max_texts or None
        comments = goemotions.read(self.data, split="train")[:limit]
        lines = [line for line in xed.read(self.data) if line.ekman][:limit]
        sentences = emobank.read(self.data, split="train")[:limit]
        targets: list[dict[str, tuple[np.ndarray, float]]] = []
        teacher = None
        if options.teacher_share > 0:
            teacher = cached_probabilities(
                [comment.text for comment in comments],
                [comment.ekman for comment in comments],
                NANO_LABELS,
                seed=0,
                folder=Path(self.config.run_dir),
            )
        for number, comment in enumerate(comments):
            label = _share(comment.ekman, NANO_LABELS)
            if teacher is not None:
                label = (1 - options.teacher_share) * label + options.teacher_share * teacher[number]
            fine = _share(comment.labels, GOEMOTIONS_28)
            targets.append(
                {"label": (self._smooth(label), 1.0), "fine": (fine, 1.0), "open": (fine, 1.0)}
                | self._mer(comment.ekman, 1.0)
            )
        for line in lines:
            label = self._smooth(_share(line.ekman, NANO_LABELS))
            targets.append({"label": (label, options.weight_xed)} | self._mer(line.ekman, options.weight_xed))
        for sentence in sentences:
            targets.append({"valence": (_buckets(sentence.valence), 1.0), "arousal": (_buckets(sentence.arousal), 1.0)})
        strings = [comment.text for comment in comments] + [line.text for line in lines] + [s.text for s in sentences]
        written = self._encode(strings)
        plain = self._encode([_as_heard(text) for text in strings])
        return [
            _Text(written=own, plain=heard, targets=target)
            for own, heard, target in zip(written, plain, targets, strict=True)
            if len(own)
        ]

    def _encode(self, strings: Sequence[str]) -> list[np.ndarray]:
        encode = self.renderer.encode_untrusted
        limit = self.options.max_text_tokens
        return [np.array(encode(" ".join(text.split()))[:limit], dtype=np.int64) for text in strings]

    def _smooth(self, target: np.ndarray) -> np.ndarray:
        share = self.options.label_smoothing
        smoothed: np.ndarray = (1 - share) * target + share / len(target)
        return smoothed

    def _mer(self, ekman: Sequence[str], weight: float) -> dict[str, tuple[np.ndarray, float]]:
        names = [_TO_MER[name] for name in ekman if name in _TO_MER]
        return {"mer": (_share(names, MER_6), weight)} if names else {}

    def batches(self, *, epoch: int, seed: int) -> _Batches:
        """Texts of like length together, instruction answers in batches of their own, all in one random order."""
        rng = np.random.default_rng((seed, epoch))
        lengths = np.array([len(text.written) for text in self.texts]) * rng.uniform(0.9, 1.1, len(self.texts))
        order = np.argsort(lengths, kind="stable")
        size = self.config.batch_size
        plan: list[np.ndarray | None] = [order[start : start + size] for start in range(0, len(order), size)]
        plan += [None] * (self.options.num_instructions // self.options.instruction_batch)
        return _Batches(self, plan=[plan[index] for index in rng.permutation(len(plan))], epoch=epoch, seed=seed)

    def text_batch(self, texts: Sequence[_Text], rng: np.random.Generator) -> TextBatch:
        options, token = self.options, self.renderer.token_id
        opening, closing = [token("<s>"), token("<|words|>")], [token("<|/words|>")]
        asks = {name: token(f"<|{name}|>") for name in ("label", "open", "affect")}
        rows: list[list[int]] = []
        bases: list[int] = []
        branches: list[list[int]] = []
        next_rows: list[list[int]] = []
        asked: dict[str, list[tuple[int, int, np.ndarray, float]]] = {name: [] for name in _TARGETS}
        for row, text in enumerate(texts):
            body = text.plain if len(text.plain) and rng.random() < options.plain_text else text.written
            body = self._split_merges(body, rng)
            base = [*opening, *body.tolist(), *closing]
            learned = rng.random(len(base)) < options.lm_fraction
            learned[0] = False
            next_ids = [base[i + 1] if i + 1 < len(base) and learned[i] else _IGNORED for i in range(len(base))]
            dropped = rng.random(len(base)) < options.token_dropout * 2 * rng.random()
            dropped[:2] = dropped[-1] = False
            ids = [token("<pad>") if gone else one for one, gone in zip(base, dropped, strict=True)]
            branch: list[int] = []

            def place(name: str, row: int, column: int, text: _Text) -> None:
                if name in text.targets:
                    target, weight = text.targets[name]
                    asked[name].append((row, column, target, weight * self.weights[name]))

            if "label" in text.targets:
                for name in ("label", "mer", "fine"):
                    place(name, row, len(ids), text)
                ids.append(asks["label"])
                branch.append(1)
            if "open" in text.targets:
                place("open", row, len(ids), text)
                ids.append(asks["open"])
                branch.append(2)
            if "valence" in text.targets:
                place("valence", row, len(ids), text)
                place("arousal", row, len(ids) + 1, text)
                drawn = int(rng.choice(NUM_BUCKETS, p=text.targets["valence"][0]))
                ids += [asks["affect"], int(self.sets["valence"][drawn])]
                branch += [3, 3]
            rows.append(ids)
            bases.append(len(base))
            branches.append([0] * len(base) + branch)
            next_rows.append(next_ids + [_IGNORED] * len(branch))
        return _collate(rows, next_rows, branches, bases, asked, pad=token("<pad>"))

    def _split_merges(self, ids: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """BPE-dropout in reverse: undo a token's last merge at random, twice over."""
        for _ in range(2):
            left, right = self.halves[0][ids], self.halves[1][ids]
            cut = (left >= 0) & (rng.random(len(ids)) < self.options.bpe_dropout)
            if cut.any():
                pairs = np.stack([np.where(cut, left, ids), np.where(cut, right, -1)], axis=1).ravel()
                ids = pairs[pairs >= 0]
        return ids

    def instruction_batch(self, rng: np.random.Generator) -> TextBatch:
        """Answers to questions about random cues; half of the samples carry a transcript."""
        draw = Random(int(rng.integers(2**31)))
        rows, next_rows = [], []
        for _ in range(self.options.instruction_batch):
            cues = random_cues(draw)
            _, question, answer = ask(cues, draw)
            prefix = [self.renderer.token_id("<s>"), self.renderer.token_id("<|label|>")]
            ids, is_answer = self.renderer.supervised(
                prefix=prefix, label=cues.label, cues=cues, question=question, answer=answer
            )
            ids, is_answer = ids[: self.options.max_positions], is_answer[: self.options.max_positions]
            rows.append(ids)
            told = zip(ids[1:], is_answer[1:], strict=True)
            next_rows.append([after if answer_token else _IGNORED for after, answer_token in told] + [_IGNORED])
        lengths = [len(row) for row in rows]
        branches = [[0] * length for length in lengths]
        return _collate(rows, next_rows, branches, lengths, {}, pad=self.renderer.token_id("<pad>"))

    # ---- model -----------------------------------------------------------------------------------------------------

    @property
    def shape(self) -> LlamaShape:
        options, token = self.options, self.renderer.token_id
        return LlamaShape(
            vocab_size=self.renderer.tokenizer.get_vocab_size(),
            hidden_size=options.hidden_size,
            intermediate_size=options.intermediate_size,
            num_layers=options.num_layers,
            num_heads=options.num_heads,
            num_kv_heads=options.num_heads,
            max_positions=options.max_positions,
            rms_norm_eps=1e-6,
            tie_embeddings=True,
            bos_token_id=token("<s>"),
            eos_token_ids=(token("</s>"),),
            pad_token_id=token("<pad>"),
        )

    def build_model(self) -> nn.Module:
        model = build_llama(self.shape)
        _add_dropout(model, residual=self.options.dropout, embedding=self.options.embedding_dropout)
        return model

    def loss(self, model: nn.Module, batch: TextBatch) -> tuple[Tensor, dict[str, float]]:
        device = next(model.parameters()).device
        hidden = _hidden(model, batch, device)
        total = hidden.new_zeros((), dtype=torch.float32)
        figures: dict[str, float] = {}
        next_ids = batch.next_ids.to(device)
        learned = next_ids != _IGNORED
        if learned.any():
            logits = _head(model)(hidden[learned]).float()  # [n, V]
            lm = F.cross_entropy(logits, next_ids[learned])
            total = total + (self.options.weight_lm if batch.asked else 1.0) * lm
            figures["lm" if batch.asked else "instructions"] = lm.item()
        for name, (rows, columns, targets, weights) in batch.asked.items():
            logits = _set_logits(model, hidden[rows, columns], self.sets[name].to(device))
            each = -(targets.to(device) * logits.log_softmax(-1)).sum(-1)
            total = total + (each * weights.to(device)).sum() / len(batch.ids)
            figures[name] = each.mean().item()
        return total, figures

    # ---- validation and export -------------------------------------------------------------------------------------

    def validate(self, model: nn.Module) -> dict[str, float]:
        """Macro-F1, accuracy, ECE and NLL of GoEmotions dev (one Ekman class); Pearson's r of EmoBank dev."""
        limit = self.options.max_texts or None
        comments = goemotions.read(self.data, split="dev")[:limit]
        single = [comment for comment in comments if len(comment.ekman) == 1]
        prompts = [self.renderer.prefix(transcript=comment.text) for comment in single]
        logits = next_token_logits(model, prompts, self.sets["label"].tolist())
        truth = np.array([NANO_LABELS.index(comment.ekman[0]) for comment in single])
        figures = label_figures(logits.double().softmax(-1).numpy(), truth)

        sentences = emobank.read(self.data, split="dev")[:limit]
        centres = torch.linspace(-1, 1, NUM_BUCKETS)
        asked = self.renderer.token_id("<|affect|>")
        prompts = [[*self.renderer.modalities(transcript=sentence.text), asked] for sentence in sentences]
        valence = (next_token_logits(model, prompts, self.sets["valence"].tolist()).softmax(-1) * centres).sum(-1)
        nearest = (valence[:, None] - centres).abs().argmin(1)
        prompts = [[*ids, int(self.sets["valence"][k])] for ids, k in zip(prompts, nearest, strict=True)]
        arousal = (next_token_logits(model, prompts, self.sets["arousal"].tolist()).softmax(-1) * centres).sum(-1)
        figures["valence_pearson"] = metrics.pearson(np.array([s.valence for s in sentences]), valence.numpy())
        figures["arousal_pearson"] = metrics.pearson(np.array([s.arousal for s in sentences]), arousal.numpy())
        return figures

    def export(self, model: nn.Module, folder: Path) -> None:
        """Write ``config.json`` and ``model.safetensors`` in transformers' layout: bfloat16, tied weights once."""
        folder.mkdir(parents=True, exist_ok=True)
        save_llama(model, folder, shape=self.shape, dtype=torch.bfloat16)


class _Batches:
    """The batches of one epoch, each made from its own generator, so any of them can be drawn alone."""

    def __init__(self, task: BackboneTask, *, plan: list[np.ndarray | None], epoch: int, seed: int) -> None:
        self.task, self.plan, self.epoch, self.seed = task, plan, epoch, seed

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, index: int) -> TextBatch:
        if not 0 <= index < len(self.plan):
            raise IndexError(index)
        rng = np.random.default_rng((self.seed, self.epoch, index))
        chosen = self.plan[index]
        if chosen is None:
            return self.task.instruction_batch(rng)
        return self.task.text_batch([self.task.texts[int(number)] for number in chosen], rng)

    def __iter__(self) -> Iterator[TextBatch]:
        return (self[index] for index in range(len(self)))


def label_figures(probabilities: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Score [N, 8] probabilities against indices [N] of `NANO_LABELS`; macro-F1 is over the seven that the data has."""
    predicted = probabilities.argmax(1)
    f1 = metrics.per_class_f1(truth, predicted, num_classes=len(NANO_LABELS))
    return {
        "macro_f1": float(np.mean([f1[NANO_LABELS.index(name)] for name in EKMAN_7])),
        "accuracy": metrics.accuracy(truth, predicted),
        "ece": metrics.expected_calibration_error(probabilities, truth),
        "nll": float(-np.log(np.maximum(probabilities[np.arange(len(truth)), truth], 1e-9)).mean()),
    }


def _share(names: Sequence[str], classes: Sequence[str]) -> np.ndarray:
    target = np.zeros(len(classes), dtype=np.float32)
    for name in names:
        target[classes.index(name)] += 1 / len(names)
    return target


def _buckets(value: float) -> np.ndarray:
    """Spread a value of [-1, 1] over its two nearest of nine evenly spaced buckets."""
    place = (value + 1) / 2 * (NUM_BUCKETS - 1)
    low = min(int(place), NUM_BUCKETS - 2)
    target = np.zeros(NUM_BUCKETS)
    target[low], target[low + 1] = 1 - (place - low), place - low
    return target


def _as_heard(text: str) -> str:
    """The text as a speech recogniser without punctuation would give it: lower case, letters, digits, apostrophes."""
    kept = "".join(c if c.isalnum() or c in "'’[]" else " " for c in text.lower())
    return " ".join(kept.split())


def _merge_halves(tokenizer: Path, size: int) -> tuple[np.ndarray, np.ndarray]:
    """For each token the two tokens its last merge joined, or -1."""
    document = json.loads(tokenizer.read_text(encoding="utf-8"))["model"]
    vocabulary = document["vocab"]
    left, right = np.full(size, -1), np.full(size, -1)
    for merge in document["merges"]:
        first, second = merge if isinstance(merge, list) else merge.split(" ")
        joined = vocabulary[first + second]
        left[joined], right[joined] = vocabulary[first], vocabulary[second]
    return left, right


def _collate(
    rows: Sequence[Sequence[int]],
    next_rows: Sequence[Sequence[int]],
    branches: Sequence[Sequence[int]],
    bases: Sequence[int],
    asked: dict[str, list[tuple[int, int, np.ndarray, float]]],
    *,
    pad: int,
) -> TextBatch:
    """Pad on the right. A branch (number > 0) looks at the base (0) and itself; its positions start after the base."""
    longest = max(len(row) for row in rows)
    ids = np.full((len(rows), longest), pad)
    next_ids = np.full((len(rows), longest), _IGNORED)
    branch = np.full((len(rows), longest), -1)
    positions = np.zeros((len(rows), longest), dtype=np.int64)
    for row, tokens in enumerate(rows):
        length = len(tokens)
        ids[row, :length], next_ids[row, :length], branch[row, :length] = tokens, next_rows[row], branches[row]
        positions[row, : bases[row]] = np.arange(bases[row])
        for column in range(bases[row], length):
            again = branch[row, column] == branch[row, column - 1]
            positions[row, column] = positions[row, column - 1] + 1 if again else bases[row]
    causal = np.tril(np.ones((longest, longest), dtype=bool))
    alike = (branch[:, None, :] == 0) | (branch[:, :, None] == branch[:, None, :])
    mask = causal & alike & (branch[:, None, :] >= 0)
    mask[:, :, 0] = True  # padding looks at <s>, so that no row of the softmax is empty
    out = {}
    for name, entries in asked.items():
        if entries:
            out[name] = (
                torch.tensor([entry[0] for entry in entries]),
                torch.tensor([entry[1] for entry in entries]),
                torch.from_numpy(np.stack([entry[2] for entry in entries]).astype(np.float32)),
                torch.tensor([entry[3] for entry in entries], dtype=torch.float32),
            )
    return TextBatch(
        ids=torch.from_numpy(ids),
        positions=torch.from_numpy(positions),
        mask=torch.from_numpy(mask)[:, None],
        next_ids=torch.from_numpy(next_ids),
        asked=out,
    )


def _add_dropout(model: nn.Module, *, residual: float, embedding: float) -> None:
    """Hook dropout onto the embeddings and both residual branches; names and weights stay those of LLaMA."""

    def dropping(share: float) -> Any:
        def hook(module: nn.Module, _: object, output: Tensor) -> Tensor:
            return F.dropout(output, share, training=module.training)

        return hook

    llama = cast(Any, model).model
    llama.embed_tokens.register_forward_hook(dropping(embedding))
    for layer in llama.layers:
        layer.self_attn.o_proj.register_forward_hook(dropping(residual))
        layer.mlp.down_proj.register_forward_hook(dropping(residual))


def _head(model: nn.Module) -> nn.Module:
    return cast(nn.Module, cast(Any, model).lm_head)


def _hidden(model: nn.Module, batch: TextBatch, device: torch.device) -> Tensor:
    # On a CPU the unfused kernel is twice as fast as the fused one at these lengths.
    backends = [SDPBackend.MATH] if device.type == "cpu" else [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    with sdpa_kernel(backends):
        out = cast(Any, model).model(
            input_ids=batch.ids.to(device),
            attention_mask=batch.mask.to(device),
            position_ids=batch.positions.to(device),
            use_cache=False,
        )
    return cast(Tensor, out.last_hidden_state)  # [B, T, H]


def _set_logits(model: nn.Module, hidden: Tensor, tokens: Tensor) -> Tensor:
    """Logits [n, K] of a closed set: the rows of the (tied) head that are asked for."""
    weight = cast(Tensor, _head(model).weight)[tokens]
    return F.linear(hidden, weight).float()
