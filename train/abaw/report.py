"""After training: tune on the videos held back, write the heads with their plan, and measure once on the reported part.

``report.json`` has the figure on the videos held back, before and after tuning, every value that was tried, and the
figure on the reported part: of the heads as they are (units at 0.5) and as tuned.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from emollama.abaw.answers import Opinions, answer_clips, answer_frames, clip_opinions, opinions_of
from emollama.abaw.heads import Plan, TunedHeads
from emollama.datasets import sound_features
from emollama.tensors import write_json
from train.abaw.scores import NAMES, score
from train.abaw.truth import Truth
from train.abaw.tuning import Bench, Tuned, rate_figures, tune, tune_rate

if TYPE_CHECKING:
    from train.abaw.task import AbawTask

REPORT = "report.json"


def tune_and_report(task: AbawTask, heads: TunedHeads, folder: Path) -> None:
    """Write ``heads`` as tuned, and the report, into ``folder``."""
    tuned = tune_heads(task, heads)
    tuned.plan = dataclasses.replace(tuned.plan, fps=task.options.fps)
    finished = _with_plan(heads, tuned.plan, task=task.options.task)
    finished.save(folder)
    reported = task.truth_of_reported()
    write_json(
        folder / REPORT,
        {
            "task": task.options.task,
            "figure": NAMES[task.options.task],
            "held_back": list(task.held),
            "tuning": {"untuned": round(tuned.untuned, 6), "tuned": round(tuned.figure, 6)},
            "reported": None if reported is None else reported_figures(task, heads, finished, reported),
            "adaptive_rate": tuned.rates,
            "trials": [dataclasses.asdict(trial) for trial in tuned.trials],
        },
    )


def tune_heads(task: AbawTask, heads: TunedHeads) -> Tuned:
    """Return the plan that is best on the videos held back."""
    options = task.options
    held = {video: task.truth[video] for video in task.held}
    bench = Bench(options.task, _opinions(task, heads, held), held)
    tuned = tune(bench, class_thresholds=options.class_thresholds, trust=options.trust and not options.strides)
    if options.strides:
        series = _sparse(task, heads, held, tuned.plan)
        rate = tune_rate(series, held, strides=options.strides, reach=options.reach, alpha=options.alpha)
        tuned.rates = rate_figures(series, held, rate)
        tuned.plan = dataclasses.replace(tuned.plan, rate=rate)
        tuned.figure = figure_of(_with_plan(heads, tuned.plan, task="expr"), task, held)
    return tuned


def reported_figures(task: AbawTask, heads: TunedHeads, finished: TunedHeads, reported: Truth) -> dict[str, Any]:
    """Return the figures on the reported part, the untuned heads' and the tuned ones', and how much it holds."""
    plain = _with_plan(heads, heads.plan, task=finished.task)
    return {
        "untuned": round(figure_of(plain, task, reported), 6),
        "tuned": round(figure_of(finished, task, reported), 6),
        "videos": len(reported),
        "rows": sum(len(frames) for frames, _ in reported.values()),
    }


def figure_of(heads: TunedHeads, task: AbawTask, known: Truth) -> float:
    """Return the challenge's figure over all annotated rows, answered exactly as a submission is."""
    readings = {video: task.readings[video] for video in known}
    if heads.task == "emi":
        answers: Mapping[str, np.ndarray] = answer_clips(heads, readings, sounds=task.sounds).answers
        rows = [answers[clip][None] for clip in known]
    else:
        last = {video: int(frames.max()) for video, (frames, _) in known.items()}
        answers = answer_frames(heads, readings, last, sounds=task.sounds).answers
        rows = [answers[video][frames - 1] for video, (frames, _) in known.items()]
    return score(heads.task, np.concatenate([values for _, values in known.values()]), np.concatenate(rows))


def _with_plan(heads: TunedHeads, plan: Plan, *, task: str) -> TunedHeads:
    """The same heads under a plan, for a task; a unit head carries its thresholds in its own file, too."""

    def planned(head: Any) -> Any:
        if head is None or head.task != "au":
            return head
        return dataclasses.replace(head, thresholds=plan.thresholds)

    return TunedHeads(task=task, face=planned(heads.face), sound=planned(heads.sound), plan=plan)


def _opinions(task: AbawTask, heads: TunedHeads, known: Truth) -> dict[str, Opinions]:
    found = {}
    for video, (frames, _) in known.items():
        sound = sound_features.find(task.sounds, video)
        if heads.task == "emi":
            face, heard = clip_opinions(heads, task.readings[video], sound)
            found[video] = Opinions(head=face, own=None, sound=heard)
        else:
            found[video] = opinions_of(heads, task.readings[video], int(frames.max()), sound=sound)
    return found


def _sparse(task: AbawTask, heads: TunedHeads, known: Truth, plan: Plan) -> dict[str, np.ndarray]:
    """The probabilities [T, 8] of the face's frames as mixed by a plan, NaN rows where there is no face."""
    series = {}
    for video, (frames, _) in known.items():
        each = opinions_of(heads, task.readings[video], int(frames.max()))
        mixed = dataclasses.replace(each, sound=None).mixed(plan)
        if mixed is None:
            continue
        there = task.readings[video].frames
        hidden = np.ones(len(mixed), bool)
        hidden[there - 1] = False
        series[video] = np.where(hidden[:, None], np.nan, mixed)[: int(frames.max())]
    return series
