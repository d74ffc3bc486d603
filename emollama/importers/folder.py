"""A folder for each label: ``label/clip.mp4`` or ``label/speaker/clip.mp4``.

A text file beside a clip, of the same name, is its transcript. Folders whose name begins with a dot are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from emollama.errors import DatasetError
from emollama.importers.clips import ClipFolder, media_files
from emollama.importers.rows import SampleMaker
from emollama.manifest import Sample


def import_folder(source: Path, *, media: Path | None = None, clips: ClipFolder | None = None) -> Iterator[Sample]:
    """Yield a sample for each media file below ``source``; the first folder is the label, the second the speaker.

    Underscores of a label's folder become spaces. Raises `DatasetError` for a clip outside a label's folder, for one
    that lies deeper, and for a label without clips. ``media`` is not used: the folder is both.
    """
    source = Path(source)
    if not source.is_dir():
        raise DatasetError(f"{source} is not a folder; give the folder that holds a folder for each label")
    if media is not None and media.resolve() != source.resolve():
        raise DatasetError("media has no effect here: the clips are those below the source", field="media")
    clips = clips or ClipFolder(root=source)
    maker = SampleMaker(path=source)
    files = media_files(source)
    labels = {path.relative_to(source).parts[0] for path in files}
    for folder in sorted(source.iterdir()):
        if folder.is_dir() and not folder.name.startswith(".") and folder.name not in labels:
            raise DatasetError(f"{folder}: the folder of label {folder.name!r} holds no media file; remove it")
    if not files:
        raise DatasetError(f"{source} holds no media file; it wants a folder for each label, with clips in it")
    for number, path in enumerate(files, start=1):
        parts = path.relative_to(source).parts
        if not 2 <= len(parts) <= 3:
            where = "in no label's folder" if len(parts) == 1 else f"{len(parts) - 1} folders deep"
            raise DatasetError(
                f"{path}: the clip lies {where}; allowed: label/clip or label/speaker/clip", field="clip"
            )
        yield maker.make(
            number,
            at=str(path),
            id=path.relative_to(source).as_posix(),
            clip=clips.place(path, base=source, where=str(path)),
            label=" ".join(parts[0].replace("_", " ").split()),
            speaker=parts[1] if len(parts) == 3 else None,
            transcript=_words(path.with_suffix(".txt")),
        )


def _words(path: Path) -> str | None:
    if not path.is_file():
        return None
    try:
        return " ".join(path.read_text(encoding="utf-8-sig").split())
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} is not text in UTF-8; save it as UTF-8", field="transcript") from error
