"""Aff-Wild2 with the annotations of ABAW: expression, valence and arousal, or action units of every frame of a video.

Annotations: ``6th_ABAW_Annotations/EXPR_Recognition_Challenge/Validation_Set/<video>.txt`` (likewise
``VA_Estimation_Challenge``, ``AU_Detection_Challenge`` and ``Train_Set``; the outer folder may have another name or be
the data folder itself). One header line, then line i says of frame i, counted from 1, called ``<video>/%05d.jpg`` in
submissions. A name that ends in ``_left`` or ``_right`` is one of two people in one video.

Rows without annotation are dropped: published are -1 for expressions and action units and -5 for valence and arousal;
-2 is taken for the same in all three. Every other row is kept, whether or not a face was found in the frame: the
challenge wants an answer for each.

Videos lie in ``batch1``, ``batch2`` and on, or ``videos``; the organisers' crops in ``cropped_aligned/<video>/`` or
``cropped/<video>/``, without those frames in which no face was found. A person of two is read from the crops, which
show nobody else; for others the video is preferred, since it has sound. A long video is cut into stretches.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from emollama.datasets.record import Source
from emollama.labels import ABAW_8
from emollama.sniff import VIDEO_SUFFIXES

SOURCE = Source(
    title="Aff-Wild2 (ABAW)",
    home="https://affective-behavior-analysis-in-the-wild.github.io (on request, with a signed agreement)",
)
Challenge = Literal["expr", "va", "au"]
SPLITS = {"validation": "Validation_Set", "train": "Train_Set"}
FOLDERS: Mapping[Challenge, tuple[str, ...]] = {
    "expr": ("EXPR_Recognition_Challenge", "EXPR_Classification_Challenge"),  # the second up to the fifth edition
    "va": ("VA_Estimation_Challenge",),
    "au": ("AU_Detection_Challenge",),
}
ACTION_UNITS = ("AU1", "AU2", "AU4", "AU6", "AU7", "AU10", "AU12", "AU15", "AU23", "AU24", "AU25", "AU26")
HEADERS: Mapping[Challenge, tuple[str, ...]] = {
    "expr": ("Neutral", "Anger", "Disgust", "Fear", "Happiness", "Sadness", "Surprise", "Other"),
    "va": ("valence", "arousal"),
    "au": ACTION_UNITS,
}
CROPS = {"cropped_aligned": 112, "cropped": 224}  # folder -> side that its pictures are brought to
CROP_FPS = 30.0  # of most videos of the set; crops do not tell their own rate
STRETCH_SECONDS = 30.0
_MARKS = frozenset(("-1", "-2"))  # of a row that is not annotated; -5 is for valence and arousal alone
_PERSON = re.compile(r"(?P<video>.+)_(?:left|right)")


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """A part of a video with its annotated frames.

    ``frames`` are the names of the rows, ``times`` their seconds from the start of the stretch, ``values`` what is true
    of them: a label, ``{"valence", "arousal"}``, or the flags of the action units. A video (``file``) is read from
    ``start`` to ``end`` seconds; without one, ``crops`` maps the seconds from the start to the pictures of the stretch,
    brought to ``side`` pixels.
    """

    id: str
    video: str
    frames: tuple[str, ...]
    times: tuple[float, ...]
    values: tuple[Any, ...]
    seconds: float
    file: Path | None = None
    start: float | None = None
    end: float | None = None
    crops: Mapping[float, Path] | None = None
    side: int = 112


def read(data: Path, challenge: Challenge, *, split: str = "validation") -> Iterator[Stretch]:
    """Yield the stretches of a challenge's split by video; raises `DatasetError` with file and line."""
    SOURCE.split(split, SPLITS)
    folder = _annotations(data, challenge) / SPLITS[split]
    files = sorted(SOURCE.folder(folder, expected="a text file for each video").glob("*.txt"))
    if not files:
        raise SOURCE.error(f"{folder} holds no annotation (<video>.txt)")
    videos = find_videos(data)
    for file in files:
        rows = read_annotation(file, challenge)
        yield from cut(data, file.stem, rows, videos=videos, where=str(file))


