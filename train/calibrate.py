"""Fit nano's calibration: a temperature and a bias for each subset of modalities, on data that no stage trained on.

The shipped runtime itself gives the scores. Single modalities are fitted on the natural validation sets (even rows of
FER+ valid and GoEmotions dev, the out-of-fold EmoDB recordings of one speaker whom the instruct stage left out),
subsets of several on composed samples of the same rows. The odd rows and the other speaker are for
`emollama eval part composed`.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from emollama import calibration as cal
from emollama.analyze import Analyzer, PromptRow, Query
from emollama.labels import NANO_LABELS
from train.builders.cues import SUBSETS
from train.builders.instruct import HIGH_FROM, MEDIUM_FROM, Composed, Composer, Mix, Pools
from train.builders.pools import VALIDATION_SPEAKERS, FacePool, VoicePool, WordsPool, face_pool, voice_pool, words_pool
from train.config import data_dir

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class CalibrateOptions:
    """``draws`` composed samples for each subset of several modalities."""

    data: str = ""
    model: str = "nano"
    face: str = "emollama/assets/nano/face.safetensors"
    voice_run: str = "runs/voice"
    cache: str = "runs/features"
    output: str = "emollama/assets/nano/calibration.json"
    log: str = "docs/logs/calibration.json"
    draws: int = 600
    target_accuracy: float = 0.5
    seed: int = 5


def calibrate(options: CalibrateOptions) -> dict[str, Any]:
    """Fit on the even half, write ``calibration.json``, and return the reliability measured on the odd half."""
    data = data_dir(options.data)
    pools = Pools(
        face=face_pool(data, "valid", encoder=Path(options.face), cache=Path(options.cache)),
        voice=voice_pool(data, run=Path(options.voice_run), speakers=VALIDATION_SPEAKERS),
        words=words_pool(data, "dev"),
    )
    if not Path(options.output).is_file():  # a model without a calibration does not load
        _write(Path(options.output), cal.Calibration().to_json_dict())
    analyzer = Analyzer.load(options.model)
    fitting = score(analyzer, half(pools, 0), options)
    fitted = cal.fit(
        {name: (one.joint, one.truth) for name, one in fitting.items()}, target_accuracy=options.target_accuracy
    )
    few = {  # too few recordings for a bias of their own
        name: cal.fit_subset(one.joint, one.truth, with_bias=False)
        for name, one in fitting.items()
        if len(one.truth) < 200
    }
    fitted = dataclasses.replace(fitted, subsets={**fitted.subsets, **few})
    fitted = dataclasses.replace(fitted, confidence_bands={"medium": MEDIUM_FROM, "high": HIGH_FROM})
    fitted = dataclasses.replace(fitted, alone_weight=_best_weight(fitted, fitting))
    report: dict[str, Any] = {"fitted": fitted.to_json_dict(), "reliability": {}}
    held = score(analyzer, half(pools, 1), options)
    tables, truths = [], []
    for name, one in held.items():
        truth, probabilities = one.truth, one.probabilities(fitted)
        before = cal.reliability(cal.softmax(one.joint), truth)
        report["reliability"][name] = {
            "before": {"ece": before.ece, "nll": before.nll},
            "after": dataclasses.asdict(cal.reliability(probabilities, truth)),
        }
        tables.append(probabilities[: options.draws])
        truths.append(truth[: options.draws])
    overall = cal.reliability(np.concatenate(tables), np.concatenate(truths))
    report["reliability"]["all"] = {"after": dataclasses.asdict(overall)}
    _write(Path(options.output), fitted.to_json_dict())
    _write(Path(options.log), report)
    for name, entry in report["reliability"].items():
        after = entry["after"]
        logger.info("%s n %d accuracy %.3f ece %.3f", name, after["count"], after["accuracy"], after["ece"])
    return report


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Raw label scores of N samples of one subset: ``joint`` [N, 8], ``alone`` by modality, and the truth [N]."""

    subset: tuple[str, ...]
    joint: np.ndarray
    truth: np.ndarray
    alone: Mapping[str, np.ndarray] = field(default_factory=dict)

    def probabilities(self, calibration: cal.Calibration) -> np.ndarray:
        """Return what the analyzer would answer, [N, 8]."""
        joint = calibration.probabilities(self.joint, labels=NANO_LABELS, present=self.subset)
        return calibration.pool(
            joint,
            [
                calibration.probabilities(scores, labels=NANO_LABELS, present=(source,))
                for source, scores in self.alone.items()
            ],
        )


