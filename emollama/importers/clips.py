"""Where an importer's clips lie, and how they get beside the manifest.

A manifest names clips below its own folder. `ClipFolder` turns a file into such a name: by referring to it where it
lies, or by copying or hard-linking it into ``clips/``. `ClipIndex` finds the file of a name in a folder of media.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Literal, get_args

from emollama import sniff
from emollama.errors import DatasetError, InputError, UnsupportedMediaError

Mode = Literal["refer", "copy", "link"]
MODES: tuple[Mode, ...] = get_args(Mode)
CLIPS = "clips"  # the folder beside the manifest for what is copied or decoded


@dataclass(kw_only=True)
class ClipFolder:
    """The manifest's folder ``root``, and how clips get into it. ``skip_missing`` counts clips that are not there."""

    root: Path
    mode: Mode = "refer"
    skip_missing: bool = False
    num_skipped: int = 0
    _done: dict[Path, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise InputError(f"clips is {self.mode!r}; allowed: {', '.join(MODES)}", field="clips")

    def place(self, file: Path, *, base: Path, where: str) -> str:
        """Return the clip's name in the manifest; ``base`` is the media folder that ``file`` was found in."""
        if file not in self._done:
            self._done[file] = self._refer(file, where) if self.mode == "refer" else self._bring(file, base, where)
        return self._done[file]

    def missing(self, what: str, *, where: str) -> None:
        """Count a clip that is not there, or raise `DatasetError` when that is not allowed."""
        if not self.skip_missing:
            raise DatasetError(
                f"{where}: {what}; put the file there, name its folder by media, or skip missing clips", field="clip"
            )
        self.num_skipped += 1

    def write(self, content: bytes, *, where: str) -> str:
        """Store a clip that came as bytes under the hash of its content; its kind is told from the bytes."""
        try:
            suffix = sniff.sniff(content[: sniff.HEAD_BYTES]).extension
        except UnsupportedMediaError as error:
            raise DatasetError(f"{where}: {error}", field="clip") from error
        name = f"{CLIPS}/{hashlib.sha256(content).hexdigest()[:32]}{suffix}"
        target = self.root / name
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = _partial(target)
            try:
                partial.write_bytes(content)
                os.replace(partial, target)
            finally:
                partial.unlink(missing_ok=True)
        return name

    def _refer(self, file: Path, where: str) -> str:
        root = self.root.resolve()
        # Not resolved: a link inside the folder keeps its name, as long as what it leads to is inside as well.
        absolute = Path(os.path.abspath(file))
        for base in (Path(os.path.abspath(self.root)), root):
            if absolute.is_relative_to(base) and file.resolve().is_relative_to(root):
                return absolute.relative_to(base).as_posix()
        raise DatasetError(
            f"{where}: clip {str(file)!r} does not lie below the manifest's folder {str(self.root)!r}; "
            "write the manifest beside or above the clips, or copy or link them (clips: copy, link)",
            field="clip",
        )

    def _bring(self, file: Path, base: Path, where: str) -> str:
        inside = os.path.relpath(os.path.abspath(file), os.path.abspath(base))
        name = f"{CLIPS}/{PurePosixPath(file.name) if inside.startswith('..') else Path(inside).as_posix()}"
        target = self.root / name
        taken = next((other for other, known in self._done.items() if known == name), None)
        if taken is not None:
            raise DatasetError(f"{where}: {str(file)!r} and {str(taken)!r} would both become {name!r}; rename one")
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = _partial(target)
        try:
            if self.mode == "link":
                os.link(file.resolve(), partial)
            else:
                shutil.copyfile(file, partial)
            os.replace(partial, target)
        except OSError as error:
            remedy = "; use clips: copy" if self.mode == "link" else ""
            raise DatasetError(f"{where}: cannot {self.mode} {str(file)!r}: {error.strerror}{remedy}") from error
        finally:
            partial.unlink(missing_ok=True)
        return name


@dataclass(frozen=True, kw_only=True)
class ClipIndex:
    """The media files below a folder, by the name annotations call them: path, file name, or name without suffix."""

    folder: Path

    def __post_init__(self) -> None:
        if not self.folder.is_dir():
            raise DatasetError(f"the media folder {str(self.folder)!r} is not there; name it by media", field="media")

    @cached_property
    def _by_stem(self) -> dict[str, list[Path]]:
        found: dict[str, list[Path]] = {}
        for path in media_files(self.folder):
            found.setdefault(path.stem, []).append(path)
        return found

    def find(self, name: str, *, where: str) -> Path | None:
        """Return the file that ``name`` means, or None; two candidates of one kind raise `DatasetError`."""
        direct = self.folder / name
        if name and direct.suffix.lower() in sniff.MEDIA_SUFFIXES and direct.is_file():
            return direct
        wanted = PurePosixPath(name.replace("\\", "/")).name
        is_file_name = PurePosixPath(wanted).suffix.lower() in sniff.MEDIA_SUFFIXES
        candidates = self._by_stem.get(PurePosixPath(wanted).stem if is_file_name else wanted, [])
        if is_file_name:
            candidates = [path for path in candidates if path.name == wanted]
        if not candidates:
            return None
        # A release often has the sound beside the video, under the same name; the video holds both.
        best = min(_rank(path) for path in candidates)
        same = [path for path in candidates if _rank(path) == best]
        if len(same) > 1:
            shown = " and ".join(repr(path.relative_to(self.folder).as_posix()) for path in same[:3])
            raise DatasetError(f"{where}: {name!r} may mean {shown}; name one folder by media", field="clip")
        return same[0]

    def names(self) -> list[str]:
        return list(self._by_stem)


def media_files(folder: Path) -> list[Path]:
    """Return the media files below a folder in sorted order, told by their suffix; hidden ones are left out."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in sniff.MEDIA_SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )


def _rank(path: Path) -> int:
    suffix = path.suffix.lower()
    return 0 if suffix in sniff.VIDEO_SUFFIXES else 2 if suffix in sniff.IMAGE_SUFFIXES else 1


def _partial(target: Path) -> Path:
    return target.with_name(f".{target.name}.{os.getpid()}.partial")