def read_frames(data: Path, challenge: Challenge, *, split: str = "train") -> dict[str, dict[int, Any]]:
    """Return video -> frame number (from 1) -> value of a split, without looking for videos or crops.

    A video all of whose rows are marked as not annotated is there with none. Raises `DatasetError` with file and line.
    """
    SOURCE.split(split, SPLITS)
    folder = _annotations(data, challenge) / SPLITS[split]
    files = sorted(SOURCE.folder(folder, expected="a text file for each video").glob("*.txt"))
    if not files:
        raise SOURCE.error(f"{folder} holds no annotation (<video>.txt)")
    return {file.stem: read_annotation(file, challenge) for file in files}


def scene_of(name: str) -> str:
    """Return the video that a name belongs to: of ``7-60_left`` and ``7-60_right`` it is one, with one sound."""
    person = _PERSON.fullmatch(name)
    return name if person is None else person["video"]


def read_annotation(path: Path, challenge: Challenge) -> dict[int, Any]:
    """Return frame number (from 1) -> value, without the rows that are marked as not annotated."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise SOURCE.error(f"{path} is not text in UTF-8 (byte {error.start + 1})") from error
    header = tuple(cell.strip() for cell in lines[0].split(",")) if lines else ()
    if [cell.lower() for cell in header] != [name.lower() for name in HEADERS[challenge]]:
        raise SOURCE.error(f"{path}:1: header {','.join(header)[:80]!r}; expected: {','.join(HEADERS[challenge])}")
    parse = _PARSERS[challenge]
    found = {}
    for number, line in enumerate(lines[1:], start=1):
        if not line.strip():
            if any(rest.strip() for rest in lines[number + 1 :]):
                raise SOURCE.error(f"{path}:{number + 1} is empty; expected: a row for every frame")
            break
        value = parse(line, f"{path}:{number + 1}")
        if value is not None:
            found[number] = value
    return found


def _expression(line: str, where: str) -> str | None:
    text = line.strip()
    if text in _MARKS:
        return None
    if not text.isdecimal() or int(text) >= len(ABAW_8):
        raise SOURCE.error(f"{where}: {text!r}; allowed: 0 to {len(ABAW_8) - 1}, or -1 for a frame without annotation")
    return ABAW_8[int(text)]


def _affect(line: str, where: str) -> dict[str, float] | None:
    cells = [cell.strip() for cell in line.split(",")]
    try:
        valence, arousal = (float(cell) for cell in cells)
    except ValueError as error:
        raise SOURCE.error(f"{where}: {line.strip()!r}; expected: two numbers") from error
    if {-5.0, -2.0} & {valence, arousal}:
        return None
    if not (-1 <= valence <= 1 and -1 <= arousal <= 1):
        raise SOURCE.error(f"{where}: {line.strip()!r}; allowed: -1 to 1, or -5 for a frame without annotation")
    return {"valence": valence, "arousal": arousal}


def _flags(line: str, where: str) -> list[int] | None:
    cells = [cell.strip() for cell in line.split(",")]
    if len(cells) != len(ACTION_UNITS) or not set(cells) <= {*_MARKS, "0", "1"}:
        raise SOURCE.error(
            f"{where}: {line.strip()[:60]!r}; expected: {len(ACTION_UNITS)} of 0, 1 or -1 (not annotated)"
        )
    return None if not _MARKS.isdisjoint(cells) else [int(cell) for cell in cells]


_PARSERS: Mapping[Challenge, Callable[[str, str], Any]] = {"expr": _expression, "va": _affect, "au": _flags}


def cut(data: Path, name: str, rows: Mapping[int, Any], *, videos: Mapping[str, Path], where: str) -> Iterator[Stretch]:
    """Yield the stretches of one annotated video; ``rows`` are its annotated frames, ``videos`` what is there."""
    if not rows:
        return
    person = _PERSON.fullmatch(name)
    video = videos.get(name) or (videos.get(person["video"]) if person else None)
    crops = next(
        ((data / folder / name, side) for folder, side in CROPS.items() if (data / folder / name).is_dir()), None
    )
    if person is not None and crops is not None:
        video = None
    if video is None and crops is None:
        raise SOURCE.error(
            f"{where}: neither a video called {name} (in batch1, batch2, videos) nor its crops "
            f"({' or '.join(f'{folder}/{name}' for folder in CROPS)}) below {data}"
        )
    fps = frame_rate(video) if video is not None else CROP_FPS
    for first, last in _stretches(max(rows), size=max(1, round(STRETCH_SECONDS * fps))):
        numbers = [number for number in range(first, last + 1) if number in rows]
        if not numbers:
            continue
        pictures = None
        if video is None and crops is not None:
            pictures = {
                (number - first) / fps: crops[0] / f"{number:05d}.jpg"
                for number in range(first, last + 1)
                if (crops[0] / f"{number:05d}.jpg").is_file()
            }
            if not pictures:
                # No face in half a minute: the nearest picture before or after it has to do.
                pictures = {0.0: _nearest(crops[0], first, where)}
        yield Stretch(
            id=f"{name}#{first:05d}",
            video=name,
            frames=tuple(f"{name}/{number:05d}.jpg" for number in numbers),
            times=tuple((number - first) / fps for number in numbers),
            values=tuple(rows[number] for number in numbers),
            seconds=(last - first + 1) / fps,
            file=video,
            start=None if video is None else (first - 1) / fps,
            end=None if video is None else last / fps,
            crops=pictures,
            side=crops[1] if crops is not None else 112,
        )


def _stretches(last: int, *, size: int) -> Iterator[tuple[int, int]]:
    """Yield the first and last frame of stretches of ``size`` frames that cover 1 to ``last``.

    A short rest joins the stretch before it: annotations may run a frame past the video, where nothing can be read.
    """
    firsts = list(range(1, last + 1, size))
    if len(firsts) > 1 and last - firsts[-1] + 1 < size / 4:
        firsts.pop()
    for first, following in zip(firsts, [*firsts[1:], last + 1], strict=True):
        yield first, following - 1


def frame_rate(video: Path) -> float:
    """Return the frames a second of a video, without decoding it."""
    import av

    try:
        with av.open(str(video)) as container:
            rate = container.streams.video[0].average_rate
    except (av.FFmpegError, IndexError) as error:
        raise SOURCE.error(f"{video} is not a video that can be read ({error})") from error
    if not rate:
        raise SOURCE.error(f"{video} does not tell its frame rate")
    return float(rate)


def _annotations(data: Path, challenge: Challenge) -> Path:
    SOURCE.folder(data, expected=f"the annotations ({FOLDERS[challenge][0]}) and the videos or crops")
    outer = [data, *sorted(path for path in data.iterdir() if path.is_dir() and "annotation" in path.name.lower())]
    return SOURCE.first(
        (folder / name for folder in outer for name in FOLDERS[challenge]), expected="the annotations of the challenge"
    )


def find_videos(data: Path) -> dict[str, Path]:
    """Return video name -> file, of the folders of videos alone: those of the crops hold millions of files."""
    folders = [path for path in sorted(data.iterdir()) if path.is_dir() and re.fullmatch(r"batch\d+|videos", path.name)]
    return {
        file.stem: file
        for folder in folders
        for file in sorted(folder.rglob("*"))
        if file.suffix.lower() in VIDEO_SUFFIXES and not file.name.startswith(".")
    }


def _nearest(folder: Path, number: int, where: str) -> Path:
    there = [path for path in folder.glob("*.jpg") if path.stem.isdecimal()]
    if not there:
        raise SOURCE.error(f"{where}: {folder} holds no picture (00001.jpg and on)")
    return min(there, key=lambda path: (abs(int(path.stem) - number), path.stem))
