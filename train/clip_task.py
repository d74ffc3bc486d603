"""The task of fine-tuning on people's own clips: manifest -> cached readings -> examples -> loss.

Loss = cross-entropy of the label's first token against the sample's shares, among the label set, + ``answer_weight``
times the mean cross-entropy of the answer's tokens. What the model reads, how a sample is written and what is exported
is the trainee's (`train.trainees`); order, balance, modality dropout, replay, batches and validation are here.

Every epoch is a list of slots that depends on (seed, epoch) alone; chunks of several batches are written together,
sorted by length and cut into batches, so that little is padded and any batch can be made by itself after a resumption.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import numpy as np

from emollama.config import LORA_TARGETS, LoraSettings
from emollama.errors import DatasetError, InputError
from emollama.labels import canonical
from emollama.manifest import Manifest, Sample, read_manifest
from train.clip_batch import ClipBatch, collate
from train.data.split import Shares, TooFewGroupsError, divide
from train.data_facts import OWN_FILE, OWN_SPLIT, SET_APART, DataFacts, data_facts, split_facts
from train.features import FeatureCache
from train.trainees import Example, Outcome, Reading, Trainee, preset_of, trainee_factory

if TYPE_CHECKING:
    from torch import Tensor, nn

    from emollama.model import EmoLlama
    from train.config import TrainConfig

logger = logging.getLogger(__name__)

_CHUNK = 8  # batches that are sorted by length together
_REPLAYS_SCORED = 24
_SCORED_TOGETHER = 32


@dataclass(frozen=True, kw_only=True)
class ClipOptions:
    """What is learned from which clips.

    ``manifest`` holds the samples; those of its split ``valid``, or of another manifest ``validation``, are validated
    on; without any, ``valid_share`` of the training samples is set apart, by speaker where speakers are known.
    ``model`` is a preset, or a folder of nano's layout. ``labels`` fixes the label set (comma-separated); else it is
    the manifest's.

    ``modality_dropout``: the chance of each modality to be left out of a training sample that has others.
    ``balance``: exponent on the class counts, 0 as they come, 1 every class alike. ``replay_share``: part of the
    examples that is drawn from what the base was taught before. ``dialogue_share``: part of the samples without
    messages that gets a dialogue of the grammar. ``distractor``: chance of each of the base's labels to stand among
    the choices as a wrong one. ``opinion_*`` and ``voice_noise`` blur nano's voice tokens (`NanoTrainee`).
    ``anchor``: weight of the squared distance to where training began (L2-SP; Li et al., ICML 2018).
    ``bits`` 4 or 8 quantises the frozen backbone. ``weights`` maps parts of a large preset to the user's folders, as
    name=folder pairs, comma-separated; ``adapter`` is the folder of one that its training goes on from; ``replay`` a
    JSONL of dialogues without clips; ``task`` "reason" leaves labels to the dialogues; ``layout`` is that of
    `emollama.chat_prompt`. ``picture`` "peak" shows a preset that looks at one frame that where the face shows most,
    by the face model in the folder ``peak``, or by the shipped one. ``debug`` builds a large preset tiny, with
    random weights.
    """

    manifest: str = ""
    validation: str = ""
    valid_share: float = 0.12
    model: str = "nano"
    labels: str = ""
    cache: str = "runs/features"
    read_workers: int = 2
    with_lora: bool = True
    lora: LoraSettings = field(default_factory=lambda: LoraSettings(rank=32, alpha=64.0, targets=LORA_TARGETS))
    train_projectors: bool = True
    bits: int = 0
    modality_dropout: float = 0.15
    balance: float = 1.0
    replay_share: float = 0.05
    dialogue_share: float = 0.02
    answer_weight: float = 1.0
    distractor: float = 0.1
    opinion_drop: float = 0.2
    opinion_scale: tuple[float, float] = (0.3, 1.0)
    opinion_jitter: float = 0.8
    voice_noise: float = 1.0
    anchor: float = 0.0
    weights: str = ""
    adapter: str = ""
    replay: str = ""
    task: str = "emotion"
    layout: str = "train"
    picture: str = "first"
    peak: str = ""
    gradient_checkpointing: bool = False
    debug: bool = False

    def __post_init__(self) -> None:
        for name in ("valid_share", "modality_dropout", "replay_share"):
            value = getattr(self, name)
            if not 0.0 <= value < 1.0:
                raise InputError(f"{name} is {value!r}; allowed: 0 up to, not including, 1", field=name)
        for name in ("dialogue_share", "distractor", "balance", "opinion_drop"):
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0:
                raise InputError(f"{name} is {value!r}; allowed: 0 to 1", field=name)
        if self.bits not in (0, 4, 8):
            raise InputError(f"bits is {self.bits!r}; allowed: 0 (not quantised), 4, 8", field="bits")

    def build(self, config: TrainConfig) -> ClipTask:
        """Read the manifest; raises `DatasetError` or `InputError` for what is wrong with it."""
        if not self.manifest:
            raise InputError("manifest is empty; name one with task.manifest=PATH or --manifest", field="manifest")
        return ClipTask(config, self)


@dataclass(frozen=True, kw_only=True)
class Known:
    """A sample with its reading and the modalities that it really has."""

    sample: Sample
    reading: Reading
    present: tuple[str, ...]


class ClipTask:
    """A `train.task.Task`. Readings are made, or found in the cache, by `prepare`, at the latest before training."""

    def __init__(self, config: TrainConfig, options: ClipOptions, *, trainee: Trainee | None = None) -> None:
        self.config, self.options = config, options
        self.manifest = read_manifest(Path(options.manifest))
        self.validation = read_manifest(Path(options.validation)) if options.validation else self.manifest
        train, valid = self.manifest.of_split("train"), self.validation.of_split("valid")
        self._rule = OWN_FILE if options.validation else OWN_SPLIT
        if options.validation and not valid:
            valid = self.validation.samples
        if not valid and options.valid_share > 0:
            self._rule = SET_APART
            train, valid = set_apart(self.manifest, share=options.valid_share, seed=config.seed)
        if not train:
            raise DatasetError(f"{self.manifest.path} has no sample of the split train", field="split")
        self.samples = {"train": train, "valid": valid}
        self.labels = self._label_set()
        self.trainee: Trainee = trainee or trainee_factory(preset_of(options.model))(options, self.labels)
        offered = {split: len(samples) for split, samples in self.samples.items()}
        self.samples = {split: self._taught(split, samples) for split, samples in self.samples.items()}
        self._left_out = {split: offered[split] - len(samples) for split, samples in self.samples.items()}
        self.known: dict[str, list[Known]] = {}
        self._begun: dict[str, Tensor] = {}
        self._outcome = Outcome(recipe=config.recipe)
        self._judged: float | None = None

    def _label_set(self) -> tuple[str, ...]:
        given = tuple(name.strip() for name in self.options.labels.split(",") if name.strip())
        labels = given or self.manifest.labels or self.validation.labels
        known = {canonical(name) for name in labels}
        for sample in (*self.samples["train"], *self.samples["valid"]):
            for name in sample.shares:
                if canonical(name) not in known:
                    raise DatasetError(
                        f"{self.manifest.path}: label {name!r} of {sample.id!r} is not in the label set; allowed: "
                        f"{', '.join(labels)}",
                        field="label",
                    )
        if len(labels) == 1:
            raise DatasetError(
                f"{self.manifest.path}: {labels[0]!r} is the only label; allowed: 2 or more", field="label"
            )
        return labels

    def _taught(self, split: str, samples: Sequence[Sample]) -> tuple[Sample, ...]:
        """Leave out the samples that hold nothing this model learns from."""
        kept = tuple(sample for sample in samples if self.trainee.teaches(sample))
        if len(kept) < len(samples):
            first = next(sample.id for sample in samples if not self.trainee.teaches(sample))
            text = (
                f"{self.manifest.path}: {len(samples) - len(kept)} of {len(samples)} samples of {split} hold nothing "
                f"that {self.options.model} learns from, the first is {first!r}"
            )
            if split == "train" and not kept:
                raise DatasetError(f"{text}; give them a label, a distribution or messages", field="label")
            logger.warning("%s; they are left out", text)
        return kept

    # ---- readings ------------------------------------------------------------------------------------------------

    def prepare(
        self, *, on_progress: Callable[[int, int], None] | None = None, stopped: Callable[[], bool] | None = None
    ) -> None:
        """Make the readings of every clip, or find them in the cache; raises `DatasetError` for one without any.

        Afterwards ``config`` watches, and exports by, a figure only if there are samples to measure it on.
        """
        from emollama.media import MediaLimits

        if self.known:
            return
        cache = FeatureCache(Path(self.options.cache), self.trainee, limits=MediaLimits())
        total = sum(len(samples) for samples in self.samples.values())
        done = 0
        for split, manifest in (("train", self.manifest), ("valid", self.validation)):
            samples = self.samples[split]
            before = done

            def told(count: int, _: int, before: int = before) -> None:
                if on_progress is not None:
                    on_progress(before + count, total)

            readings = cache.read_all(
                manifest, samples, workers=self.options.read_workers, on_progress=told, stopped=stopped
            )
            done += len(samples)
            found = []
            for sample, reading in zip(samples, readings, strict=True):
                present = self.trainee.present(sample, reading)
                if present:
                    found.append(Known(sample=sample, reading=reading, present=present))
                else:
                    logger.warning(
                        "%s: sample %s has no face, voice or words and is left out", manifest.path, sample.id
                    )
            self.known[split] = found
        if not self.known["train"]:
            raise DatasetError(f"{self.manifest.path}: no training sample has a face, a voice or words", field="clip")
        if not any(one.sample.shares for one in self.known["valid"]) and self.config.monitor_name != "loss":
            logger.warning(
                "no sample with a label validates: %s is not measured, and the last weights are exported",
                self.config.monitor_name,
            )
            self.config = dataclasses.replace(self.config, monitor="loss:min", export="last", patience=None)

    # ---- model ---------------------------------------------------------------------------------------------------

    def build_model(self) -> nn.Module:
        self.prepare()
        options = self.options
        lora: LoraSettings | None = None
        if options.with_lora:
            lora = getattr(self.trainee, "lora", None) or options.lora
        model = self.trainee.build_model(lora=lora, train_projectors=options.train_projectors, seed=self.config.seed)
        if options.anchor:
            self._begun = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
        return model

    # ---- data ----------------------------------------------------------------------------------------------------

    def batches(self, *, epoch: int, seed: int) -> _Epoch:
        self.prepare()
        return _Epoch(self, epoch=epoch, seed=seed)

    def slots(self, *, epoch: int, seed: int) -> list[int | None]:
        """The order of an epoch: indices of training samples, rarer classes more often, and ``None`` for a replay."""
        rng = Random(f"{seed}/{epoch}/order")
        known = self.known["train"]
        counts = Counter(one.sample.top_label for one in known)
        mean = len(known) / len(counts)
        factors = [(mean / counts[one.sample.top_label]) ** self.options.balance for one in known]
        scale = len(known) / sum(factors)
        order: list[int | None] = []
        for index, factor in enumerate(factors):
            times = scale * factor
            order += [index] * (int(times) + (rng.random() < times - int(times)))
        share = self.options.replay_share
        if share > 0 and self.trainee.replay(Random(0)) is not None:
            order += [None] * round(len(order) * share / (1.0 - share))
        rng.shuffle(order)
        return order

    def write(self, slots: Sequence[int | None], rng: Random) -> list[Example]:
        """Write the examples of some slots."""
        examples: list[Example] = []
        for slot in slots:
            if slot is None:
                replayed = self.trainee.replay(rng)
                assert replayed is not None
                examples.append(replayed)
                continue
            one = self.known["train"][slot]
            examples += self.trainee.examples(
                one.sample, one.reading, present=self._kept(one.present, rng), rng=rng, training=True
            )
        return examples

    def _kept(self, present: tuple[str, ...], rng: Random) -> tuple[str, ...]:
        """Modality dropout: leave each out by chance, but never all."""
        kept = tuple(name for name in present if rng.random() >= self.options.modality_dropout)
        return kept or (rng.choice(present),)

    # ---- learning ------------------------------------------------------------------------------------------------

    def loss(self, model: nn.Module, batch: ClipBatch) -> tuple[Tensor, dict[str, Tensor]]:
        import torch
        import torch.nn.functional as F

        from emollama.model import IGNORED

        emollama: EmoLlama = model  # type: ignore[assignment]
        device = next(model.parameters()).device
        tokens = torch.tensor(self.trainee.label_token_ids, device=device)
        num_labelled = int((batch.targets.sum(-1) > 0).sum())
        label_sum = answer_sum = torch.zeros((), device=device)
        # Where weights are sharded, every process has to run its layers equally often.
        for part in batch.parts() if emollama.can_pack else [batch]:
            inputs = part.inputs.to(device)
            assert inputs.labels is not None
            rows = torch.nonzero(part.targets.sum(-1) > 0)[:, 0]
            begins = torch.zeros_like(inputs.input_ids, dtype=torch.bool)
            begins[rows.to(device), part.label_at[rows].to(device)] = True
            answers = F.pad(inputs.labels[:, 1:] != IGNORED, (0, 1))  # where the next token is learned
            wanted = begins | answers
            hidden = emollama.hidden_at(inputs, wanted)  # [n, W]
            if len(rows):
                logits = emollama.head(hidden[begins[wanted]]).float()[:, tokens]  # [B', U]
                logits = logits.masked_fill(~part.asked[rows].to(device), -1e4)
                label_sum = label_sum - (part.targets[rows].to(device) * logits.log_softmax(-1)).sum()
            if part.num_answers:
                ids = inputs.labels.roll(-1, dims=1)[answers]
                logits = emollama.head(hidden[answers[wanted]]).float()
                answer_sum = answer_sum + F.cross_entropy(logits, ids, reduction="sum")
        figures: dict[str, Tensor] = {}
        loss = torch.zeros((), device=device)
        if num_labelled:
            figures["label_loss"] = (label_sum / num_labelled).detach()
            loss = loss + label_sum / num_labelled
        if batch.num_answers:
            figures["answer_loss"] = (answer_sum / batch.num_answers).detach()
            loss = loss + self.options.answer_weight * answer_sum / batch.num_answers
        if self._begun:
            moved = sum(
                (p - self._begun[name].to(p.device)).square().sum()
                for name, p in model.named_parameters()
                if p.requires_grad
            )
            loss = loss + self.options.anchor * moved
        return loss, figures

    # ---- validation and export -----------------------------------------------------------------------------------

    def validate(self, model: nn.Module) -> dict[str, float]:
        """Macro-F1, accuracy, UAR and NLL of the validation samples' labels; the loss of replayed answers."""
        from emollama import metrics

        emollama: EmoLlama = model  # type: ignore[assignment]
        figures: dict[str, float] = {}
        valid = [one for one in self.known["valid"] if one.sample.shares]
        calibration: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        if valid:
            scores = self.scores(emollama, valid)
            names = {canonical(name): index for index, name in enumerate(self.labels)}
            truth = np.array([names[canonical(one.sample.top_label or "")] for one in valid])
            shifted = scores - scores.max(1, keepdims=True)
            logs = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
            predicted = scores.argmax(1)
            seen = sorted(set(truth.tolist()))
            f1 = metrics.per_class_f1(truth, predicted, num_classes=len(self.labels))
            recall = metrics.per_class_recall(truth, predicted, num_classes=len(self.labels))
            figures |= {
                "macro_f1": float(np.mean([f1[index] for index in seen])),
                "uar": float(np.mean([recall[index] for index in seen])),
                "accuracy": metrics.accuracy(truth, predicted),
                "nll": float(-logs[np.arange(len(truth)), truth].mean()),
            }
            for subset in dict.fromkeys("+".join(one.present) for one in valid):
                chosen = np.array(["+".join(one.present) == subset for one in valid])
                calibration[subset] = (scores[chosen], truth[chosen])
        replayed = self.replay_loss(emollama)
        if replayed is not None:
            figures["replay_loss"] = replayed
        figures["loss"] = figures.get("nll", 0.0) + figures.get("replay_loss", 0.0)
        self._judged = _fingerprint(model) if emollama.is_whole else None
        self._outcome = Outcome(
            recipe=self.config.recipe,
            figures=figures,
            counts={
                split: dict(Counter(one.sample.top_label or "(none)" for one in known))
                for split, known in self.known.items()
                if known
            },
            calibration=calibration,
            has_messages=any(one.sample.messages for one in self.known["train"]),
            license=None if self.manifest.header is None else self.manifest.header.license,
            data=self._facts(),
        )
        return figures

    def _facts(self) -> DataFacts:
        splits = {
            split: split_facts(
                [one.sample for one in known], [one.present for one in known],
                [one.reading.seconds for one in known], left_out=self._left_out[split],
            )
            for split, known in self.known.items()
            if known
        }  # fmt: skip
        return data_facts(self.manifest, self.validation, self.samples, splits, rule=self._rule)

    def scores(self, model: EmoLlama, known: Sequence[Known]) -> np.ndarray:
        """Log-likelihoods [N, K] of the labels for samples with all their modalities, similar lengths together."""
        prompts = [
            self.trainee.examples(one.sample, one.reading, present=one.present, rng=Random(0), training=False)[0]
            for one in known
        ]
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i].ids))
        table = np.zeros((len(prompts), len(self.labels)))
        for start in range(0, len(order), _SCORED_TOGETHER):
            chosen = order[start : start + _SCORED_TOGETHER]
            table[chosen] = self.trainee.label_scores(model, [prompts[i] for i in chosen])
        return table

    def replay_loss(self, model: EmoLlama) -> float | None:
        """Mean cross-entropy of the answers of a fixed handful of replays; rises when the base's own is forgotten."""
        rng = Random(977)
        drawn = [self.trainee.replay(rng) for _ in range(_REPLAYS_SCORED)]
        examples = sorted((one for one in drawn if one is not None), key=lambda one: len(one.ids))
        total, count = 0.0, 0
        for start in range(0, len(examples), _SCORED_TOGETHER):
            batch = self.collate(examples[start : start + _SCORED_TOGETHER])
            device = next(model.parameters()).device
            loss, tokens = model.answer_loss(batch.inputs.to(device))
            total, count = total + float(loss) * tokens, count + tokens
        return total / count if count else None

    def collate(self, examples: Sequence[Example]) -> ClipBatch:
        return collate(examples, pad_id=self.trainee.pad_id, label_token_ids=self.trainee.label_token_ids)

    def export(self, model: nn.Module, folder: Path) -> None:
        """Write the adapter, with the figures and the calibration of just these weights."""
        import torch

        emollama: EmoLlama = model  # type: ignore[assignment]
        # The best weights are not those that were validated last; sharded ones the loop validates before it exports.
        if emollama.is_whole and self._judged != _fingerprint(model):
            with torch.no_grad():
                self.validate(model)
        self.trainee.export(emollama, folder, outcome=self._outcome)


