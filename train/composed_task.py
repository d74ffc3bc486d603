"""The task behind the recipes ``nano_align`` and ``nano_instruct``: composed samples, a soft label and a dialogue.

Loss = cross-entropy of the label token against the sample's target distribution, over a closed set that varies from
sample to sample, + ``dialogue_weight`` times the mean cross-entropy of the answer's tokens. In ``nano_align`` only the
projectors are trained and there is no dialogue; in ``nano_instruct`` LoRA is trained beside them. Validation uses
pictures, speakers and comments that neither has seen.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emollama import metrics
from emollama.backbones.llama import load_llama
from emollama.backbones.lora import attach_lora, save_lora
from emollama.config import LORA_TARGETS, LoraSettings
from emollama.encoders.voice import TOKEN_SCALE
from emollama.errors import DatasetError
from emollama.labels import EMODB_6, GOEMOTIONS_28, MER_6, NANO_LABELS
from emollama.model import EmoLlama, ModelBatch
from emollama.projectors import build_projectors
from emollama.prompt import SOURCES, Renderer
from train.builders.cues import SUBSETS, random_cues
from train.builders.instruct import Composed, Composer, Mix, Pools, dialogue
from train.builders.pools import VALIDATION_SPEAKERS, face_pool, voice_pool, words_pool
from train.config import TrainConfig, data_dir

ASSETS = "emollama/assets/nano"
# Label tokens that no data set here teaches: they only ever stand in a closed set as a wrong answer.
OTHER_LABELS = ("calm", "trust", "anticipation", "other")
_TO_FINE = {"happiness": "joy", "contempt": "disapproval"}
_TO_MER = {"fear": "worry"}


@dataclass(frozen=True, kw_only=True)
class ComposedOptions:
    """What is composed and what is trained.

    ``dialogue_share``: fraction of the samples that carry a dialogue; ``talk_share``: of dialogues over random cues and
    nothing else, in which every kind of course over time occurs; ``open_share``, ``fine_share``, ``mer_share``: of
    those that ask for open words, for the fine labels, or for MER's six instead of nano's eight. ``distractor`` is the
    chance of each other label to stand in the closed set as a wrong answer. ``alone_share``: samples of one modality
    only, with the class counts of their own data set. ``drop_words``: at most this share of a comment's words is left
    out, at random, so that the backbone trusts a comment it was trained on no more than a new one. ``voice_jitter``
    and ``voice_noise`` are the deviations of the noise on a voice's log-probabilities and on its standardised
    functionals, which are left out altogether in ``voice_drop`` of the samples: a few hundred recordings could
    otherwise be learned by heart.
    """

    data: str = ""
    face: str = f"{ASSETS}/face.safetensors"
    voice_run: str = "runs/voice"
    tokenizer: str = f"{ASSETS}/tokenizer.json"
    backbone: str = f"{ASSETS}/backbone"
    projectors: str = ""
    cache: str = "runs/features"
    lora_rank: int = 32
    with_lora: bool = True
    samples: int = 20_000
    valid_samples: int = 700
    dialogue_share: float = 0.7
    talk_share: float = 0.4
    dialogue_weight: float = 1.0
    open_share: float = 0.1
    fine_share: float = 0.06
    mer_share: float = 0.06
    distractor: float = 0.1
    alone_share: float = 0.25
    drop_words: float = 0.45
    voice_jitter: float = 0.8
    voice_noise: float = 2.0
    voice_drop: float = 0.7
    mix: Mix = field(default_factory=Mix)

    def build(self, config: TrainConfig) -> ComposedTask:
        return ComposedTask(config, self)


@dataclass(frozen=True, kw_only=True)
class ComposedBatch:
    """``label_at`` [B] the marker's index in a row; ``targets`` and ``asked`` (bool) [B, L] over the label tokens."""

    inputs: ModelBatch
    label_at: Tensor
    targets: Tensor
    asked: Tensor
    num_answers: int


@dataclass(frozen=True, kw_only=True)
class Row:
    """One sample as ids; ``target`` and ``asked`` [L] over the label tokens: what is right, and among which."""

    ids: list[int]
    answer: list[bool]
    label_at: int
    target: np.ndarray
    asked: np.ndarray
    sample: Composed


