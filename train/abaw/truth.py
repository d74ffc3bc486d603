"""What is annotated, as numbers: the frames of a part of Aff-Wild2, or the clips of Vidmimic2."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from emollama.datasets import aff_wild2, cexpr, vidmimic
from emollama.labels import ABAW_8

Truth = Mapping[str, tuple[np.ndarray, np.ndarray]]  # video -> frames [M] from 1, values [M] or [M, K]


def frames(data: Path, challenge: aff_wild2.Challenge, *, split: str) -> Truth:
    """Return the annotated frames of a split; videos without any are left out."""
    return _numbers(aff_wild2.read_frames(data, challenge, split=split), challenge)


def compounds(data: Path) -> Truth:
    """Return the labels of C-EXPR-DB that its user has, as indices of `cexpr.COMPOUNDS`."""
    return {
        video: (
            np.array(sorted(rows), np.int64),
            np.array([cexpr.COMPOUNDS.index(rows[number]) for number in sorted(rows)], np.int64),
        )
        for video, rows in cexpr.read_labels(data).items()
    }


def clips(data: Path, *, split: str) -> Mapping[str, np.ndarray]:
    """Return the intensities [6] of each clip, by its name without suffix."""
    return {
        Path(name).stem: np.array(values)
        for name, values in vidmimic.read_intensities(data, split={"validation": "valid"}.get(split, split)).items()
    }


def _numbers(found: Mapping[str, Mapping[int, object]], challenge: aff_wild2.Challenge) -> Truth:
    truth = {}
    for video, rows in found.items():
        numbers = sorted(rows)
        if not numbers:
            continue
        values: list[object] = [rows[number] for number in numbers]
        if challenge == "expr":
            known = np.array([ABAW_8.index(str(value)) for value in values], np.int64)
        elif challenge == "va":
            known = np.array([[value["valence"], value["arousal"]] for value in values])  # type: ignore[index]
        else:
            known = np.array(values, np.int64)
        truth[video] = (np.array(numbers, np.int64), known)
    return truth