class _Epoch:
    """One epoch's batches; batch ``i`` can be made by itself."""

    def __init__(self, task: ClipTask, *, epoch: int, seed: int) -> None:
        self.task, self.epoch, self.seed = task, epoch, seed
        self.size = task.config.batch_size
        self.slots = task.slots(epoch=epoch, seed=seed)
        self._written: tuple[int, list[list[Example]]] | None = None

    def __len__(self) -> int:
        return -(-len(self.slots) // self.size)

    def __iter__(self) -> Iterator[ClipBatch]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> ClipBatch:
        chunk, within = divmod(index, _CHUNK)
        if self._written is None or self._written[0] != chunk:
            rng = Random(f"{self.seed}/{self.epoch}/{chunk}")
            span = _CHUNK * self.size
            examples = self.task.write(self.slots[chunk * span : (chunk + 1) * span], rng)
            examples.sort(key=lambda one: len(one.ids))
            num_batches = -(-len(self.slots[chunk * span : (chunk + 1) * span]) // self.size)
            bounds = [round(len(examples) * part / num_batches) for part in range(num_batches + 1)]
            groups = [examples[a:b] for a, b in itertools.pairwise(bounds)]
            rng.shuffle(groups)
            self._written = (chunk, groups)
        return self.task.collate(self._written[1][within])


def _fingerprint(model: nn.Module) -> float:
    """A number that tells trained weights apart."""
    return float(sum(p.detach().double().square().sum() for p in model.parameters() if p.requires_grad))


def set_apart(manifest: Manifest, *, share: float, seed: int) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """Return (train, valid) of a manifest's training samples: by speaker where they are known, each label in its share.

    With speakers, but fewer than three, one of them would be too much to leave out, and single samples are. When all
    samples are of one content, such as stretches of one recording, nothing is set apart.
    """
    train = manifest.of_split("train")
    if len({sample.speaker for sample in train}) < 3:
        train = tuple(sample.model_copy(update={"speaker": None}) for sample in train)
    if len(train) < 2:
        return train, ()
    try:
        divided = divide(dataclasses.replace(manifest, samples=train), Shares(valid=share, test=0.0), seed=seed).samples
    except TooFewGroupsError:
        return manifest.of_split("train"), ()
    chosen = {sample.id for sample in divided if sample.split == "valid"}
    own = manifest.of_split("train")
    return (
        tuple(sample for sample in own if sample.id not in chosen),
        tuple(sample for sample in own if sample.id in chosen),
    )
