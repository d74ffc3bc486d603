"""Kept readings of frames and of sound -> the file of a submission, with trained heads or without (`emollama.abaw`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from emollama.abaw import TASKS
from emollama.abaw.answers import answer_clips, answer_frames, smoothed_by, without_heads
from emollama.abaw.heads import TunedHeads
from emollama.datasets import cexpr
from emollama.datasets.frame_scores import FrameScores
from emollama.datasets.sound_features import SoundFeatures
from emollama.encoders.frame_head import FrameHead
from emollama.errors import InputError
from eval.submissions.formats import write_clips, write_frames
from eval.submissions.frame_lists import read_clips, read_frames


@dataclass(frozen=True, kw_only=True)
class Submitted:
    """What was written: ``rows`` of ``names`` videos or clips.

    ``faceless`` are those in which no face was found, ``silent`` those of them without any sound that was listened to.
    ``divergence`` is, for ``ce``, that of the published class counts from the answers; ``share_read`` how much of the
    frames an adaptive frame rate needed.
    """

    rows: int
    names: int
    faceless: tuple[str, ...]
    silent: tuple[str, ...] = ()
    divergence: float | None = None
    share_read: float | None = None


def submit(
    path: Path,
    task: str,
    readings: Mapping[str, FrameScores],
    wanted: Path,
    *,
    head: TunedHeads | FrameHead | None = None,
    sounds: Mapping[str, SoundFeatures] | None = None,
    half_width: int | None = None,
    trust: float | None = None,
) -> Submitted:
    """Write the submission of a task for the list ``wanted``; raises `InputError` before anything is written.

    ``half_width`` smooths by a box of so many frames on either side (``None``: as was tuned with the head, else not at
    all). ``trust`` is the threshold of the frame filter of ``expr``, which wants a head to overrule.
    """
    heads = _heads(task, head)
    if heads.sound is not None and sounds is None:
        raise InputError("the heads listen to sound, too; name the folder of its features", field="sound")
    if heads.sound is None and sounds is not None:
        raise InputError("sound has no effect: no head listens to it", field="sound")
    if trust is not None:
        if task != "expr" or head is None:
            raise InputError("trust has an effect only for expr with a head", field="trust")
        heads = dataclasses.replace(heads, plan=dataclasses.replace(heads.plan, trust=trust))
    if half_width is not None:
        if task == "emi":
            raise InputError("half_width has no effect on emi, which has one row a clip", field="half_width")
        heads = smoothed_by(heads, half_width)
    if task == "emi":
        clips = read_clips(wanted)
        names = {clip: Path(clip).stem for clip in clips}
        _require(readings, names.values())
        found = answer_clips(heads, {clip: readings[name] for clip, name in names.items()}, sounds=sounds)
        rows = write_clips(path, task, clips, found.answers)
        return Submitted(rows=rows, names=len(clips), faceless=found.faceless, silent=found.silent)
    frames = read_frames(wanted)
    _require(readings, frames)
    found = answer_frames(heads, readings, {video: max(each) for video, each in frames.items()}, sounds=sounds)
    divergence = None
    if task == "ce":
        listed = [found.answers[video][np.asarray(each) - 1] for video, each in frames.items()]
        divergence = cexpr.prior_divergence(np.concatenate(listed))
    return Submitted(
        rows=write_frames(path, task, frames, found.answers),
        names=len(frames),
        faceless=found.faceless,
        silent=found.silent,
        divergence=divergence,
        share_read=found.share_read,
    )


def _heads(task: str, head: TunedHeads | FrameHead | None) -> TunedHeads:
    if task not in TASKS:
        raise InputError(f"task is {task!r}; allowed: {', '.join(TASKS)}", field="task")
    if head is None:
        return without_heads(task)
    if isinstance(head, FrameHead):
        return TunedHeads.of(head, task=task)
    if head.task != task:
        raise InputError(f"the head is one for {head.task}; allowed: one for {task}", field="head")
    return head


def _require(readings: Mapping[str, FrameScores], names: Iterable[str]) -> None:
    missing = [name for name in names if name not in readings]
    if missing:
        raise InputError(f"{len(missing)} listed videos have no readings, the first is {missing[0]!r}", field="scores")
