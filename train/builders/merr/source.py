"""What a run is made from: a manifest, or a folder of clips.

A folder with a folder for each label goes through the importer of that layout; a folder with clips right inside it is
unlabelled.
"""

from __future__ import annotations

from pathlib import Path

from emollama.errors import DatasetError
from emollama.importers import load_importer
from emollama.importers.clips import media_files
from emollama.manifest import MAX_LINE_BYTES, Manifest, Sample, read_manifest

FOLDER_MANIFEST = "manifest.jsonl"
MAX_ID_CHARACTERS = 190  # the output's ids are longer by the grain, and an id may have 200


def open_source(path: Path) -> Manifest:
    """Read a manifest or a folder; raises `DatasetError` for what cannot be built from."""
    path = Path(path)
    manifest = _folder(path) if path.is_dir() else read_manifest(path)
    for sample in manifest.samples:
        if len(sample.id) > MAX_ID_CHARACTERS:
            raise DatasetError(
                f"{path}: the id {sample.id[:40]!r}... has {len(sample.id)} characters; allowed here: at most "
                f"{MAX_ID_CHARACTERS}, because the output's ids are longer",
                field="id",
            )
        if len((sample.transcript or "").encode()) > MAX_LINE_BYTES // 8:
            raise DatasetError(f"{path}: the transcript of {sample.id!r} is too long to be put into a text", field="id")
    return manifest


def _folder(path: Path) -> Manifest:
    files = media_files(path)
    if not files:
        raise DatasetError(f"{path} holds no media file", field="source")
    if any(file.parent == path for file in files):
        samples = tuple(
            Sample(
                id=file.relative_to(path).as_posix(),
                clip=file.relative_to(path).as_posix(),
                transcript=_words(file.with_suffix(".txt")),
            )
            for file in files
        )
    else:
        samples = tuple(load_importer("folder")(path))
    return Manifest(path=path / FOLDER_MANIFEST, samples=samples)


def _words(path: Path) -> str | None:
    try:
        return " ".join(path.read_text(encoding="utf-8-sig").split()) or None
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} is not text in UTF-8; save it as UTF-8", field="transcript") from error