class ComposedTask:
    """Draws samples by (seed, epoch, index); a run resumes at any batch."""

    def __init__(
        self, config: TrainConfig, options: ComposedOptions, *, pools: tuple[Pools, Pools] | None = None
    ) -> None:
        self.config, self.options = config, options
        self.renderer = Renderer.load(Path(options.tokenizer))
        train, valid = pools or self._read_pools()
        self.train, self.valid = Composer(train, mix=options.mix), Composer(valid, mix=options.mix)
        self.label_names = tuple(dict.fromkeys((*NANO_LABELS, *GOEMOTIONS_28, *MER_6, *OTHER_LABELS)))
        self.label_token_ids = torch.tensor([ids[0] for ids in self.renderer.label_ids(self.label_names)])
        self.valid_rows = list(self._valid_rows())

    def _read_pools(self) -> tuple[Pools, Pools]:
        options = self.options
        data = data_dir(options.data)
        face, cache = Path(options.face), Path(options.cache)
        run = Path(options.voice_run)
        if not face.is_file():
            raise DatasetError(f"{face} is not there; it is made by: emollama train nano_face", field="face")
        train = Pools(
            face=face_pool(data, "train", encoder=face, cache=cache),
            voice=voice_pool(data, run=run, but=VALIDATION_SPEAKERS),
            words=words_pool(data, "train"),
        )
        valid = Pools(
            face=face_pool(data, "valid", encoder=face, cache=cache),
            voice=voice_pool(data, run=run, speakers=VALIDATION_SPEAKERS),
            words=words_pool(data, "dev"),
        )
        return train, valid

    # ---- model ---------------------------------------------------------------------------------------------------

    def build_model(self) -> nn.Module:
        options = self.options
        backbone: nn.Module = load_llama(Path(options.backbone))
        for parameter in backbone.parameters():
            parameter.requires_grad_(False)
        width = int(backbone.config.hidden_size)  # type: ignore[union-attr, arg-type]
        if options.with_lora:
            settings = LoraSettings(
                rank=options.lora_rank, alpha=2.0 * options.lora_rank, dropout=0.05, targets=LORA_TARGETS
            )
            backbone = attach_lora(backbone, settings, seed=self.config.seed)
        pools = self.train.pools
        widths = {"face": pools.face.tokens.shape[1], "voice": pools.voice.tokens.shape[1]}
        model = EmoLlama(
            backbone,
            dict(build_projectors(widths, width).items()),
            {"face": self.renderer.face_placeholder_id, "voice": self.renderer.voice_placeholder_id},
        )
        if options.projectors:
            model.load_projectors(Path(options.projectors))
        return model

    # ---- data ----------------------------------------------------------------------------------------------------

    def row(self, composer: Composer, rng: Random, *, training: bool, **draw: Any) -> Row:
        """Draw one sample and write it as ids."""
        options = self.options
        if training and rng.random() < options.talk_share * options.dialogue_share:
            return self._talk(rng)
        if training and rng.random() < options.alone_share:
            draw["subset"] = (rng.choice(SOURCES),)
        sample = composer.draw(rng, **draw)
        if training and sample.transcript is not None:
            sample = dataclasses.replace(sample, transcript=_drop_words(sample.transcript, options.drop_words, rng))
        if training and sample.voice_token is not None:
            sample = dataclasses.replace(sample, voice_token=_blur_voice(sample.voice_token, options, rng))
        if not training:
            target, asked = self._target(sample, NANO_LABELS), self._mask(NANO_LABELS)
            ids, answer, label_at = dialogue(self.renderer, sample, rng)
            return Row(ids=ids, answer=answer, label_at=label_at, target=target, asked=asked, sample=sample)
        kind = rng.random()
        wants_open = kind < options.open_share
        closed: tuple[str, ...] = NANO_LABELS
        if kind < options.open_share + options.fine_share:
            closed = GOEMOTIONS_28
        elif kind < options.open_share + options.fine_share + options.mer_share:
            closed = MER_6
        target = self._target(sample, closed)
        if not target.any():  # MER's six have no word for disgust or contempt
            closed, target = NANO_LABELS, self._target(sample, NANO_LABELS)
        asked = self._mask(closed)
        if not wants_open:
            asked |= np.array([rng.random() < options.distractor for _ in self.label_names])
        if wants_open or rng.random() >= options.dialogue_share:
            ids = self._prefix(sample)
            ids[-1] = self.renderer.token_id("<|open|>" if wants_open else "<|label|>")
            answer, label_at = [False] * len(ids), len(ids) - 1
        else:
            ids, answer, label_at = dialogue(self.renderer, sample, rng)
        return Row(ids=ids, answer=answer, label_at=label_at, target=target, asked=asked, sample=sample)

    def _talk(self, rng: Random) -> Row:
        """A dialogue over random cues; it teaches no label."""
        cues = random_cues(rng)
        nothing = np.zeros(len(self.label_names), np.float32)
        sample = Composed(
            subset=(), emotion=cues.label, conflict=False, target=nothing[: len(NANO_LABELS)], face_tokens=None,
            voice_token=None, transcript=None, cues=cues,
        )  # fmt: skip
        ids, answer, label_at = dialogue(self.renderer, sample, rng)
        asked = np.zeros(len(self.label_names), bool)
        return Row(ids=ids, answer=answer, label_at=label_at, target=nothing, asked=asked, sample=sample)

    def _prefix(self, sample: Composed) -> list[int]:
        return self.renderer.prefix(
            face_tokens=0 if sample.face_tokens is None else len(sample.face_tokens),
            voice_tokens=0 if sample.voice_token is None else 1,
            transcript=sample.transcript,
        )

    def _mask(self, names: Sequence[str]) -> np.ndarray:
        return np.array([name in names for name in self.label_names])

    def _target(self, sample: Composed, closed: Sequence[str]) -> np.ndarray:
        """The target [L] over a closed set: nano's eight as drawn, else translated; own fine labels count half."""
        target = np.zeros(len(self.label_names), np.float32)
        words = {GOEMOTIONS_28: _TO_FINE, MER_6: _TO_MER}.get(tuple(closed), {})
        for name, share in zip(NANO_LABELS, sample.target, strict=True):
            word = words.get(name, name)
            if word in closed:
                target[self.label_names.index(word)] += share
        if tuple(closed) == GOEMOTIONS_28 and sample.words_row is not None:
            own = np.zeros_like(target)
            for name in self.train.pools.words.fine[sample.words_row]:
                own[self.label_names.index(name)] += 1.0
            target = 0.5 * target + 0.5 * own / own.sum()
        return target / target.sum() if target.any() else target

    def _valid_rows(self) -> Iterator[Row]:
        rng = Random(977)
        for index in range(self.options.valid_samples):
            subset = SUBSETS[index % len(SUBSETS)]
            emotion = rng.choice(self.valid.classes(subset))
            yield self.row(self.valid, rng, training=False, subset=subset, emotion=emotion)

    def batches(self, *, epoch: int, seed: int) -> _Epoch:
        return _Epoch(self, epoch=epoch, seed=seed)

    def collate(self, rows: list[Row]) -> ComposedBatch:
        length = max(len(row.ids) for row in rows)
        pad = self.renderer.token_id("<pad>")
        ids = torch.full((len(rows), length), pad)
        mask = torch.zeros((len(rows), length), dtype=torch.long)
        labels = torch.full((len(rows), length), -100)
        faces, voices = [], []
        for index, row in enumerate(rows):
            tokens = torch.tensor(row.ids)
            ids[index, : len(tokens)] = tokens
            mask[index, : len(tokens)] = 1
            answer = torch.tensor(row.answer)
            labels[index, : len(tokens)][answer] = tokens[answer]
            if row.sample.face_tokens is not None:
                faces.append(row.sample.face_tokens)
            if row.sample.voice_token is not None:
                voices.append(row.sample.voice_token)
        features: dict[str, Any] = {}
        if faces:
            features["face"] = torch.from_numpy(np.concatenate(faces).astype(np.float32))
        if voices:
            features["voice"] = torch.from_numpy(np.stack(voices).astype(np.float32))
        return ComposedBatch(
            inputs=ModelBatch(input_ids=ids, attention_mask=mask, features=features, labels=labels),
            label_at=torch.tensor([row.label_at for row in rows]),
            targets=torch.from_numpy(np.stack([row.target for row in rows])),
            asked=torch.from_numpy(np.stack([row.asked for row in rows])),
            num_answers=int((labels[:, 1:] != -100).sum()),
        )

    # ---- learning ------------------------------------------------------------------------------------------------

    def loss(self, model: nn.Module, batch: ComposedBatch) -> tuple[Tensor, dict[str, float]]:
        assert isinstance(model, EmoLlama)
        hidden = model.hidden(batch.inputs)
        rows = torch.arange(len(batch.label_at))
        logits = model.head(hidden[rows, batch.label_at]).float()[:, self.label_token_ids]  # [B, L]
        log_probabilities = logits.masked_fill(~batch.asked, -1e4).log_softmax(-1)
        num_labelled = batch.asked.any(-1).sum().clamp_min(1)
        label_loss = -(batch.targets * log_probabilities).sum() / num_labelled
        loss, figures = label_loss, {"label_loss": label_loss.item()}
        if batch.num_answers:
            assert batch.inputs.labels is not None
            targets = batch.inputs.labels[:, 1:]
            wanted = targets != -100
            answer_loss = F.cross_entropy(model.head(hidden[:, :-1][wanted]).float(), targets[wanted])
            loss = loss + self.options.dialogue_weight * answer_loss
            figures["answer_loss"] = answer_loss.item()
        return loss, figures

    def label_log_probabilities(self, model: EmoLlama, rows: list[Row], *, batch_size: int = 64) -> np.ndarray:
        """Log-probabilities [N, 8] of NANO_LABELS at each row's label marker."""
        out = []
        for start in range(0, len(rows), batch_size):
            batch = self.collate(rows[start : start + batch_size])
            hidden = model.hidden(batch.inputs)
            at = hidden[torch.arange(len(batch.label_at)), batch.label_at]
            logits = model.head(at).float()[:, self.label_token_ids[: len(NANO_LABELS)]]
            out.append(logits.log_softmax(-1).numpy())
        return np.concatenate(out)

    def validate(self, model: nn.Module) -> dict[str, float]:
        assert isinstance(model, EmoLlama)
        rows = self.valid_rows
        probabilities = np.exp(self.label_log_probabilities(model, rows))
        truth = np.array([NANO_LABELS.index(row.sample.emotion) for row in rows])
        figures = {
            "accuracy": metrics.accuracy(truth, probabilities.argmax(1)),
            "nll": float(-np.log(probabilities[np.arange(len(truth)), truth] + 1e-9).mean()),
            "ece": metrics.expected_calibration_error(probabilities, truth),
        }
        for subset in SUBSETS:
            chosen = np.array([row.sample.subset == subset for row in rows])
            figures[f"accuracy_{'+'.join(subset)}"] = metrics.accuracy(truth[chosen], probabilities[chosen].argmax(1))
        answered = [row for row in rows if any(row.answer)][:128]
        if self.options.dialogue_share > 0:
            total, count = 0.0, 0
            for start in range(0, len(answered), 32):
                batch = self.collate(answered[start : start + 32])
                loss, tokens = model.answer_loss(batch.inputs)
                total, count = total + float(loss) * tokens, count + tokens
            figures["answer_loss"] = total / max(1, count)
        figures["loss"] = figures["nll"] + figures.get("answer_loss", 0.0)
        return figures

    def export(self, model: nn.Module, folder: Path) -> None:
        assert isinstance(model, EmoLlama)
        model.save_projectors(folder / "projectors.safetensors", dtype=torch.float16)
        if self.options.with_lora:
            save_lora(model.backbone, folder / "adapter", dtype=torch.float16)


