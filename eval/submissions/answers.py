"""Kept readings of frames -> the answers of a submission, with a trained head or without one.

Without a head (zero-shot, as in HSEmotion's notebooks): ``expr`` reads contempt as other, ``va`` takes the model's own
valence and arousal, and a compound expression (``ce``) has the mean of its two parts' probabilities, of several faces
the one that shows it most. ``au`` and ``emi`` want a head.

Series are made dense and smoothed before anything is decided (`emollama.temporal`). In a video without any face the
mean over the other videos' frames stands, which is our choice: the challenge wants a row, and the notebooks do not say
which.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from emollama.datasets import cexpr
from emollama.datasets.frame_scores import FrameScores
from emollama.encoders.frame_head import FrameHead, statistics
from emollama.errors import InputError
from emollama.labels import ABAW_8, HSEMOTION_8
from emollama.temporal import box, dense, frame_filter
from eval.series import compound_parts
from eval.submissions.formats import write_clips, write_frames
from eval.submissions.frame_lists import read_clips, read_frames

TASKS = ("expr", "va", "au", "ce", "emi")
# Columns of the model's output in the challenge's order; contempt plays "other".
TO_ABAW = tuple(HSEMOTION_8.index("contempt" if label == "other" else label) for label in ABAW_8)
COMPOUND_COLUMNS = tuple(
    tuple(HSEMOTION_8.index(part) for part in compound_parts(label)) for label in cexpr.COMPOUNDS
)  # [7][2]
_NUM_BASIC = len(ABAW_8) - 1  # all but "other", which a pre-trained model does not know


@dataclass(frozen=True, kw_only=True)
class Submitted:
    """What was written: ``rows`` of ``names`` videos or clips; ``faceless`` are those in which no face was found."""

    rows: int
    names: int
    faceless: tuple[str, ...]


def submit(
    path: Path,
    task: str,
    readings: Mapping[str, FrameScores],
    wanted: Path,
    *,
    head: FrameHead | None = None,
    half_width: int | None = None,
    trust: float | None = None,
) -> Submitted:
    """Write the submission of a task for the list ``wanted``; raises `InputError` before anything is written.

    ``half_width`` is the smoothing in frames (``None``: the head's own, else 0). ``trust`` is the threshold of the
    frame filter of ``expr``, which wants a head to overrule.
    """
    if task not in TASKS:
        raise InputError(f"task is {task!r}; allowed: {', '.join(TASKS)}", field="task")
    if head is not None and head.task != task:
        raise InputError(f"the head is one for {head.task}; allowed: one for {task}", field="head")
    if head is None and task in ("au", "emi"):
        raise InputError(f"{task} wants a trained head; name it with --head", field="head")
    if trust is not None and (task != "expr" or head is None):
        raise InputError("trust has an effect only for expr with a head", field="trust")
    if task == "emi":
        assert head is not None
        if half_width is not None:
            raise InputError("half_width has no effect on emi, which has one row a clip", field="half_width")
        clips = read_clips(wanted)
        names = {clip: Path(clip).stem for clip in clips}
        _require(readings, names.values())
        found, faceless = clip_answers({clip: readings[name] for clip, name in names.items()}, head)
        return Submitted(rows=write_clips(path, task, clips, found), names=len(clips), faceless=faceless)
    frames = read_frames(wanted)
    _require(readings, frames)
    width = half_width if half_width is not None else head.half_width if head is not None else 0
    last = {video: max(numbers) for video, numbers in frames.items()}
    series, faceless = frame_series(
        task, {video: readings[video] for video in frames}, last, head=head, half_width=width
    )
    answers = {video: decide(task, values, head=head) for video, values in series.items()}
    if trust is not None:
        sure, _ = frame_series("expr", {video: readings[video] for video in frames}, last, half_width=width)
        answers = {
            video: frame_filter(sure[video][:, :_NUM_BASIC], classes, threshold=trust)
            for video, classes in answers.items()
        }
    return Submitted(rows=write_frames(path, task, frames, answers), names=len(frames), faceless=faceless)


def frame_values(task: str, readings: FrameScores, *, head: FrameHead | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of the frames with a face [N] and the values [N, K] there, each frame once."""
    frames = np.unique(readings.frames)
    if task == "ce":
        each = readings.probabilities()[:, COMPOUND_COLUMNS].mean(axis=2)  # [faces, 7]
        starts = np.searchsorted(readings.frames, frames)
        return frames, np.maximum.reduceat(each, starts, axis=0) if len(frames) else each
    if len(frames) < len(readings.frames):
        raise InputError(f"{readings.video} has several faces in a frame; allowed for {task}: one", field="frames")
    if head is not None:
        return frames, head(features_of(readings, head.reads))
    return frames, readings.affect() if task == "va" else readings.probabilities()[:, TO_ABAW]


def features_of(readings: FrameScores, reads: str) -> np.ndarray:
    """Return the input [N, D] of a head; raises `InputError` where a video's embeddings were not kept."""
    if reads == "scores":
        return readings.scores
    if readings.embeddings is None:
        raise InputError(f"{readings.video} has no embeddings, which the head reads", field="embeddings")
    return readings.embeddings


def frame_series(
    task: str,
    readings: Mapping[str, FrameScores],
    last: Mapping[str, int],
    *,
    head: FrameHead | None = None,
    half_width: int = 0,
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Return video -> smoothed values [last, K], and the videos without any face, which have the mean of the others."""
    found = {video: frame_values(task, each, head=head) for video, each in readings.items()}
    faceless = tuple(video for video, (frames, _) in found.items() if not len(frames))
    if len(faceless) == len(found):
        raise InputError("no listed video has a frame with a face", field="scores")
    mean = np.concatenate([values for frames, values in found.values() if len(frames)]).mean(axis=0)
    series = {}
    for video, (frames, values) in found.items():
        # Smoothed over all that is known of the video, also beyond the last frame of a list.
        until = max(last[video], int(frames[-1])) if len(frames) else last[video]
        filled = dense(frames, values, until=until) if len(frames) else np.tile(mean, (until, 1))
        series[video] = box(filled, half_width)[: last[video]]
    return series, faceless


def decide(task: str, values: np.ndarray, *, head: FrameHead | None = None) -> np.ndarray:
    """Return the answers of a task from smoothed values [T, K]: classes [T], numbers [T, 2] or flags [T, 12]."""
    if task == "va":
        return np.clip(values, -1.0, 1.0)
    if task == "au":
        assert head is not None
        return (values > np.asarray(head.thresholds)).astype(np.int64)
    return values.argmax(axis=1)


def clip_answers(readings: Mapping[str, FrameScores], head: FrameHead) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Return clip -> intensities [6], and the clips without any face, which have the mean of the others."""
    seen = {clip: each for clip, each in readings.items() if len(each.frames)}
    if not seen:
        raise InputError("no listed clip has a frame with a face", field="scores")
    answers = dict(
        zip(seen, head(np.stack([statistics(features_of(each, head.reads)) for each in seen.values()])), strict=True)
    )
    faceless = tuple(clip for clip in readings if clip not in seen)
    mean = np.mean(list(answers.values()), axis=0)
    return answers | dict.fromkeys(faceless, mean), faceless


def _require(readings: Mapping[str, FrameScores], names: Iterable[str]) -> None:
    missing = [name for name in names if name not in readings]
    if missing:
        raise InputError(f"{len(missing)} listed videos have no readings, the first is {missing[0]!r}", field="scores")
