"""Recipe ``nano_voice``: nano's voice model on EmoDB without boredom, leave-two-speakers-out and final in one run.

The run trains ``num_members`` networks for every fold of `emodb.FOLDS` (each hears six speakers) and as many for the
shipped model (all eight), side by side on the same batches: a network simply does not see the rows of its held-out
speakers. Nothing is chosen by the folds' figures: the schedule is fixed and the last averaged weights are exported.

Every recording is also kept as altered copies (speed, tempo, room, channel, noise) whose functionals are measured anew;
the spectra are altered further in each batch (vocal tract length, tilt, SpecAugment, mixup). Besides the emotion the
encoder predicts pitch, voicing and loudness of its frames, which needs no labels.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy import fft, signal
from torch import Tensor, nn

from emollama import metrics
from emollama.datasets import emodb
from emollama.encoders.voice import VoiceConfig, VoiceEncoder, VoiceMember, voiced_windows
from emollama.errors import InputError
from emollama.prosody import FUNCTIONAL_NAMES, find_voice, functionals, measure_frames
from train.config import TrainConfig, data_dir

logger = logging.getLogger(__name__)
SAMPLE_RATE = 16_000
NUM_CONTOURS = 3  # voicing, pitch, loudness


@dataclass(frozen=True, kw_only=True)
class VoiceOptions:
    """``copies`` of each recording are kept, the first unaltered; ``crop_frames`` of 10 ms are heard at a time."""

    data: str = ""
    cache: str = "runs/voice-features"
    copies: int = 10
    copies_seed: int = 1
    num_members: int = 3
    width: int = 64
    num_layers: int = 2
    num_heads: int = 4
    hidden: int = 128
    dropout: float = 0.1
    prosody_dropout: float = 0.5
    crop_frames: int = 100
    mixup: float = 0.25
    label_smoothing: float = 0.1
    contour_weight: float = 0.5
    branch_weight: float = 1.0
    functional_noise: float = 0.2
    folds: tuple[tuple[str, ...], ...] = emodb.FOLDS

    def __post_init__(self) -> None:
        for name in ("copies", "num_members", "crop_frames"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; allowed: 1 or more", field=name)

    def build(self, config: TrainConfig) -> VoiceTask:
        return VoiceTask(config, self)

    def model(self) -> VoiceConfig:
        base = VoiceConfig()
        shape = replace(base.encoder, width=self.width, num_layers=self.num_layers, num_heads=self.num_heads)
        return replace(base, encoder=shape, num_members=self.num_members, hidden=self.hidden)


# ---- altered copies -----------------------------------------------------------------------------------------------


def alter(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return another take of samples [S]: other voice size and tempo, other room, channel and noise, other gain."""
    n = len(samples)
    speed = float(np.exp(rng.uniform(np.log(0.86), np.log(1.16))))
    changed = signal.resample(samples, int(n / speed))  # pitch, formants and tempo together
    tempo = float(rng.uniform(0.88, 1.14)) * (speed if rng.random() < 0.5 else 1.0)
    changed = stretch(np.asarray(changed, np.float32), float(np.clip(tempo, 0.8, 1.25)))
    if rng.random() < 0.3:  # a small room: exponentially decaying noise
        seconds = rng.uniform(0.1, 0.4)
        t = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
        tail = rng.standard_normal(len(t)) * np.exp(-6.9 * t / seconds)
        tail *= rng.uniform(0.1, 0.45) / np.linalg.norm(tail)
        tail[0] += 1.0
        changed = signal.fftconvolve(changed, tail)[: len(changed)]
    size = fft.next_fast_len(len(changed))
    hz = fft.rfftfreq(size, 1 / SAMPLE_RATE)
    knots = np.array([0, 125, 250, 500, 1000, 2000, 4000, 8000.0])
    gains = rng.normal(0, 1.8, len(knots)) + rng.normal(0, 0.6) * np.arange(len(knots))
    curve = np.interp(np.log2(hz + 60), np.log2(knots + 60), gains - gains.mean())
    if rng.random() < 0.15:  # a narrow channel
        curve -= 0.02 * np.maximum(0, hz - rng.uniform(3400, 7000))
    changed = fft.irfft(fft.rfft(changed, size) * 10 ** (np.maximum(curve, -80) / 20), size)[: len(changed)]
    if rng.random() < 0.6:
        noise = rng.standard_normal(len(changed))
        if rng.random() < 0.5:
            noise = signal.lfilter([1.0], [1.0, -0.9], noise)
        snr_db = rng.uniform(15, 45)
        noise *= np.sqrt(np.mean(changed**2) / np.mean(noise**2)) * 10 ** (-snr_db / 20)
        changed = changed + noise
    return (changed * rng.uniform(0.1, 0.9) / np.abs(changed).max()).astype(np.float32)