class _Epoch:
    """One epoch's batches, of similar lengths; batch ``i`` can be drawn by itself."""

    def __init__(self, task: ComposedTask, *, epoch: int, seed: int) -> None:
        self.task, self.epoch, self.seed = task, epoch, seed
        self.size = task.config.batch_size
        self.chunk = 8  # batches that are sorted by length together
        self._rows: tuple[int, list[Row]] | None = None

    def __len__(self) -> int:
        return max(1, self.task.options.samples // self.size)

    def __iter__(self) -> Iterator[ComposedBatch]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> ComposedBatch:
        chunk, within = divmod(index, self.chunk)
        if self._rows is None or self._rows[0] != chunk:
            rng = Random(f"{self.seed}/{self.epoch}/{chunk}")
            rows = [self.task.row(self.task.train, rng, training=True) for _ in range(self.chunk * self.size)]
            rows.sort(key=lambda row: len(row.ids))
            groups = [rows[start : start + self.size] for start in range(0, len(rows), self.size)]
            rng.shuffle(groups)
            self._rows = (chunk, [row for group in groups for row in group])
        return self.task.collate(self._rows[1][within * self.size : (within + 1) * self.size])


def _drop_words(text: str, most: float, rng: Random) -> str:
    """Leave out up to ``most`` of the words; at least one stays."""
    words = text.split()
    share = rng.uniform(0.0, most)
    kept = [word for word in words if rng.random() >= share]
    return " ".join(kept or words[:1])


def _blur_voice(token: np.ndarray, options: ComposedOptions, rng: Random) -> np.ndarray:
    """Jitter a voice token [D]: its log-probabilities a little, its functionals so that no recording is recognised."""
    noise = np.random.default_rng(rng.getrandbits(63))
    opinion, functionals = token[: len(EMODB_6)], token[len(EMODB_6) :]
    opinion = opinion * rng.uniform(0.7, 1.3) + noise.normal(scale=options.voice_jitter, size=opinion.shape)
    opinion = opinion - np.logaddexp.reduce(opinion)
    keep = float(rng.random() >= options.voice_drop)
    blur = noise.normal(scale=options.voice_noise * TOKEN_SCALE, size=functionals.shape)
    functionals = keep * (functionals + blur)
    return np.concatenate((opinion, functionals)).astype(np.float32)
