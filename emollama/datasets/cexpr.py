"""C-EXPR-DB (Kollias, CVPR 2023) as ABAW's compound expression challenge gives it: 56 videos without labels.

The labels of the challenge are not published. What is scored here is a truth of your own in the challenge's own format
of submissions: ``labels.txt`` with the header ``image_location,Fearfully_Surprised,...,Sadly_Angry`` and rows
``01/00001.jpg,<index>``, beside ``videos/01.mp4`` and on or the crops in ``cropped_aligned/01/``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from emollama.datasets import aff_wild2
from emollama.datasets.record import Source

SOURCE = Source(
    title="C-EXPR-DB (ABAW CE)",
    home="https://affective-behavior-analysis-in-the-wild.github.io (on request; its labels are not published)",
)
COMPOUNDS = (
    "fearfully surprised", "happily surprised", "sadly surprised", "disgustedly surprised", "angrily surprised",
    "sadly fearful", "sadly angry",
)  # fmt: skip
HEADER = ("image_location", *("_".join(word.capitalize() for word in name.split()) for name in COMPOUNDS))
TRUTH = "labels.txt"
# Frames of each in the whole database as published: what a label-free choice between models is made by.
FRAME_COUNTS = (14_445, 24_915, 10_780, 10_637, 10_535, 10_112, 8_878)


def read(data: Path) -> Iterator[aff_wild2.Stretch]:
    """Yield the stretches by video; raises `DatasetError` with file and line."""
    path, rows = data / TRUTH, read_labels(data)
    videos = aff_wild2.find_videos(data)
    for video in sorted(rows):
        yield from aff_wild2.cut(data, video, rows[video], videos=videos, where=str(path))


def read_labels(data: Path) -> dict[str, dict[int, str]]:
    """Return video -> frame number (from 1) -> label, without looking for videos or crops."""
    path = SOURCE.file(data / TRUTH, expected=f"your own labels in the format of a submission, header {HEADER[0]},...")
    rows: dict[str, dict[int, str]] = {}
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    if not lines or [cell.strip().lower() for cell in lines[0].split(",")] != [name.lower() for name in HEADER]:
        raise SOURCE.error(f"{path}:1: header {lines[0][:60] if lines else ''!r}; expected: {','.join(HEADER)}")
    for line, text in enumerate(lines[1:], start=2):
        if not text.strip():
            continue
        name, _, code = (part.strip() for part in text.partition(","))
        video, frame = str(PurePosixPath(name).parent), PurePosixPath(name).stem
        if not frame.isdecimal() or video in (".", ""):
            raise SOURCE.error(f"{path}:{line}: {name!r}; expected: video and frame, as in 01/00001.jpg")
        if code == "-1":
            continue
        if not code.isdecimal() or int(code) >= len(COMPOUNDS):
            raise SOURCE.error(f"{path}:{line}: {code!r}; allowed: 0 to {len(COMPOUNDS) - 1}, or -1 for none")
        if rows.setdefault(video, {}).setdefault(int(frame), COMPOUNDS[int(code)]) != COMPOUNDS[int(code)]:
            raise SOURCE.error(f"{path}:{line}: frame {name!r} is there twice with two labels; keep one")
    if not rows:
        raise SOURCE.error(f"{path} holds no labelled frame")
    return rows


def prior_divergence(classes: np.ndarray) -> float:
    """Return KL(published class counts || counts of ``classes`` [N], indices of `COMPOUNDS`), in nats.

    Infinite when a class is never answered. HSEmotion chooses between models by it, without any label.
    """
    counts = np.bincount(np.asarray(classes, np.int64), minlength=len(COMPOUNDS))
    prior = np.asarray(FRAME_COUNTS) / sum(FRAME_COUNTS)
    if not counts.all():
        return float("inf")
    return float((prior * np.log(prior / (counts / counts.sum()))).sum())