def stretch(samples: np.ndarray, factor: float) -> np.ndarray:
    """Play faster (factor > 1) or slower at the same pitch: WSOLA (Verhelst & Roelands, ICASSP 1993)."""
    size, hop, search = 512, 256, 160
    window = np.hanning(size).astype(np.float32)
    padded = np.pad(samples, (search, size + 2 * search + hop))
    count = max(1, int(len(samples) / factor) // hop)
    out = np.zeros(count * hop + size, np.float32)
    expected = padded[search : search + size]
    for i in range(count):
        start = min(int(i * hop * factor), len(padded) - size - 2 * search)
        region = padded[start : start + size + 2 * search]
        best = start + int(np.correlate(region, expected, "valid").argmax())
        out[i * hop : i * hop + size] += window * padded[best : best + size]
        best = min(best, len(padded) - size - hop)
        expected = padded[best + hop : best + hop + size]
    return out[size // 4 : count * hop]


class Copy(NamedTuple):
    """``mel`` [80, T] and ``contours`` [3, T] float16, ``functionals`` [F] float32."""

    mel: np.ndarray
    contours: np.ndarray
    functionals: np.ndarray


def describe(samples: np.ndarray) -> Copy | None:
    """Measure samples [S]; ``None`` when no voice is found in them."""
    frames = measure_frames(samples)
    spans = find_voice(frames)
    if not spans:
        return None
    spans = tuple((start, min(end, len(frames) - 1)) for start, end in spans)
    inside = np.concatenate([np.arange(start, end) for start, end in spans])
    mel = torch.cat(voiced_windows(samples, spans), dim=1)
    voiced = frames.voiced[inside]
    pitch = np.log2(np.maximum(frames.pitch_hz[inside], 50) / 180) * voiced
    loudness = (frames.loudness_db[inside] - np.percentile(frames.loudness_db[inside], 95)) / 20
    contours = np.stack([voiced, pitch, np.clip(loudness, -3, 1)])
    return Copy(mel.half().numpy(), contours.astype(np.float16), functionals(frames, spans))


class Corpus:
    """Measured copies of the recordings, made once and kept in ``cache`` (a .npz named by what it depends on)."""

    def __init__(self, options: VoiceOptions) -> None:
        data = data_dir(options.data)
        table = emodb.table_path(data)
        utterances = emodb.read(data, with_boredom=True)
        self.names = tuple(u.name for u in utterances)
        self.speakers = np.array([u.speaker for u in utterances])
        self.emotions = np.array([u.emotion for u in utterances])
        stamp = hashlib.sha256(table.read_bytes())
        stamp.update(json.dumps([options.copies, options.copies_seed, FUNCTIONAL_NAMES]).encode())
        file = Path(f"{options.cache}-{stamp.hexdigest()[:12]}.npz")
        if not file.exists():
            _write_copies(utterances, options, file)
        with np.load(file) as stored:
            lengths, mel = stored["lengths"], stored["mel"]
            contours, values = stored["contours"], stored["functionals"]
        edges = np.concatenate([[0], np.cumsum(lengths)])
        flat = [
            Copy(mel[:, a:b], contours[:, a:b], row) for a, b, row in zip(edges[:-1], edges[1:], values, strict=True)
        ]
        self.copies = [flat[i : i + options.copies] for i in range(0, len(flat), options.copies)]

    def clean(self, index: int) -> Copy:
        return self.copies[index][0]


def _write_copies(utterances: Sequence[emodb.Utterance], options: VoiceOptions, file: Path) -> None:
    copies: list[Copy] = []
    for number, utterance in enumerate(utterances):
        first = describe(utterance.audio.samples)
        if first is None:
            raise InputError(f"no voice was found in recording {utterance.name}; leave it out", field="data")
        copies.append(first)
        for index in range(1, options.copies):
            rng = np.random.default_rng([options.copies_seed, number, index])
            copies.append(describe(alter(utterance.audio.samples, rng)) or first)
        if number % 50 == 49:
            logger.info("measured %d of %d recordings, %d copies of each", number + 1, len(utterances), options.copies)
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(file.name + f".{os.getpid()}.part")
    with partial.open("wb") as stream:
        np.savez(
            stream,
            lengths=np.array([c.mel.shape[1] for c in copies]),
            mel=np.concatenate([c.mel for c in copies], axis=1),
            contours=np.concatenate([c.contours for c in copies], axis=1),
            functionals=np.stack([c.functionals for c in copies]),
        )
    os.replace(partial, file)


# ---- the task -----------------------------------------------------------------------------------------------------


class Batch(NamedTuple):
    """``mel`` [B, 80, T], ``contours`` [B, 3, T], ``functionals`` [B, F] raw, ``targets`` [B], corpus ``rows`` [B]."""

    mel: Tensor
    contours: Tensor
    functionals: Tensor
    targets: Tensor
    rows: np.ndarray
    seed: int


class Trainee(nn.Module):
    """A member, the speakers it does not hear, and a head for the contours that is not exported."""

    def __init__(self, config: VoiceConfig, *, held_out: tuple[str, ...], options: VoiceOptions) -> None:
        super().__init__()
        self.member = VoiceMember(config, dropout=options.dropout, prosody_dropout=options.prosody_dropout)
        self.contours = nn.Linear(config.encoder.width, NUM_CONTOURS)
        self.held_out = held_out


class VoiceTask:
    """All folds and the shipped model at once; see the module."""

    def __init__(self, config: TrainConfig, options: VoiceOptions) -> None:
        self.config, self.options = config, options
        self.model_config = options.model()
        self.corpus = Corpus(options)
        labels = self.model_config.labels
        self.targets = np.array([labels.index(e) if e in labels else -1 for e in self.corpus.emotions])
        self.rows = np.flatnonzero(self.targets >= 0)  # boredom is never trained on
        counts = np.bincount(self.targets[self.rows], minlength=len(labels))
        self.class_weights = torch.tensor(len(self.rows) / np.maximum(counts, 1) / len(labels), dtype=torch.float32)

    def build_model(self) -> nn.Module:
        groups: list[tuple[str, ...]] = [*(tuple(fold) for fold in self.options.folds), ()]
        trainees = nn.ModuleList()
        for held_out in groups:
            rows = self.rows[~np.isin(self.corpus.speakers[self.rows], held_out)]
            if not len(rows):
                raise InputError(f"fold {held_out} leaves no speaker to train on", field="folds")
            values = np.concatenate([[c.functionals for c in self.corpus.copies[row]] for row in rows])
            for _ in range(self.options.num_members):
                trainee = Trainee(self.model_config, held_out=held_out, options=self.options)
                trainee.member.mean.copy_(torch.from_numpy(values.mean(0)))
                trainee.member.std.copy_(torch.from_numpy(values.std(0) + 1e-4))
                trainees.append(trainee)
        return trainees

    def batches(self, *, epoch: int, seed: int) -> _Epoch:
        return _Epoch(self, epoch=epoch, seed=seed)

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        speakers = self.corpus.speakers[batch.rows]
        losses, right, heard = [], 0, 0
        for number, trainee in enumerate(model.children()):
            assert isinstance(trainee, Trainee)
            keep = torch.from_numpy(np.flatnonzero(~np.isin(speakers, trainee.held_out)))
            if len(keep) < 2:
                continue
            generator = torch.Generator().manual_seed(batch.seed * 1009 + number)
            loss, hits = self._member_loss(trainee, batch, keep, generator)
            losses.append(loss)
            right, heard = right + hits, heard + len(keep)
        if not losses:
            return sum(p.sum() for p in model.parameters()) * torch.zeros(()), {"accuracy": 0.0}
        # A sum, because the networks share nothing: each is trained as if it were alone.
        return torch.stack(losses).sum(), {"accuracy": right / heard}

    def _member_loss(
        self, trainee: Trainee, batch: Batch, keep: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, int]:
        options, member = self.options, trainee.member
        mel, contours, targets = batch.mel[keep], batch.contours[keep], batch.targets[keep]
        values = member.standardise(batch.functionals[keep])
        values = values + options.functional_noise * torch.randn(values.shape, generator=generator)
        soft = F.one_hot(targets, len(self.class_weights)).float()
        if float(torch.rand((), generator=generator)) < options.mixup:
            share = 0.5 + 0.5 * torch.rand((len(keep), 1), generator=generator)
            other = torch.randperm(len(keep), generator=generator)
            mel = share[..., None] * mel + (1 - share[..., None]) * mel[other]
            contours = share[..., None] * contours + (1 - share[..., None]) * contours[other]
            values, soft = share * values + (1 - share) * values[other], share * soft + (1 - share) * soft[other]
        output = member(mel, values)
        weight = (soft * self.class_weights).sum(1)

        def entropy(logits: Tensor) -> Tensor:
            smooth = soft * (1 - options.label_smoothing) + options.label_smoothing / logits.shape[1]
            return -(weight * (smooth * F.log_softmax(logits, dim=1)).sum(1)).mean()

        wanted = F.avg_pool1d(contours, 2, ceil_mode=True).transpose(1, 2)  # [B, T', 3]
        contour = F.smooth_l1_loss(trainee.contours(output.frames), wanted)
        loss = (
            entropy(output.logits)
            + options.branch_weight * (entropy(output.spectral) + entropy(output.prosodic))
            + options.contour_weight * contour
        )
        return loss, int((output.logits.argmax(1) == soft.argmax(1)).sum())

    @torch.inference_mode()
    def out_of_fold(self, model: nn.Module, branch: str = "logits") -> np.ndarray:
        """Log-probabilities [N, C] of every recording by the fold that did not hear its speaker (NaN: no such fold)."""
        result = np.full((len(self.corpus.names), len(self.model_config.labels)), np.nan, np.float32)
        by_fold: dict[tuple[str, ...], list[Trainee]] = {}
        for trainee in model.children():
            assert isinstance(trainee, Trainee)
            by_fold.setdefault(trainee.held_out, []).append(trainee)
        for held_out, trainees in by_fold.items():
            for row in np.flatnonzero(np.isin(self.corpus.speakers, held_out)):
                copy = self.corpus.clean(int(row))
                mel = torch.from_numpy(copy.mel).float()[None, :, : 2 * self.model_config.encoder.num_positions]
                values = torch.from_numpy(copy.functionals)[None]
                outputs = [t.member(mel, t.member.standardise(values)) for t in trainees]
                logs = torch.stack([F.log_softmax(getattr(output, branch)[0], dim=0) for output in outputs])
                result[row] = F.log_softmax(logs.mean(0), dim=0).numpy()
        return result

    def validate(self, model: nn.Module) -> dict[str, float]:
        figures: dict[str, float] = {}
        for branch in ("logits", "spectral", "prosodic"):
            logs = self.out_of_fold(model, branch)
            recalls = []
            for fold in self.options.folds:
                rows = self.rows[np.isin(self.corpus.speakers[self.rows], fold)]
                recall = metrics.unweighted_average_recall(
                    self.targets[rows], logs[rows].argmax(1), num_classes=logs.shape[1]
                )
                recalls.append(recall)
                if branch == "logits":
                    figures["uar_" + "_".join(fold)] = recall
            figures["uar" if branch == "logits" else f"uar_{branch}"] = float(np.mean(recalls))
            if branch == "logits":
                rows = self.rows[~np.isnan(logs[self.rows, 0])]
                figures["war"] = metrics.accuracy(self.targets[rows], logs[rows].argmax(1))
        return figures

    def export(self, model: nn.Module, folder: Path) -> None:
        """Write ``voice.safetensors``, ``voice.json`` to ``folder``; ``oof.json``, ``functionals.npz`` to the run."""
        labels = self.model_config.labels
        logs = self.out_of_fold(model)
        rows = self.rows[~np.isnan(logs[self.rows, 0])]
        temperature = fit_temperature(logs[rows], self.targets[rows])
        calibrated = torch.log_softmax(torch.from_numpy(logs) / temperature, dim=1).numpy()
        figures: dict[str, Any] = {k: round(v, 4) for k, v in self.validate(model).items()}
        figures["ece"] = round(metrics.expected_calibration_error(np.exp(calibrated[rows]), self.targets[rows]), 4)
        recall = metrics.per_class_recall(self.targets[rows], calibrated[rows].argmax(1), num_classes=len(labels))
        figures["recall"] = {name: round(float(r), 4) for name, r in zip(labels, recall, strict=True)}
        final = nn.ModuleList(t.member for t in model.children() if isinstance(t, Trainee) and not t.held_out)
        encoder = VoiceEncoder(final, replace(self.model_config, temperature=temperature))
        encoder.save(folder / "voice.safetensors", figures=figures)

        run_dir = Path(self.config.run_dir)
        run_dir.mkdir(parents=True, exist_ok=True)
        known = np.flatnonzero(~np.isnan(logs[:, 0]))
        document = {
            "labels": labels,
            "temperature": temperature,
            "log_probabilities": {
                self.corpus.names[row]: [round(float(x), 5) for x in calibrated[row]] for row in known
            },
            "emotions": {self.corpus.names[row]: str(self.corpus.emotions[row]) for row in known},
            "figures": figures,
        }
        (run_dir / "oof.json").write_text(json.dumps(document) + "\n")
        values = np.stack([self.corpus.clean(row).functionals for row in range(len(self.corpus.names))])
        member = final[0]
        assert isinstance(member, VoiceMember)
        np.savez(
            run_dir / "functionals.npz",
            names=np.array(self.corpus.names),
            functional_names=np.array(FUNCTIONAL_NAMES),
            functionals=values,
            standardised=member.standardise(torch.from_numpy(values)).numpy(),
        )


def fit_temperature(log_probabilities: np.ndarray, truth: np.ndarray) -> float:
    """The temperature in [0.3, 5] under which the log-probabilities [N, C] explain the truth [N] best."""
    logs = torch.from_numpy(log_probabilities)
    target = torch.from_numpy(truth)
    grid = np.geomspace(0.3, 5.0, 200)
    losses = [float(F.nll_loss(F.log_softmax(logs / t, dim=1), target)) for t in grid]
    return round(float(grid[int(np.argmin(losses))]), 4)


class _Epoch:
    """One epoch's batches; batch ``i`` depends on (seed, epoch, i) alone."""

    def __init__(self, task: VoiceTask, *, epoch: int, seed: int) -> None:
        self.task, self.epoch, self.seed = task, epoch, seed
        self.order = np.random.default_rng([seed, epoch]).permutation(task.rows)
        self.size = min(task.config.batch_size, len(self.order))

    def __len__(self) -> int:
        return len(self.order) // self.size

    def __iter__(self) -> Iterator[Batch]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Batch:
        task, options = self.task, self.task.options
        rng = np.random.default_rng([self.seed, self.epoch, index + 1])
        rows = self.order[index * self.size : (index + 1) * self.size]
        mels, contours, values = [], [], []
        for row in rows:
            copy = task.corpus.copies[row][int(rng.integers(options.copies))]
            length = copy.mel.shape[1]
            start = int(rng.integers(max(1, length - options.crop_frames + 1)))
            index_ = (start + np.arange(options.crop_frames)) % length  # what is too short starts again
            mels.append(copy.mel[:, index_])
            contours.append(copy.contours[:, index_])
            values.append(copy.functionals)
        mel = torch.from_numpy(np.stack(mels)).float()
        seed = int(rng.integers(2**31))
        return Batch(
            mel=alter_spectra(mel, torch.Generator().manual_seed(seed)),
            contours=torch.from_numpy(np.stack(contours)).float(),
            functionals=torch.from_numpy(np.stack(values)),
            targets=torch.from_numpy(task.targets[rows]),
            rows=rows,
            seed=seed,
        )


def alter_spectra(mel: Tensor, generator: torch.Generator) -> Tensor:
    """Other vocal tracts (a warped mel axis: VTLP, Jaitly & Hinton, 2013), a tilt, SpecAugment; mel [B, 80, T]."""
    B, M, T = mel.shape

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=generator)

    band = torch.arange(M, dtype=torch.float32)
    source = (band * uniform(0.92, 1.09, B, 1)).clamp(0, M - 1)  # [B, M]
    low = source.floor().long().clamp(max=M - 2)
    share = (source - low)[..., None]
    index = low[..., None].expand(B, M, T)
    mel = mel.gather(1, index) * (1 - share) + mel.gather(1, index + 1) * share
    mel = mel + uniform(-0.15, 0.15, B, 1, 1) * (band / M * 2 - 1)[:, None] + uniform(-0.05, 0.05, B, 1, 1)
    floor = mel.amin((1, 2), keepdim=True)
    time = torch.arange(T)
    for _ in range(2):
        start, width = uniform(0, M, B, 1), uniform(0, 10, B, 1)
        mel = torch.where(((band >= start) & (band < start + width))[:, :, None], floor, mel)
        start, width = uniform(0, T, B, 1), uniform(0, 20, B, 1)
        mel = torch.where(((time >= start) & (time < start + width))[:, None, :], floor, mel)
    return mel


def nano_voice() -> TrainConfig:
    """The run behind ``assets/nano/voice.safetensors``."""
    return TrainConfig(
        recipe="nano_voice",
        run_dir="runs/voice",
        export_dir="emollama/assets/nano",
        task=VoiceOptions(),
        epochs=40,
        batch_size=32,
        learning_rate=3e-3,
        min_learning_rate_ratio=0.01,
        warmup_steps=50,
        weight_decay=0.05,
        clip_norm=10.0,
        ema_decay=0.99,
        threads=1,
        device="cpu",
        log_every_steps=33,
        validate_every_epochs=10,
        monitor="uar:max",
        export="last",
    )
