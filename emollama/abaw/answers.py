"""Kept readings of frames and sound -> the answers of a task, with trained heads or by the pre-trained model alone.

Without a head (zero-shot, as in HSEmotion's notebooks): ``expr`` reads contempt as other, ``va`` takes the model's own
valence and arousal, and a compound expression (``ce``) has the mean of its two parts' probabilities, of several faces
the one that shows it most. ``au`` and ``emi`` want a head. With one, the two opinions are mixed, and the sound's with
them (`emollama.abaw.heads.Plan`).

Series are made dense over frames without a face (`emollama.temporal`), mixed, and smoothed before anything is decided.
What is missing is not made up: in a video without sound the face decides alone, in one without any face the sound does.
Where there is neither, the mean over the other videos' frames stands, which is our choice: the challenge wants a row,
and the notebooks do not say which.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from emollama.abaw.adaptive_rate import follow
from emollama.abaw.heads import Plan, TunedHeads
from emollama.datasets import cexpr, sound_features
from emollama.datasets.frame_scores import FrameScores
from emollama.datasets.sound_features import SoundFeatures
from emollama.encoders.frame_head import FrameHead, statistics
from emollama.errors import InputError
from emollama.labels import ABAW_8, HSEMOTION_8, canonical
from emollama.temporal import dense, frame_filter

# Columns of the model's output in the challenge's order; contempt plays "other".
TO_ABAW = tuple(HSEMOTION_8.index("contempt" if label == "other" else label) for label in ABAW_8)
NUM_BASIC = len(ABAW_8) - 1  # all but "other", which a pre-trained model does not know
# The parts of a compound expression's name (C-EXPR-DB) that are no name of an emotion by themselves.
_ADVERBS = {
    "fearfully": "fear", "happily": "happiness", "sadly": "sadness", "disgustedly": "disgust", "angrily": "anger",
}  # fmt: skip


def compound_parts(label: str) -> list[str]:
    """Return the canonical names of what a compound such as "happily surprised" is made of."""
    return [canonical(_ADVERBS.get(word, word)) for word in label.lower().split()]


COMPOUND_COLUMNS = tuple(
    tuple(HSEMOTION_8.index(part) for part in compound_parts(label)) for label in cexpr.COMPOUNDS
)  # [7][2]
_COMPOUND_OF_ABAW = tuple(tuple(ABAW_8.index(part) for part in compound_parts(label)) for label in cexpr.COMPOUNDS)


@dataclass(frozen=True, kw_only=True)
class Opinions:
    """What is thought of the frames of one video by whom, [T, K] each: the trained head, the pre-trained model, the
    head of the sound. ``None`` where there is no such head, no face in the video, or no sound."""

    head: np.ndarray | None
    own: np.ndarray | None
    sound: np.ndarray | None

    def mixed(self, plan: Plan) -> np.ndarray | None:
        """Return the opinions as one, not smoothed; ``None`` where nobody has one."""
        face = mix(self.head, self.own, plan.head)
        return mix(self.sound, face, plan.sound)


@dataclass(frozen=True, kw_only=True)
class Answered:
    """``answers`` [T, ...] of videos 1 to T or [6] of clips; ``silent`` are those of which nothing was known.

    ``share_read`` is how much of the frames an adaptive frame rate read, where there is one.
    """

    answers: Mapping[str, np.ndarray]
    faceless: tuple[str, ...]
    silent: tuple[str, ...]
    share_read: float | None = None


def mix(first: np.ndarray | None, second: np.ndarray | None, shares: tuple[float, ...]) -> np.ndarray | None:
    """Return ``shares`` of ``first`` and the rest of ``second`` [T, K]; of one that is absent the other alone."""
    if first is None or second is None:
        return second if first is None else first
    share = np.asarray(shares, np.float64)
    return share * first + (1.0 - share) * second


def answer_frames(
    heads: TunedHeads,
    readings: Mapping[str, FrameScores],
    last: Mapping[str, int],
    *,
    sounds: Mapping[str, SoundFeatures] | None = None,
) -> Answered:
    """Return classes [T], numbers [T, 2] or flags [T, 12] of frames 1 to ``last`` of the videos that ``last`` names."""
    task, plan = heads.task, heads.plan
    opinions = {
        video: opinions_of(heads, readings[video], until, sound=sound_features.find(sounds or {}, video))
        for video, until in last.items()
    }
    series: dict[str, np.ndarray] = {}
    num_read = num_frames = 0
    for video, each in opinions.items():
        mixed = each.mixed(plan)
        if mixed is None:
            continue
        series[video] = plan.smooth(mixed)[: last[video]]
        if plan.rate is not None and len(readings[video].frames):
            followed = follow(plan.rate, last[video], partial(face_opinion, heads, readings[video]))
            num_read, num_frames = num_read + int(followed.read.sum()), num_frames + last[video]
            decided = np.flatnonzero(followed.levels >= 0)
            if len(decided):
                # Far from any face the nearest decisions hold, so that a frame that was not read never counts.
                seldom = dense(decided + 1, followed.values[decided], until=last[video])
                sound = None if each.sound is None else plan.smooth(each.sound)[: last[video]]
                both = mix(sound, seldom, plan.sound)
                assert both is not None
                series[video] = both
    if not series:
        raise InputError("no listed video has a frame with a face or any sound", field="scores")
    mean = np.concatenate(list(series.values())).mean(axis=0)
    silent = tuple(video for video in last if video not in series)
    series |= {video: np.tile(mean, (last[video], 1)) for video in silent}
    answers = {}
    for video in last:
        answers[video] = decide(task, series[video], plan)
        own = opinions[video].own
        if plan.trust is not None and own is not None:
            sure = plan.smooth(own)[: last[video], :NUM_BASIC]
            answers[video] = frame_filter(sure, answers[video], threshold=plan.trust)
    return Answered(
        answers=answers,
        faceless=tuple(video for video in last if not len(readings[video].frames)),
        silent=silent,
        share_read=num_read / num_frames if num_frames else None,
    )


def decide(task: str, values: np.ndarray, plan: Plan) -> np.ndarray:
    """Return the answers of a task from smoothed values [T, K]: classes [T], numbers [T, 2] or flags [T, 12]."""
    if task == "va":
        return np.clip(values, -1.0, 1.0)
    if task == "au":
        return (values > np.asarray(plan.thresholds)).astype(np.int64)
    return (values / np.asarray(plan.thresholds) if plan.thresholds else values).argmax(axis=1)


def opinions_of(heads: TunedHeads, readings: FrameScores, last: int, *, sound: SoundFeatures | None = None) -> Opinions:
    """Return the opinions of frames 1 to ``last``, and on to the last with a face: smoothing looks beyond a list."""
    frames = np.unique(readings.frames)
    until = max(last, int(frames[-1])) if len(frames) else last
    head, own = frame_opinions(heads, readings)
    heard = None
    if heads.sound is not None and sound is not None:
        heard = _of_task(heads.task, heads.sound(sound.at_frames(np.arange(1, until + 1))))
    filled = [None if values is None else dense(frames, values, until=until) for values in (head, own)]
    return Opinions(head=filled[0], own=filled[1], sound=heard)


def frame_opinions(heads: TunedHeads, readings: FrameScores) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Return what head and pre-trained model think [N, K] of the frames with a face, each frame once."""
    frames = np.unique(readings.frames)
    if not len(frames):
        return None, None
    task = heads.task
    if task != "ce" and len(frames) < len(readings.frames):
        raise InputError(f"{readings.video} has several faces in a frame; allowed for {task}: one", field="frames")
    head = None if heads.face is None else _of_task(task, heads.face(features_of(readings, heads.face)))
    own: np.ndarray | None = None
    if task == "ce":
        own = readings.probabilities()[:, COMPOUND_COLUMNS].mean(axis=2)  # [faces, 7]
        starts = np.searchsorted(readings.frames, frames)
        head, own = (None if v is None else np.maximum.reduceat(v, starts, axis=0) for v in (head, own))
    elif task == "expr":
        own = readings.probabilities()[:, TO_ABAW]
    elif task == "va" and (head is None or readings.has_affect):
        own = readings.affect()
    return head, own


