"""DFEW (Jiang et al., ACM MM 2020): film clips with one of seven expressions, in the published folder layout.

``EmoLabel_DataSplit/train(single-labeled)/set_1.csv`` to ``set_5.csv`` and the same under ``test(single-labeled)``
(video_name, label 1 to 7) are five folds; ``Annotation/annotation.xlsx`` (order, 1happy ... 7fear, annotation) holds
the votes of ten people. Clips: ``Clip/original/1.mp4`` (with sound), ``Clip/clip_224x224_avi/00001.avi``. The
folders of single pictures are not read: a picture has no time.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from emollama.errors import DatasetError
from emollama.importers.clips import ClipFolder, media_files
from emollama.importers.rows import SampleMaker
from emollama.importers.table import read_table
from emollama.manifest import Sample, Split
from emollama.sniff import VIDEO_SUFFIXES

LABELS = ("happy", "sad", "neutral", "angry", "surprise", "disgust", "fear")  # 1 to 7
CLIP_FOLDERS = ("Clip/original", "Clip/clip_224x224_avi", "Clip")
ANNOTATION = Path("Annotation") / "annotation.xlsx"
_SETS: tuple[tuple[Literal["train", "test"], str], ...] = (
    ("train", "train(single-labeled)"),
    ("test", "test(single-labeled)"),
)


def import_dfew(
    source: Path, *, media: Path | None = None, clips: ClipFolder | None = None, fold: int = 1
) -> Iterator[Sample]:
    """Yield the clips of one fold with split train or test; with the votes as a distribution when they are there.

    ``source`` is the folder that holds ``EmoLabel_DataSplit``, ``media`` the folder of the clips (default: the original
    ones, else the cropped ones). Raises `DatasetError`.
    """
    source = Path(source)
    if not 1 <= fold <= 5:
        raise DatasetError(f"fold is {fold}; allowed: 1 to 5", field="fold")
    base = media or next((source / name for name in CLIP_FOLDERS if (source / name).is_dir()), None)
    if base is None:
        raise DatasetError(f"{source} holds none of {', '.join(CLIP_FOLDERS)}; name the folder by media", field="media")
    clips = clips or ClipFolder(root=source if media is None else media)
    files = _by_number(base)
    votes = _read_votes(source / ANNOTATION) if (source / ANNOTATION).is_file() else {}
    lines: dict[int, str] = {}
    for split, folder in _SETS:
        path = source / "EmoLabel_DataSplit" / folder / f"set_{fold}.csv"
        yield from _read_set(path, split, files=files, votes=votes, base=base, clips=clips, lines=lines)


def _read_set(
    path: Path,
    split: Split,
    *,
    files: dict[int, Path],
    votes: dict[int, tuple[float, ...]],
    base: Path,
    clips: ClipFolder,
    lines: dict[int, str],
) -> Iterator[Sample]:
    table = read_table(path, spellings={"video_name": (), "label": ()}, required=("video_name", "label"))
    maker = SampleMaker(path=path)
    for row in table.rows:
        where, name, code = table.where(row), table.text(row, "video_name"), table.text(row, "label")
        if not name.isdecimal():
            raise DatasetError(f"{where}: video_name: {name!r} is not a number", field="video_name")
        if code not in [str(number) for number in range(1, 8)]:
            names = ", ".join(f"{number} {label}" for number, label in enumerate(LABELS, start=1))
            raise DatasetError(f"{where}: label: {code!r}; allowed: {names}", field="label")
        order, label = int(name), LABELS[int(code) - 1]
        if order in lines:
            raise DatasetError(f"{where}: video_name: {name!r} stands already at {lines[order]}", field="video_name")
        lines[order] = where
        file = files.get(order)
        if file is None:
            clips.missing(f"video_name: no clip {order:05d} below {str(base)!r}", where=where)
            continue
        yield maker.make(
            row.line,
            id=f"{order:05d}",
            clip=clips.place(file, base=base, where=where),
            label=label,
            distribution=_distribution(votes.get(order), label, order, where),
            split=split,
        )


def _distribution(votes: tuple[float, ...] | None, label: str, order: int, where: str) -> dict[str, float] | None:
    if votes is None or not sum(votes):
        return None
    shares = {name: count / sum(votes) for name, count in zip(LABELS, votes, strict=True) if count}
    if shares.get(label, 0.0) < max(shares.values()):
        most = max(shares, key=shares.__getitem__)
        raise DatasetError(
            f"{where}: label: {label!r}, but most votes of clip {order} in {ANNOTATION} are for {most!r}; "
            "the two files are not of one release",
            field="label",
        )
    # The label first: with equal votes it is the one that counts.
    return {label: shares[label], **shares}


def _by_number(base: Path) -> dict[int, Path]:
    if not base.is_dir():
        raise DatasetError(f"the media folder {str(base)!r} is not there", field="media")
    found: dict[int, Path] = {}
    for path in media_files(base):
        if path.suffix.lower() in VIDEO_SUFFIXES and re.fullmatch(r"\d{1,6}", path.stem):
            other = found.setdefault(int(path.stem), path)
            if other is not path:
                raise DatasetError(f"{str(other)!r} and {str(path)!r} are both clip {int(path.stem)}; name one folder")
    return found


def _read_votes(path: Path) -> dict[int, tuple[float, ...]]:
    """Read clip number -> votes of the seven expressions from the Excel sheet."""
    from openpyxl import load_workbook
    from openpyxl.utils.exceptions import InvalidFileException

    try:
        book = load_workbook(path, read_only=True, data_only=True)
        rows = list(book.worksheets[0].iter_rows(values_only=True))
        book.close()
    except (InvalidFileException, zipfile.BadZipFile, KeyError, ValueError, OSError) as error:
        raise DatasetError(f"{path} is not an Excel sheet that can be read: {error}") from error
    header = [str(cell or "").strip().lower() for cell in (rows[0] if rows else ())]
    wanted = ["order", *(f"{number}{name}" for number, name in enumerate(LABELS, start=1))]
    missing = [name for name in wanted if name not in header]
    if missing:
        raise DatasetError(f"{path}:1: no column {missing[0]!r}; wanted: {', '.join(wanted)}")
    places = [header.index(name) for name in wanted]
    votes: dict[int, tuple[float, ...]] = {}
    for line, row in enumerate(rows[1:], start=2):
        cells = [row[place] if place < len(row) else None for place in places]
        if all(cell is None for cell in cells):
            continue
        numbers = [float(cell) for cell in cells if isinstance(cell, (int, float)) and not isinstance(cell, bool)]
        if len(numbers) != len(cells) or min(numbers) < 0:
            raise DatasetError(f"{path}:{line}: {cells}; allowed: a number of votes in each column, from 0 up")
        votes[int(numbers[0])] = tuple(numbers[1:])
    return votes
