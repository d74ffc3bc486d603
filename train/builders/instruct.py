"""Composed instruction samples: a face, an utterance and a comment of agreeing or conflicting emotion, and a dialogue.

The label's target is a distribution: the voters' shares for a face alone, the shared class where modalities agree,
the mean of the two sides where they were made to conflict. The dialogue (`emollama.phrases`) speaks only of
readings that were measured on the very samples: the face net's expressions, the voice head's out-of-fold opinion and
the signal's levels. One seed gives one data set.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

import numpy as np

from emollama.evidence import strength
from emollama.labels import EMODB_6, NANO_LABELS
from emollama.phrases import ask
from emollama.prompt import Confidence, Cues, FaceCue, Level, Renderer, Source, VoiceCue, WordsCue
from train.builders.cues import SUBSETS, join_cues, random_cues
from train.builders.pools import FacePool, VoicePool, WordsPool, classes_of

MAX_FACE_TOKENS = 8
# From these confidences on a sentence may call a reading fairly sure, or confident.
MEDIUM_FROM, HIGH_FROM = 0.55, 0.80


@dataclass(frozen=True, kw_only=True)
class Composed:
    """One composed sample before it is put into words. ``*_rows`` index the pools; ``target`` [8] over NANO_LABELS."""

    subset: tuple[Source, ...]
    emotion: str
    conflict: bool
    target: np.ndarray
    face_tokens: np.ndarray | None  # [T, D]
    voice_token: np.ndarray | None  # [D]
    transcript: str | None
    cues: Cues
    face_rows: tuple[int, ...] = ()
    voice_row: int | None = None
    words_row: int | None = None


@dataclass(frozen=True, kw_only=True)
class Pools:
    face: FacePool
    voice: VoicePool
    words: WordsPool
    words_opinion: np.ndarray | None = None  # [N, 8] the backbone's own label scores for the comments, when known


@dataclass(frozen=True, kw_only=True)
class Mix:
    """How samples are drawn. ``flatten`` is the exponent on class counts: 1 natural, 0 uniform."""

    conflict: float = 0.12
    still: float = 0.35
    turn: float = 0.45
    flatten: float = 0.5
    abstain_below: float = 0.40


class Composer:
    """Draws composed samples from pools of real ones; the same ``rng`` state gives the same samples."""

    def __init__(self, pools: Pools, *, mix: Mix | None = None) -> None:
        self.pools = pools
        self.mix = mix or Mix()
        self._rows = {
            (source, label): getattr(pools, source).of_class(label)
            for source in ("face", "voice", "words")
            for label in NANO_LABELS
            if label in classes_of((source,))
        }
        self._rows = {key: rows for key, rows in self._rows.items() if len(rows)}

    def classes(self, subset: tuple[Source, ...]) -> list[str]:
        return [name for name in classes_of(subset) if all((source, name) in self._rows for source in subset)]

    def draw(self, rng: Random, *, subset: tuple[Source, ...] | None = None, emotion: str | None = None) -> Composed:
        """Draw one sample; ``emotion`` forces the class (and agreement)."""
        subset = subset or rng.choice(SUBSETS)
        classes = self.classes(subset)
        conflict = emotion is None and len(subset) > 1 and rng.random() < self.mix.conflict
        if emotion is None:
            counts = [min(len(self._rows[source, name]) for source in subset) for name in classes]
            emotion = rng.choices(classes, weights=[count**self.mix.flatten for count in counts])[0]
        told: dict[Source, str] = dict.fromkeys(subset, emotion)
        if conflict:
            odd = rng.choice(subset)
            told[odd] = rng.choice([name for name in self.classes((odd,)) if name != emotion])
        opinions: dict[Source, np.ndarray] = {}
        targets: dict[Source, np.ndarray] = {}

        face_tokens: np.ndarray | None = None
        face_cues: tuple[FaceCue, ...] = ()
        face_rows: tuple[int, ...] = ()
        still = False
        if "face" in subset:
            still = rng.random() < self.mix.still
            face_tokens, face_cues, opinions["face"], targets["face"], face_rows = self._face(rng, told["face"], still)
        voice_token, voice_cue, voice_row = None, None, None
        if "voice" in subset:
            voice_row = rng.choice(self._rows["voice", told["voice"]].tolist())
            voice_token = self.pools.voice.tokens[voice_row]
            voice_cue, opinions["voice"] = self._voice(voice_row)
            targets["voice"] = _one_hot(told["voice"])
        transcript, words_cue, words_row = None, None, None
        if "words" in subset:
            words_row = self._words_row(rng, told["words"], alone=len(subset) == 1)
            transcript = self.pools.words.texts[words_row]
            targets["words"] = self.pools.words.targets[words_row]
            known = self.pools.words_opinion
            opinions["words"] = known[words_row] if known is not None else 0.6 * targets["words"] + 0.4 / 8
            words_cue = WordsCue(label=NANO_LABELS[int(opinions["words"].argmax())], quote=transcript[:20])

        if conflict or len(subset) == 1:
            target = np.mean(list(targets.values()), axis=0)
        else:
            target = 0.5 * _one_hot(emotion) + 0.5 * targets["face"] if "face" in subset else _one_hot(emotion)
        cues = self._join(rng, opinions, face_cues, voice_cue, words_cue, still=still)
        return Composed(
            subset=subset,
            emotion=emotion,
            conflict=conflict,
            target=(target / target.sum()).astype(np.float32),
            face_tokens=face_tokens,
            voice_token=voice_token,
            transcript=transcript,
            cues=cues,
            face_rows=face_rows,
            voice_row=voice_row,
            words_row=words_row,
        )

    def _words_row(self, rng: Random, label: str, *, alone: bool) -> int:
        """A comment of one class; alone, one in five carries several labels, as real comments do."""
        if alone and rng.random() < 0.2:
            return rng.randrange(len(self.pools.words.texts))
        return int(rng.choice(self._rows["words", label].tolist()))

    def _face(
        self, rng: Random, label: str, still: bool
    ) -> tuple[np.ndarray, tuple[FaceCue, ...], np.ndarray, np.ndarray, tuple[int, ...]]:
        """Tokens [T, D], cues, mean opinion [8], time-weighted vote target [8] and the pictures' rows."""
        pool = self.pools.face
        stretches = [label]
        if not still and rng.random() < self.mix.turn:
            other = rng.choice([name for name in self.classes(("face",)) if name != label])
            stretches.insert(rng.choice((0, 1)), other)
        total = 1 if still else rng.randint(len(stretches), MAX_FACE_TOKENS)
        lengths = [total]
        if len(stretches) == 2:
            main = max(total // 2 + 1, total - rng.randint(1, max(1, total // 2))) if total > 2 else 1
            lengths = [main, total - main] if stretches[0] == label else [total - main, main]
        tokens: list[np.ndarray] = []
        rows: list[int] = []
        spans: list[tuple[int, int]] = []
        seconds = rng.uniform(1.5, 12.0)
        for name, length in zip(stretches, lengths, strict=True):
            picks = [rng.choice(self._rows["face", name].tolist()) for _ in range(1 if rng.random() < 0.5 else 3)]
            chosen = [rng.choice(picks) for _ in range(length)]
            spans.append((len(rows), len(rows) + length))
            rows += chosen
            tokens += [pool.tokens[row] for row in chosen]
        cues: list[FaceCue] = []
        for start, end in spans:
            if end > start:
                mean = pool.probabilities[rows[start:end]].mean(0)
                name = NANO_LABELS[int(mean.argmax())]
                span = (seconds * start / total, seconds * end / total)
                if cues and cues[-1].label == name:
                    previous = cues.pop()
                    span = (previous.start, span[1])
                cues.append(FaceCue(start=span[0], end=span[1], label=name, strength=strength(float(mean.max()))))
        return (
            np.stack(tokens),
            tuple(cues),
            pool.probabilities[rows].mean(0),
            pool.targets[rows].mean(0),
            tuple(rows),
        )

    def _voice(self, row: int) -> tuple[VoiceCue, np.ndarray]:
        pool = self.pools.voice
        opinion = np.full(len(NANO_LABELS), 1e-3, np.float32)
        for name, probability in zip(EMODB_6, pool.probabilities[row], strict=True):
            opinion[NANO_LABELS.index(name)] = probability
        levels: dict[str, Level] = pool.levels[row]  # type: ignore[assignment]
        cue = VoiceCue(
            start=float(pool.spans[row, 0]),
            end=float(pool.spans[row, 1]),
            label=EMODB_6[int(pool.probabilities[row].argmax())],
            pitch=levels["pitch"],
            loudness=levels["loudness"],
            rate=levels["rate"],
        )
        return cue, opinion / opinion.sum()

    def _join(
        self,
        rng: Random,
        opinions: dict[Source, np.ndarray],
        face: tuple[FaceCue, ...],
        voice: VoiceCue | None,
        words: WordsCue | None,
        *,
        still: bool,
    ) -> Cues:
        """A stand-in for the scored label: the normalised product of the opinions; now and then another's verdict."""
        joint = np.prod([np.clip(opinion, 1e-3, 1.0) for opinion in opinions.values()], axis=0)
        joint /= joint.sum()
        order = np.argsort(-joint)
        label = NANO_LABELS[int(order[0])]
        if rng.random() < 0.15:
            label = NANO_LABELS[int(rng.choice(list(opinions.values())).argmax())]
        confidence = band(float(joint.max()))
        lead = max(opinions, key=lambda source: opinions[source][NANO_LABELS.index(label)])
        said = any(NANO_LABELS[int(opinion.argmax())] == label for opinion in opinions.values())
        return join_cues(
            label=label,
            confidence=confidence,
            face=face,
            voice=voice,
            words=words,
            lead=lead if said else None,
            others=[NANO_LABELS[i] for i in order[:4] if joint[i] >= 0.10 and NANO_LABELS[i] != label][:2],
            abstained=float(joint.max()) < self.mix.abstain_below,
            still=still,
        )


def band(confidence: float) -> Confidence:
    return "low" if confidence < MEDIUM_FROM else "medium" if confidence < HIGH_FROM else "high"


def _one_hot(label: str) -> np.ndarray:
    return np.eye(len(NANO_LABELS), dtype=np.float32)[NANO_LABELS.index(label)]


def dialogue(renderer: Renderer, sample: Composed, rng: Random) -> tuple[list[int], list[bool], int]:
    """Put a composed sample into ids: ``(ids, answer mask, index of <|label|>)``."""
    prefix = renderer.prefix(
        face_tokens=0 if sample.face_tokens is None else len(sample.face_tokens),
        voice_tokens=0 if sample.voice_token is None else 1,
        transcript=sample.transcript,
    )
    _, question, answer = ask(sample.cues, rng)
    ids, mask = renderer.supervised(
        prefix=prefix, label=sample.cues.label, cues=sample.cues, question=question, answer=answer
    )
    return ids, mask, len(prefix) - 1


def text_samples(renderer: Renderer, *, seed: int = 0) -> Iterator[tuple[list[int], list[bool]]]:
    """Endless dialogues over random cues, without any modality: ids and the mask of the answer's tokens.

    The backbone meets the cues, the slots and the answer grammar here, before an adapter ties them to real readings.
    """
    rng = Random(seed)
    while True:
        cues = random_cues(rng)
        _, question, answer = ask(cues, rng)
        yield renderer.supervised(
            prefix=renderer.prefix(), label=cues.label, cues=cues, question=question, answer=answer
        )
