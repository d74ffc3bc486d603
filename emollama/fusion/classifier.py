"""A small classifier over utterance vectors: each modality to a common width, then those present are put together.

Three ways. "votes": every modality gives logits of its own and those of the present ones are added (a product of
experts), so that what the others say does not change when one is silent. "softmax": attention by a score for each
modality from its own hidden vector, softmax over the ones that are present. "joint": MERBench's attention, where one
network reads all hidden vectors side by side and gives each a weight that is not normalised. An absent modality has no
vote, no vector and no weight in any of them. Inputs are standardised by what the training clips had.

A classifier is a folder: ``fusion.json`` and ``fusion.safetensors``; members (seeds) are averaged as probabilities.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from emollama.errors import CheckpointError, InputError
from emollama.fusion.utterances import Utterances
from emollama.tensors import check_tensors, read_tensors, write_json, write_tensors

Attention = Literal["votes", "softmax", "joint"]
CONFIG, WEIGHTS = "fusion.json", "fusion.safetensors"
_CLIP = 5.0  # standard deviations


@dataclass(frozen=True, kw_only=True)
class FusionConfig:
    """``widths`` of the modalities in their order, the labels in theirs, and the sizes of the network."""

    labels: tuple[str, ...]
    widths: Mapping[str, int]
    attention: Attention = "softmax"
    hidden: int = 64
    dropout: float = 0.5

    def __post_init__(self) -> None:
        if len(set(self.labels)) != len(self.labels) or len(self.labels) < 2:
            raise InputError(f"labels are {self.labels}; allowed: two or more, each once", field="labels")
        if not self.widths or min(self.widths.values()) < 1:
            raise InputError(
                f"widths are {dict(self.widths)}; allowed: one modality or more, each 1 or more", field="widths"
            )
        if self.attention not in get_args(Attention):
            raise InputError(
                f"attention is {self.attention!r}; allowed: {', '.join(get_args(Attention))}", field="attention"
            )
        if self.hidden < 1:
            raise InputError(f"hidden is {self.hidden}; allowed: 1 or more", field="hidden")
        if not 0.0 <= self.dropout < 1.0:
            raise InputError(f"dropout is {self.dropout}; allowed: 0 up to, not including, 1", field="dropout")

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(self.widths)


class FusionNet(nn.Module):
    """One member. ``mean_NAME`` and ``scale_NAME`` [D] standardise a modality; see `standardise_by`."""

    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        self.config = config
        hidden, dropout = config.hidden, config.dropout
        for name, width in config.widths.items():
            self.register_buffer(f"mean_{name}", torch.zeros(width))
            self.register_buffer(f"scale_{name}", torch.ones(width))
        self.enter = nn.ModuleDict(
            {
                name: nn.Sequential(
                    nn.Dropout(dropout), nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout),
                    nn.Linear(hidden, hidden), nn.ReLU(),
                )
                for name, width in config.widths.items()
            }
        )  # fmt: skip
        if config.attention == "votes":
            self.vote = nn.ModuleDict({name: nn.Linear(hidden, len(config.labels)) for name in config.widths})
            return
        self.score: nn.Module
        if config.attention == "softmax":
            self.score = nn.ModuleDict(
                {name: nn.Sequential(nn.Linear(hidden, hidden // 2 or 1), nn.Tanh(), nn.Linear(hidden // 2 or 1, 1))
                 for name in config.widths}
            )  # fmt: skip
        else:
            num = len(config.widths)
            self.score = nn.Sequential(
                nn.Linear(num * hidden, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, num)
            )
        self.leave = nn.Linear(hidden, len(config.labels))

    def standardise_by(self, utterances: Utterances) -> None:
        """Take mean and deviation of each modality from the clips that have it; a constant number stays unscaled."""
        for name, rows in utterances.features.items():
            there = rows[np.isfinite(rows[:, 0])].astype(np.float64)
            if not len(there):
                raise InputError(f"no clip has {name}; allowed: at least one", field="features")
            deviation = there.std(0)
            self.get_buffer(f"mean_{name}").copy_(torch.from_numpy(there.mean(0)))
            self.get_buffer(f"scale_{name}").copy_(torch.from_numpy(np.where(deviation > 1e-6, deviation, 1.0)))

    def forward(self, features: Mapping[str, Tensor], present: Tensor) -> Tensor:
        """Return logits [B, C] of ``features`` [B, D] each and ``present`` bool [B, M]; absent rows do not count."""
        return self.answer(self.encode(features, present), present)

    def encode(self, features: Mapping[str, Tensor], present: Tensor) -> Tensor:
        """Return the hidden vectors [B, M, H], zeros where a modality is not ``present``; each depends on its own."""
        hidden = []
        for column, name in enumerate(self.config.modalities):
            values = (features[name] - self.get_buffer(f"mean_{name}")) / self.get_buffer(f"scale_{name}")
            values = values.clamp(-_CLIP, _CLIP).masked_fill(~present[:, column, None], 0.0)  # NaN never enters
            hidden.append(self.enter[name](values))
        return torch.stack(hidden, dim=1) * present[..., None]

    def answer(self, hidden: Tensor, present: Tensor) -> Tensor:
        """Return logits [B, C] of hidden vectors [B, M, H] as far as they are ``present``."""
        if self.config.attention == "votes":
            votes = [self.vote[name](hidden[:, n]) for n, name in enumerate(self.config.modalities)]
            return (torch.stack(votes, dim=1) * present[..., None]).sum(1)
        stacked = hidden * present[..., None]
        if isinstance(self.score, nn.ModuleDict):
            scores = torch.cat(
                [self.score[name](stacked[:, n]) for n, name in enumerate(self.config.modalities)], dim=1
            )
            weights = scores.masked_fill(~present, float("-inf")).softmax(1)
        else:
            weights = self.score(stacked.flatten(1)) * present
        return self.leave((weights[..., None] * stacked).sum(1))


class FusionClassifier:
    """One or several members that vote with their mean probabilities."""

    def __init__(self, members: Sequence[FusionNet]) -> None:
        if not members or any(member.config != members[0].config for member in members):
            raise InputError(
                "members are none or differ; allowed: one or more of the same configuration", field="members"
            )
        self.members = [member.eval() for member in members]
        self.config = members[0].config

    @property
    def labels(self) -> tuple[str, ...]:
        return self.config.labels

    @torch.inference_mode()
    def member_probabilities(self, utterances: Utterances) -> np.ndarray:
        """Return [members, N, C] float64; raises `InputError` for other modalities, or a clip with none of them."""
        if utterances.widths != dict(self.config.widths):
            raise InputError(f"widths are {utterances.widths}; allowed: {dict(self.config.widths)}", field="features")
        order = [utterances.modalities.index(name) for name in self.config.modalities]  # a table may have another
        present = utterances.present[:, order]
        if not present.any(1).all():
            name = utterances.names[int(np.flatnonzero(~present.any(1))[0])]
            raise InputError(f"{name!r} has no modality at all; allowed: one or more", field="features")
        tensors = {name: torch.from_numpy(utterances.features[name]).float() for name in self.config.modalities}
        there = torch.from_numpy(present)
        return np.stack([member(tensors, there).double().softmax(1).numpy() for member in self.members])

    def probabilities(self, utterances: Utterances) -> np.ndarray:
        """Return [N, C] float64, each row of sum 1."""
        mean: np.ndarray = self.member_probabilities(utterances).mean(0)
        return mean

    def predict(self, utterances: Utterances) -> list[str]:
        return [self.labels[column] for column in self.probabilities(utterances).argmax(1)]

    # ---- files -------------------------------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        tensors = {
            f"members.{number}.{name}": tensor
            for number, member in enumerate(self.members)
            for name, tensor in member.state_dict().items()
        }
        write_tensors(folder / WEIGHTS, tensors)
        write_json(folder / CONFIG, {"members": len(self.members), **asdict(self.config)})

    @classmethod
    def load(cls, folder: Path) -> FusionClassifier:
        """Read a folder strictly; a missing, left-over or misshapen tensor raises `CheckpointError`."""
        path = folder / CONFIG
        try:
            document: dict[str, Any] = json.loads(path.read_text("utf-8"))
            count = int(document.pop("members"))
            config = FusionConfig(**{**document, "labels": tuple(document["labels"])})
        except FileNotFoundError as error:
            raise CheckpointError(
                f"{path} is missing; it is made by: emollama train fusion", field="checkpoint"
            ) from error
        except (ValueError, TypeError, KeyError) as error:
            raise CheckpointError(
                f"{path} is no configuration of a fusion classifier: {error}", field="checkpoint"
            ) from error
        members = [FusionNet(config) for _ in range(count)]
        tensors = read_tensors(folder / WEIGHTS)
        expected = {
            f"members.{number}.{name}": tensor
            for number, member in enumerate(members)
            for name, tensor in member.state_dict().items()
        }
        check_tensors(tensors, expected, what=str(folder / WEIGHTS))
        for number, member in enumerate(members):
            prefix = f"members.{number}."
            own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
            member.load_state_dict(own, strict=True)
        return cls(members)
