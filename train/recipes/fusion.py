"""Recipe ``fusion``: the small classifier over utterance vectors, with dropout of whole modalities.

    emollama train fusion task.table=clips.safetensors task.valid_table=valid.safetensors

Modality dropout is named by the MER2024-SEMI winner (arXiv 2409.07078) as its remedy for modality dependence, without
probability or scheme; both are our choice here. In each batch every clip loses each of its modalities with
``modality_dropout``, independently, and keeps one at random where all would go (scheme "each"); or it loses one of
them, picked at random, with that probability (scheme "one"). The clip is learned whole as well (the mean of the two
losses), and ``consistency`` draws the two answers together, each towards the other as it stands. Where nothing is
dropped both answers are one, and the loss is the plain one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emollama import metrics
from emollama.errors import DatasetError, InputError
from emollama.fusion.classifier import Attention, FusionClassifier, FusionConfig, FusionNet
from emollama.fusion.utterances import Utterances
from train.config import TrainConfig

Scheme = Literal["each", "one"]


@dataclass(frozen=True, kw_only=True)
class FusionOptions:
    """``table`` is a table of utterances; without ``valid_table`` the training clips themselves are scored.

    ``labels`` are those of the table in alphabetical order where none are named. Clips without a label are left out.
    """

    table: str = ""
    valid_table: str = ""
    labels: tuple[str, ...] = ()
    attention: Attention = "softmax"
    hidden: int = 64
    dropout: float = 0.2
    modality_dropout: float = 0.5
    scheme: Scheme = "each"
    consistency: float = 0.5

    def __post_init__(self) -> None:
        if not 0.0 <= self.modality_dropout < 1.0:
            raise InputError(
                f"modality_dropout is {self.modality_dropout}; allowed: 0 up to, not including, 1",
                field="modality_dropout",
            )
        if not 0.0 <= self.consistency <= 100.0:
            raise InputError(f"consistency is {self.consistency}; allowed: 0 to 100", field="consistency")
        if self.scheme not in get_args(Scheme):
            raise InputError(f"scheme is {self.scheme!r}; allowed: {', '.join(get_args(Scheme))}", field="scheme")

    def build(self, config: TrainConfig) -> FusionTask:
        if not self.table:
            raise InputError("table is empty; name the table of utterances by task.table=FILE", field="table")
        valid = Utterances.load(Path(self.valid_table)) if self.valid_table else None
        return FusionTask(config, self, Utterances.load(Path(self.table)), valid=valid)


@dataclass(frozen=True, kw_only=True)
class FusionBatch:
    """``features`` [B, D] each; bool [B, M]: what the clips have (``whole``) and what they are left (``present``).

    ``targets`` [B] and ``weights`` [B] are those of the loss's terms.
    """

    features: dict[str, Tensor]
    whole: Tensor
    present: Tensor
    targets: Tensor
    weights: Tensor


class FusionTask:
    """A table in memory; ``weights`` [N] scale the loss of each clip (pseudo-labelled ones may count less)."""

    def __init__(
        self,
        config: TrainConfig,
        options: FusionOptions,
        table: Utterances,
        *,
        valid: Utterances | None = None,
        weights: Sequence[float] | None = None,
    ) -> None:
        self.config, self.options = config, options
        given = np.ones(len(table)) if weights is None else np.asarray(weights, np.float64)
        if given.shape != (len(table),) or not (given >= 0).all():
            raise InputError(f"weights are {given.shape}; allowed: one of 0 or more a clip", field="weights")
        labelled = [row for row, label in enumerate(table.labels) if label is not None]
        if not labelled:
            raise DatasetError("the table has no labelled clip", field="table")
        self.train = table.take(labelled)
        self.labels = options.labels or tuple(sorted({label for label in self.train.labels if label is not None}))
        self.weights = torch.from_numpy(given[labelled]).float()
        self.targets = torch.tensor([self.index_of(label) for label in self.train.labels])
        self.valid = valid
        if valid is not None and any(label is None for label in valid.labels):
            raise DatasetError("the validation table has a clip without a label", field="valid_table")
        self.features = {name: torch.from_numpy(rows).float() for name, rows in self.train.features.items()}
        self.present = torch.from_numpy(self.train.present)
        if not bool(self.present.any(1).all()):
            raise DatasetError("the table has a labelled clip without any modality", field="table")

    def index_of(self, label: str | None) -> int:
        if label not in self.labels:
            raise DatasetError(f"label {label!r}; allowed: {', '.join(self.labels)}", field="labels")
        return self.labels.index(label)

    def build_model(self) -> nn.Module:
        options = self.options
        net = FusionNet(
            FusionConfig(
                labels=self.labels, widths=self.train.widths, attention=options.attention, hidden=options.hidden,
                dropout=options.dropout,
            )
        )  # fmt: skip
        net.standardise_by(self.train)
        return net

    def batches(self, *, epoch: int, seed: int) -> _Epoch:
        return _Epoch(self, epoch=epoch, seed=seed)

    def loss(self, model: nn.Module, batch: FusionBatch) -> tuple[Tensor, dict[str, float | Tensor]]:
        device = next(model.parameters()).device
        assert isinstance(model, FusionNet)
        whole, present, weights = (part.to(device) for part in (batch.whole, batch.present, batch.weights))
        hidden = model.encode({name: rows.to(device) for name, rows in batch.features.items()}, whole)
        targets, logits = batch.targets.to(device), model.answer(hidden, whole)
        each = F.cross_entropy(logits, targets, reduction="none")
        if bool((whole != present).any()):
            partial = model.answer(hidden, present)
            each = (each + F.cross_entropy(partial, targets, reduction="none")) / 2
            each = each + self.options.consistency * disagreement(logits, partial)
        return (each * weights).sum() / weights.sum().clamp_min(1e-9), {}

    def validate(self, model: nn.Module) -> dict[str, float]:
        """Score the validation clips whole, and with each modality missing."""
        assert isinstance(model, FusionNet)
        classifier = FusionClassifier([model])
        scored = self.train if self.valid is None else self.valid
        truth = np.array([self.index_of(label) for label in scored.labels])
        probabilities = classifier.probabilities(scored)
        figures = {
            "loss": float(-np.log(probabilities[np.arange(len(truth)), truth].clip(1e-12)).mean()),
            "macro_f1": metrics.macro_f1(truth, probabilities.argmax(1), num_classes=len(self.labels)),
            "waf": metrics.weighted_f1(truth, probabilities.argmax(1), num_classes=len(self.labels)),
        }
        for name in scored.modalities if len(scored.modalities) > 1 else ():
            spared = scored.without(name)
            kept = spared.present.any(1)  # a clip of this modality alone cannot be judged without it
            if kept.any():
                told = classifier.probabilities(spared.take(np.flatnonzero(kept))).argmax(1)
                figures[f"macro_f1_without_{name}"] = metrics.macro_f1(truth[kept], told, num_classes=len(self.labels))
        return figures

    def export(self, model: nn.Module, folder: Path) -> None:
        assert isinstance(model, FusionNet)
        FusionClassifier([model]).save(folder)


class _Epoch:
    """One epoch's batches; batch ``i`` depends on (seed, epoch, i) alone."""

    def __init__(self, task: FusionTask, *, epoch: int, seed: int) -> None:
        self.task, self.epoch, self.seed = task, epoch, seed
        generator = torch.Generator().manual_seed(seed * 100_003 + epoch)
        self.parts = torch.randperm(len(task.targets), generator=generator).split(task.config.batch_size)

    def __len__(self) -> int:
        return len(self.parts)

    def __iter__(self) -> Iterator[FusionBatch]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> FusionBatch:
        task, rows = self.task, self.parts[index]
        generator = torch.Generator().manual_seed((self.seed * 100_003 + self.epoch) * 10_007 + index + 1)
        return FusionBatch(
            features={name: values[rows] for name, values in task.features.items()},
            whole=task.present[rows],
            present=drop_modalities(
                task.present[rows], task.options.modality_dropout, scheme=task.options.scheme, generator=generator
            ),
            targets=task.targets[rows],
            weights=task.weights[rows],
        )


