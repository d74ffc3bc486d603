"""The lists of frames, and of clips, that a challenge wants an answer for; strictly read.

A list is what the organisers give out, or any submission: a line ``<video>/%05d.jpg`` for each frame, further columns
ignored, with or without a header that begins with ``image_location``. Of clips: a line for each, with or without a
header that begins with ``Filename`` or ``name``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from emollama.errors import DatasetError

_FRAME = re.compile(r"(?P<video>[^/\\,]+)/(?P<number>\d{5,})\.jpg")


def read_frames(path: Path) -> Mapping[str, tuple[int, ...]]:
    """Return video -> numbers of its frames, both in the order of the file; raises `DatasetError` with the line."""
    found: dict[str, dict[int, None]] = {}
    for line, name in _first_cells(path, headers=("image_location",)):
        match = _FRAME.fullmatch(name)
        if match is None or int(match["number"]) < 1 or match["video"] in (".", ".."):
            raise DatasetError(f"{path}:{line}: {name[:80]!r}; expected: <video>/00001.jpg and on")
        frames = found.setdefault(match["video"], {})
        if int(match["number"]) in frames:
            raise DatasetError(f"{path}:{line}: frame {name!r} is there twice; keep one")
        frames[int(match["number"])] = None
    if not found:
        raise DatasetError(f"{path} names no frame; expected: a line <video>/00001.jpg for each")
    return {video: tuple(frames) for video, frames in found.items()}


def read_clips(path: Path) -> tuple[str, ...]:
    """Return the names of the clips in the order of the file; raises `DatasetError` with the line."""
    names: dict[str, None] = {}
    for line, name in _first_cells(path, headers=("filename", "name")):
        if name in names:
            raise DatasetError(f"{path}:{line}: clip {name!r} is there twice; keep one")
        names[name] = None
    if not names:
        raise DatasetError(f"{path} names no clip; expected: a line for each")
    return tuple(names)


def frame_name(video: str, number: int) -> str:
    """Return how a submission calls a frame."""
    return f"{video}/{number:05d}.jpg"


def _first_cells(path: Path, *, headers: tuple[str, ...]) -> Iterator[tuple[int, str]]:
    if not path.is_file():
        raise DatasetError(f"{path} is missing; expected: the list that the challenge wants answers for")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} is not text in UTF-8 (byte {error.start + 1})") from error
    while lines and not lines[-1].strip():
        lines.pop()
    for number, text in enumerate(lines, start=1):
        cell = text.partition(",")[0].strip()
        if number == 1 and cell.lower() in headers:
            continue
        if not cell:
            raise DatasetError(f"{path}:{number} has no name; expected: one in every line")
        yield number, cell