def face_opinion(heads: TunedHeads, readings: FrameScores, wanted: np.ndarray) -> np.ndarray:
    """Return what head and pre-trained model think [M, K] of frames ``wanted`` [M]; NaN where there is no face."""
    values = mix(*frame_opinions(heads, readings), heads.plan.head)
    if values is None:
        columns = {"expr": len(ABAW_8), "va": 2, "au": 12, "ce": len(cexpr.COMPOUNDS)}[heads.task]
        return np.full((len(wanted), columns), np.nan)
    frames = np.unique(readings.frames)
    places = np.minimum(np.searchsorted(frames, wanted), len(frames) - 1)
    return np.where((frames[places] == wanted)[:, None], values[places], np.nan)


def answer_clips(
    heads: TunedHeads,
    readings: Mapping[str, FrameScores],
    *,
    sounds: Mapping[str, SoundFeatures] | None = None,
) -> Answered:
    """Return clip -> intensities [6]."""
    answers: dict[str, np.ndarray] = {}
    for clip, each in readings.items():
        face, heard = clip_opinions(heads, each, sound_features.find(sounds or {}, each.video))
        mixed = mix(heard, face, heads.plan.sound)
        if mixed is not None:
            answers[clip] = mixed[0]
    if not answers:
        raise InputError("no listed clip has a frame with a face or any sound", field="scores")
    silent = tuple(clip for clip in readings if clip not in answers)
    mean: np.ndarray = np.mean(list(answers.values()), axis=0)
    answers |= dict.fromkeys(silent, mean)
    return Answered(
        answers=answers,
        faceless=tuple(clip for clip, each in readings.items() if not len(each.frames)),
        silent=silent,
    )


def clip_opinions(
    heads: TunedHeads, readings: FrameScores, sound: SoundFeatures | None
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Return what the heads of face and sound think of a clip, [1, 6] each."""
    face = heard = None
    if heads.face is not None and len(readings.frames):
        face = heads.face(statistics(features_of(readings, heads.face))[None])
    if heads.sound is not None and sound is not None:
        heard = heads.sound(statistics(sound.features, stride=1)[None])
    return face, heard


def features_of(readings: FrameScores, head: FrameHead) -> np.ndarray:
    """Return the input [N, D] of a head; raises `InputError` where a video's embeddings were not kept."""
    if head.reads == "scores":
        return readings.scores
    if readings.embeddings is None:
        raise InputError(f"{readings.video} has no embeddings, which the head reads", field="embeddings")
    return readings.embeddings


def without_heads(task: str, *, width: float = 0.0) -> TunedHeads:
    """Return what answers zero-shot, smoothed by a box; raises `InputError` for a task that wants a head."""
    return TunedHeads(task=task, plan=Plan(width=width))


def smoothed_by(heads: TunedHeads, half_width: int) -> TunedHeads:
    """Return the same heads with a box of another half-width."""
    return dataclasses.replace(heads, plan=dataclasses.replace(heads.plan, smoothing="box", width=float(half_width)))


def _of_task(task: str, values: np.ndarray) -> np.ndarray:
    """Probabilities [N, 8] of a head of ``expr`` as those [N, 7] of compounds; for other tasks as they are."""
    return values[:, _COMPOUND_OF_ABAW].mean(axis=2) if task == "ce" else values
