"""The rows of a submission: headers and values exactly as each challenge wants them, written at once or not at all.

ABAW-6 (formats as its notebooks in EmotiEffLib write them): EXPR and CE name the index of one class, VA two numbers, AU
twelve flags, each frame as ``<video>/%05d.jpg``; EMI is the table of its labels, a row for each clip. MER's closed
track wants ``name,discrete``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np

from emollama.datasets import aff_wild2, cexpr, mer, vidmimic
from emollama.errors import InputError, UnknownNameError
from eval.submissions.frame_lists import frame_name


@dataclass(frozen=True, kw_only=True)
class Format:
    """A file's header, and how the answer for one row becomes its cells (`InputError` where it is out of range)."""

    header: tuple[str, ...]
    cells: Callable[[np.ndarray], list[str]]
    by_frame: bool = True


def _index(num_classes: int) -> Callable[[np.ndarray], list[str]]:
    def cells(answer: np.ndarray) -> list[str]:
        value = np.asarray(answer)
        if value.shape != () or value != int(value) or not 0 <= value < num_classes:
            raise InputError(f"answer {value.tolist()}; allowed: a class, 0 to {num_classes - 1}", field="answer")
        return [str(int(value))]

    return cells


def _numbers(count: int, low: float, high: float) -> Callable[[np.ndarray], list[str]]:
    def cells(answer: np.ndarray) -> list[str]:
        values = np.asarray(answer, np.float64)
        if values.shape != (count,) or not ((values >= low) & (values <= high)).all():
            raise InputError(f"answer {values.tolist()}; allowed: {count} of {low:g} to {high:g}", field="answer")
        return [f"{value:.6f}" for value in values]

    return cells


def _flags(count: int) -> Callable[[np.ndarray], list[str]]:
    def cells(answer: np.ndarray) -> list[str]:
        values = np.asarray(answer)
        if values.shape != (count,) or not np.isin(values, (0, 1)).all():
            raise InputError(f"answer {values.tolist()}; allowed: {count} of 0 and 1", field="answer")
        return [str(int(value)) for value in values]

    return cells


def _label(labels: Sequence[str]) -> Callable[[np.ndarray], list[str]]:
    def cells(answer: np.ndarray) -> list[str]:
        if str(answer) not in labels:
            raise InputError(f"answer {str(answer)!r}; allowed: {', '.join(labels)}", field="answer")
        return [str(answer)]

    return cells


FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        "expr": Format(header=("image_location", *aff_wild2.HEADERS["expr"]), cells=_index(8)),
        "va": Format(header=("image_location", *aff_wild2.HEADERS["va"]), cells=_numbers(2, -1.0, 1.0)),
        "au": Format(header=("image_location", *aff_wild2.HEADERS["au"]), cells=_flags(12)),
        "ce": Format(header=cexpr.HEADER, cells=_index(7)),
        "emi": Format(header=("Filename", *vidmimic.INTENSITIES), cells=_numbers(6, 0.0, 1.0), by_frame=False),
        "mer": Format(header=("name", "discrete"), cells=_label(mer.LABELS), by_frame=False),
    }
)


def find_format(name: str) -> Format:
    """Return a format by its name; an unknown one raises `UnknownNameError`."""
    if name not in FORMATS:
        raise UnknownNameError("submission", name, FORMATS)
    return FORMATS[name]


def write_frames(path: Path, name: str, frames: Mapping[str, Sequence[int]], answers: Mapping[str, np.ndarray]) -> int:
    """Write the rows of listed frames and return how many; ``answers[video][n - 1]`` is the answer for frame n.

    A listed frame without an answer raises `InputError`, and then no file is written.
    """
    chosen = find_format(name)

    def rows() -> Iterable[list[str]]:
        for video, numbers in frames.items():
            series = answers.get(video)
            if series is None or max(numbers) > len(series):
                raise InputError(
                    f"video {video} has {0 if series is None else len(series)} answers; allowed: one for each frame up "
                    f"to {max(numbers)}",
                    field="answers",
                )
            for number in numbers:
                yield [frame_name(video, number), *_cells(chosen, series[number - 1], frame_name(video, number))]

    return _write(path, chosen, rows())


def write_clips(path: Path, name: str, clips: Sequence[str], answers: Mapping[str, np.ndarray]) -> int:
    """Write the rows of listed clips and return how many; a clip without an answer raises `InputError`."""
    chosen = find_format(name)
    missing = [clip for clip in clips if clip not in answers]
    if missing:
        raise InputError(f"{len(missing)} listed clips have no answer, the first is {missing[0]!r}", field="answers")
    return _write(path, chosen, ([clip, *_cells(chosen, answers[clip], clip)] for clip in clips))


def _cells(chosen: Format, answer: np.ndarray, where: str) -> list[str]:
    try:
        return chosen.cells(answer)
    except InputError as error:
        raise InputError(f"{where}: {error}", field="answers") from error


def _write(path: Path, chosen: Format, rows: Iterable[list[str]]) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    count = 0
    try:
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            file.write(",".join(chosen.header) + "\n")
            for row in rows:
                file.write(",".join(row) + "\n")
                count += 1
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return count
