"""The questions that one prefill answers: label scores, open vocabulary, affect, and the words that carry a label.

The modalities are computed once, as a batch of up to four rows: all of them, and each alone. Every question is a short
continuation of that prefix. What each modality says alone tells whether they agree and which one led.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from emollama import evidence as ev
from emollama.calibration import Calibration
from emollama.labels import CIRCUMPLEX, GOEMOTIONS_28, NANO_LABELS, canonical
from emollama.parts import Engine, PromptRow, Query
from emollama.prompt import Renderer, Source, label_token
from emollama.types import Affect, Emotion, FaceReadings
from emollama.watch import Check, unwatched

# Open vocabulary: a fine word is reported from this share of the 28 words' probability on; at most four are.
OPEN_FROM, MAX_OPEN = 0.12, 4
_NUM_BUCKETS = 9


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What one prefill told.

    ``native`` are the scores over nano's own labels, ``words_label`` the verdict of the words alone, ``support`` the
    probability that each modality alone gives the answer, ``affect`` valence and arousal that the words expect.
    ``alone`` is what each modality gives by itself, where a model's opinion stands in for measured readings.
    """

    prefix: Any
    emotion: Emotion
    native: Mapping[str, float]
    words_label: str | None
    support: Mapping[Source, float]
    open_vocabulary: tuple[str, ...]
    affect: tuple[float, float] | None
    alone: Mapping[Source, Mapping[str, float]] = field(default_factory=dict)


class Judge:
    """Asks an engine and calibrates its answers. ``used`` maps a modality to its tokens [T, D], or to its words."""

    def __init__(self, renderer: Renderer, engine: Engine, calibration: Calibration) -> None:
        self.renderer, self.engine, self.calibration = renderer, engine, calibration

    def judge(self, used: Mapping[Source, Any], asked: tuple[str, ...]) -> Judgement:
        """Prefill all modalities and each alone in one batch, and score labels, open words and affect off it."""
        renderer, calibration = self.renderer, self.calibration
        subsets: list[tuple[Source, ...]] = [tuple(used)]
        if len(used) > 1:
            subsets += [(source,) for source in used]
        prefix = self.engine.prefill([self._row(used, subset) for subset in subsets])
        label_marker, affect = [renderer.token_id("<|label|>")], renderer.token_id("<|affect|>")
        valences = [renderer.token_id(f"<v{k}>") for k in range(_NUM_BUCKETS)]
        arousals = [[renderer.token_id(f"<a{k}>")] for k in range(_NUM_BUCKETS)]
        wants_affect = "face" not in used and "words" in used
        queries = [
            Query(marker=label_marker, options=renderer.label_ids(NANO_LABELS)),
            Query(marker=label_marker, options=renderer.label_ids(asked)),
            Query(
                marker=[renderer.token_id("<|open|>")],
                options=[[renderer.token_id(label_token(word))] for word in GOEMOTIONS_28],
            ),
        ]
        if wants_affect:
            queries.append(Query(marker=[affect], options=[[token] for token in valences]))
            queries.extend(Query(marker=[affect, token], options=arousals) for token in valences)
        scores = self.engine.score(prefix, queries)

        def calibrated(table: np.ndarray, names: Sequence[str]) -> list[np.ndarray]:
            rows = [
                calibration.probabilities(row, labels=names, present=subset)
                for row, subset in zip(table, subsets, strict=True)
            ]
            return [calibration.pool(rows[0], rows[1:]), *rows[1:]]

        native, answer = calibrated(scores[0], NANO_LABELS), calibrated(scores[1], asked)
        best = int(answer[0].argmax())
        confidence = float(answer[0][best])
        alone = {subset[0]: row for subset, row in zip(subsets, range(len(subsets)), strict=True) if len(subset) == 1}
        words_row = alone.get("words")
        return Judgement(
            prefix=prefix,
            emotion=Emotion(
                label=asked[best],
                confidence=confidence,
                abstained=calibration.abstains(confidence, num_labels=len(asked)),
                scores={name: float(p) for name, p in zip(asked, answer[0], strict=True)},
            ),
            native={name: float(p) for name, p in zip(NANO_LABELS, native[0], strict=True)},
            words_label=None if words_row is None else NANO_LABELS[int(native[words_row].argmax())],
            support={source: float(answer[row][best]) for source, row in alone.items()},
            open_vocabulary=_open_words(scores[2][0]),
            affect=_bucket_affect([table[0] for table in scores[3:]]) if wants_affect else None,
        )

    def _row(self, used: Mapping[Source, Any], subset: Sequence[Source]) -> PromptRow:
        features = {source: used[source] for source in subset if source != "words"}
        ids = self.renderer.modalities(
            face_tokens=len(features.get("face", ())),
            voice_tokens=len(features.get("voice", ())),
            transcript=used["words"] if "words" in subset else None,
        )
        return PromptRow(ids=ids, features={str(source): tokens for source, tokens in features.items()})

    def open_words(self, used: Mapping[Source, Any], judged: Judgement, *, check: Check = unwatched) -> tuple[str, ...]:
        """Return the open words, which were scored with the labels."""
        return judged.open_vocabulary

    def quote(self, text: str, label: str | None) -> ev.Quote | None:
        """Find the words that carry what the words alone point to."""
        assert label is not None
        renderer, engine = self.renderer, self.engine
        query = Query(marker=[renderer.token_id("<|label|>")], options=renderer.label_ids(NANO_LABELS))
        column = NANO_LABELS.index(label)

        def score(texts: Sequence[str]) -> np.ndarray:
            rows = [PromptRow(ids=renderer.modalities(transcript=variant)) for variant in texts]
            (table,) = engine.score(engine.prefill(rows), [query])
            # among the labels only: a variant that is odd English must not look like a variant that says less
            return table[:, column] - np.logaddexp.reduce(table, axis=1)

        return ev.find_quote(text, score)


def _open_words(log_likelihoods: np.ndarray) -> tuple[str, ...]:
    shares = np.exp(log_likelihoods - np.logaddexp.reduce(log_likelihoods))
    order = np.argsort(-shares)[:MAX_OPEN]
    return tuple(GOEMOTIONS_28[i] for i in order if shares[i] >= OPEN_FROM)


def _bucket_affect(tables: Sequence[np.ndarray]) -> tuple[float, float]:
    """Expected valence and arousal from bucket log-likelihoods: valence first, then arousal under each valence."""
    centres = np.linspace(-1.0, 1.0, _NUM_BUCKETS)
    valence = np.exp(tables[0] - np.logaddexp.reduce(tables[0]))
    arousal = [np.exp(row - np.logaddexp.reduce(row)) @ centres for row in tables[1:]]
    return float(valence @ centres), float(valence @ np.array(arousal))


def affect_of(face: FaceReadings | None, judged: Judgement) -> Affect:
    """The mean of a face model that gives them, else what the words' buckets expect, else what the scores do."""
    if face is not None and not np.isnan(face.valence).any():
        valence, arousal, source = float(np.mean(face.valence)), float(np.mean(face.arousal)), "face"
    elif judged.affect is not None:
        (valence, arousal), source = judged.affect, "words"
    elif not judged.native:
        return Affect(valence=None, arousal=None, source=None)
    else:
        table = np.array([CIRCUMPLEX[canonical(name)] for name in judged.native])
        valence, arousal = (float(x) for x in np.array(list(judged.native.values())) @ table)
        source = "scores"
    low, high = -1.0, 1.0
    return Affect(
        valence=round(min(max(valence, low), high), 4), arousal=round(min(max(arousal, low), high), 4), source=source
    )