def disagreement(first: Tensor, second: Tensor) -> Tensor:
    """Return [B], the two Kullback-Leibler divergences of logits [B, C]; in each the one that teaches has no gradient.

    0 where they are equal, so a clip that lost nothing adds nothing.
    """
    one, other = first.log_softmax(-1), second.log_softmax(-1)
    return (
        F.kl_div(other, one.detach(), reduction="none", log_target=True)
        + F.kl_div(one, other.detach(), reduction="none", log_target=True)
    ).sum(-1)


def drop_modalities(
    present: Tensor, probability: float, *, scheme: Scheme = "each", generator: torch.Generator
) -> Tensor:
    """Return ``present`` bool [B, M] with modalities dropped by chance; every clip keeps one of those it has."""
    rows = torch.arange(len(present))
    chosen = torch.rand(present.shape, generator=generator).masked_fill(~present, -1.0).argmax(1)
    if scheme == "one":
        kept = present.clone()
        loses = (torch.rand(len(present), generator=generator) < probability) & (present.sum(1) > 1)
        kept[rows[loses], chosen[loses]] = False
        return kept
    kept = present & (torch.rand(present.shape, generator=generator) >= probability)
    empty = ~kept.any(1)
    kept[empty, chosen[empty]] = True
    return kept


def fusion() -> TrainConfig:
    """Seconds on a CPU for some thousand clips; in place of MERBench's 50 random draws, one setting for all."""
    return TrainConfig(
        recipe="fusion",
        run_dir="runs/fusion",
        task=FusionOptions(),
        epochs=40,
        batch_size=32,
        learning_rate=1e-3,
        weight_decay=1e-4,
        threads=1,
        clip_norm=5.0,
        validate_every_epochs=40,
        monitor="loss:min",
        export="last",
        log_every_steps=50,
    )