def _best_weight(fitted: cal.Calibration, scored: Mapping[str, Scored]) -> float:
    """The weight of the single opinions with the least negative log-likelihood, the subsets counting alike."""
    composed = [one for one in scored.values() if one.alone]

    def loss(weight: float) -> float:
        trial = dataclasses.replace(fitted, alone_weight=weight)
        return float(np.mean([cal.reliability(one.probabilities(trial), one.truth).nll for one in composed]))

    return min((round(0.05 * step, 2) for step in range(13)), key=loss)


def half(pools: Pools, parity: int) -> Pools:
    """Every second row of the pictures and comments, and one of the two speakers."""
    face, voice, words = pools.face, pools.voice, pools.words
    heard = [i for i, speaker in enumerate(voice.speakers) if speaker == VALIDATION_SPEAKERS[parity]]
    return Pools(
        face=FacePool(
            tokens=face.tokens[parity::2], probabilities=face.probabilities[parity::2], targets=face.targets[parity::2]
        ),
        voice=VoicePool(
            names=tuple(voice.names[i] for i in heard),
            tokens=voice.tokens[heard],
            probabilities=voice.probabilities[heard],
            emotions=tuple(voice.emotions[i] for i in heard),
            speakers=tuple(voice.speakers[i] for i in heard),
            spans=voice.spans[heard],
            levels=tuple(voice.levels[i] for i in heard),
        ),
        words=WordsPool(texts=words.texts[parity::2], fine=words.fine[parity::2], targets=words.targets[parity::2]),
    )


def score(analyzer: Analyzer, pools: Pools, options: CalibrateOptions) -> dict[str, Scored]:
    """Return the raw scores by subset: single modalities as they come, several composed."""
    faces = [_row(analyzer, face=pools.face.tokens[i : i + 1]) for i in range(len(pools.face.tokens))]
    voices = [_row(analyzer, voice=token) for token in pools.voice.tokens]
    single = np.flatnonzero(pools.words.targets.max(1) == 1.0)
    words = [_row(analyzer, transcript=pools.words.texts[i]) for i in single]
    heard = np.array([NANO_LABELS.index(name) for name in pools.voice.emotions])
    out = {
        "face": Scored(subset=("face",), joint=_score(analyzer, faces), truth=pools.face.targets.argmax(1)),
        "voice": Scored(subset=("voice",), joint=_score(analyzer, voices), truth=heard),
        "words": Scored(subset=("words",), joint=_score(analyzer, words), truth=pools.words.targets[single].argmax(1)),
    }
    composer = Composer(pools, mix=Mix(conflict=0.0))
    rng = Random(options.seed)
    for subset in SUBSETS:
        if len(subset) > 1:
            classes = composer.classes(subset)
            samples = [composer.draw(rng, subset=subset, emotion=rng.choice(classes)) for _ in range(options.draws)]
            out["+".join(subset)] = Scored(
                subset=subset,
                joint=_score(analyzer, [_composed_row(analyzer, sample, subset) for sample in samples]),
                truth=np.array([NANO_LABELS.index(sample.emotion) for sample in samples]),
                alone={
                    source: _score(analyzer, [_composed_row(analyzer, sample, (source,)) for sample in samples])
                    for source in subset
                },
            )
    return out


def _composed_row(analyzer: Analyzer, sample: Composed, subset: tuple[str, ...]) -> PromptRow:
    return _row(
        analyzer,
        face=sample.face_tokens if "face" in subset else None,
        voice=sample.voice_token if "voice" in subset else None,
        transcript=sample.transcript if "words" in subset else None,
    )


def _row(
    analyzer: Analyzer,
    *,
    face: np.ndarray | None = None,
    voice: np.ndarray | None = None,
    transcript: str | None = None,
) -> PromptRow:
    features = {}
    if face is not None:
        features["face"] = face
    if voice is not None:
        features["voice"] = voice[None, :]
    ids = analyzer.parts.renderer.modalities(
        face_tokens=0 if face is None else len(face), voice_tokens=0 if voice is None else 1, transcript=transcript
    )
    return PromptRow(ids=ids, features=features)


def _score(analyzer: Analyzer, rows: list[PromptRow], *, batch_size: int = 32) -> np.ndarray:
    """Score NANO_LABELS under every row with the shipped runtime [N, 8], rows of similar length together."""
    renderer, engine = analyzer.parts.renderer, analyzer.parts.engine
    query = Query(marker=[renderer.token_id("<|label|>")], options=renderer.label_ids(NANO_LABELS))
    scores = np.zeros((len(rows), len(NANO_LABELS)))
    order = sorted(range(len(rows)), key=lambda i: len(rows[i].ids))
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        scores[chosen] = engine.score(engine.prefill([rows[i] for i in chosen]), [query])[0]
    return scores


def _write(path: Path, document: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(json.dumps(document, indent=1) + "\n")
    temporary.replace(path)
