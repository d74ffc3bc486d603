"""Unpacks a data set sent as one file: a zip, a tar or a tar.gz with ``manifest.jsonl`` and the clips it names.

Every name is checked before anything is written, and only what the manifest names is written. What is unpacked lies
under a temporary name until all of it is there, so that a failure leaves nothing behind. A bare JSONL is a bundle
without clips.
"""

from __future__ import annotations

import errno
import os
import shutil
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path, PurePosixPath

from emollama.errors import DatasetError
from emollama.manifest import iter_rows
from train.data.archives import Budget, BundleError, Member, check_name, kind_of, opened, too_large, write
from train.data.limits import BundleLimits

MANIFEST = "manifest.jsonl"
_NOISE = ("__MACOSX/", ".DS_Store", "Thumbs.db", "desktop.ini")  # what systems add by themselves

__all__ = ["MANIFEST", "BundleError", "kind_of", "unpack"]


def unpack(
    archive: Path, folder: Path, limits: BundleLimits, *, on_unused: Callable[[str], None] | None = None
) -> Path:
    """Unpack ``archive`` into ``folder`` (which must not be there, or be empty) and return the manifest in it.

    ``on_unused`` hears the members that the manifest does not name; they are not written. Raises `BundleError`, and
    OSError when the disk fails; after either, ``folder`` is not there.
    """
    archive, folder = Path(archive), Path(folder)
    if folder.is_dir() and any(folder.iterdir()):
        raise DatasetError(f"{folder} is not empty; unpack into a new folder", field="folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        _unpack_into(archive, partial, limits, on_unused or (lambda name: None))
        if folder.is_dir():
            folder.rmdir()
        os.replace(partial, folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
        raise
    return folder / MANIFEST


def _unpack_into(archive: Path, folder: Path, limits: BundleLimits, on_unused: Callable[[str], None]) -> None:
    kind = kind_of(archive)
    if kind == "jsonl":
        with archive.open("rb") as stream:
            write(stream, folder / MANIFEST, Budget(limits.max_manifest_bytes), limits.max_manifest_bytes, MANIFEST)
        return
    try:
        with opened(archive, kind, limits) as box:
            members = _checked(box.members(), limits)
            base, manifest = _find_manifest(members)
            budget = Budget(limits.max_total_bytes)
            box.extract({manifest.key: folder / MANIFEST}, budget, {manifest.key: limits.max_manifest_bytes})
            named = _named_by(folder / MANIFEST, base, [member for member in members if member is not manifest])
            wanted = {member.key: folder / member.name.removeprefix(base) for member in named}
            box.extract(wanted, budget, dict.fromkeys(wanted, limits.max_member_bytes))
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, struct.error, EOFError) as error:
        raise BundleError("bundle_unreadable", f"the archive is damaged ({error})") from error
    except (NotImplementedError, RuntimeError, ValueError, ArithmeticError, LookupError) as error:
        raise BundleError("bundle_unreadable", f"the archive cannot be read ({error})") from error
    except OSError as error:
        # What a damaged archive makes the reader do (no gzip after all, a seek to before the start); not the disk.
        if error.errno not in (None, errno.EINVAL):
            raise
        raise BundleError("bundle_unreadable", f"the archive is damaged ({error})") from error
    for member in members:
        if member.key not in wanted and member is not manifest and not _is_noise(member.name):
            on_unused(member.name)


def _checked(found: Iterable[Member], limits: BundleLimits) -> list[Member]:
    """Check every name and declared size before anything is written."""
    members: list[Member] = []
    seen: dict[str, str] = {}
    total = 0
    for member in found:
        if len(members) >= limits.max_members:
            message = f"the archive has more than {limits.max_members} members"
            raise BundleError("bundle_too_large", message, allowed=f"at most {limits.max_members}")
        check_name(member.name)
        member = replace(member, name=str(PurePosixPath(member.name)))  # ./a//b is a/b
        # Some file systems take A.wav and a.wav, or two ways to write ä, for the same file.
        folded = unicodedata.normalize("NFC", member.name).casefold()
        if folded in seen:
            message = f"members {seen[folded]!r} and {member.name!r} would be one file"
            raise BundleError("bundle_duplicate", message, member=member.name)
        seen[folded] = member.name
        total += member.size
        if total > limits.max_total_bytes:
            too_large(member.name, limits.max_total_bytes, "all members together")
        members.append(member)
    names = set(seen)
    for folded, name in seen.items():
        parents = [str(parent) for parent in PurePosixPath(folded).parents]
        clash = next((parent for parent in parents if parent in names), None)
        if clash is not None:
            message = f"{seen[clash]!r} is a file, and the folder of {name!r}"
            raise BundleError("bundle_duplicate", message, member=name)
    return members


def _find_manifest(members: list[Member]) -> tuple[str, Member]:
    """Return (the folder in front of it, the manifest): at the top, or in the one folder that was packed."""
    found = [
        member
        for member in members
        if PurePosixPath(member.name).name == MANIFEST
        and len(PurePosixPath(member.name).parts) <= 2
        and not _is_noise(member.name)
    ]
    if len(found) != 1:
        how = f"{len(found)} files called {MANIFEST}" if found else f"no {MANIFEST} at its top or in its one folder"
        raise BundleError("bundle_no_manifest", f"the archive has {how}", allowed="one")
    return found[0].name.removesuffix(MANIFEST), found[0]


def _named_by(manifest: Path, base: str, members: list[Member]) -> list[Member]:
    """Return the members that the rows of an unpacked manifest name; what is wrong with a row is not said here."""
    clips = set()
    for row in iter_rows(manifest):
        clip = None if row.document is None else row.document.get("clip")
        if isinstance(clip, str):
            clips.add(base + str(PurePosixPath(clip)))
    return [member for member in members if member.name in clips]


def _is_noise(name: str) -> bool:
    return name.startswith(_NOISE[0]) or PurePosixPath(name).name in _NOISE[1:]
