"""Unpacks a data set sent as one file: a zip, a tar or a tar.gz with ``manifest.jsonl`` and the clips it names.

Every name is checked before anything is written, every byte is counted while it is written, and only what the manifest
names is written. Links, devices, encrypted members, names that lead outside or collide are refused. What is unpacked
lies under a temporary name until all of it is there, so that a failure leaves nothing behind. Formats: PKWARE APPNOTE
6.3, POSIX.1-2001 pax, RFC 1952. A bare JSONL is a bundle without clips.
"""

from __future__ import annotations

import gzip
import io
import os
import shutil
import stat
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO, Literal, NoReturn, Protocol

from emollama.errors import DatasetError
from emollama.manifest import iter_rows
from train.data.limits import BundleLimits

MANIFEST = "manifest.jsonl"
Kind = Literal["zip", "tar", "tar.gz", "jsonl"]
_BLOCK = 1 << 20
_TAR_OVERHEAD_BYTES = 4096  # headers and padding of a member, generously
_NOISE = ("__MACOSX/", ".DS_Store", "Thumbs.db", "desktop.ini")  # what systems add by themselves
_OTHERS = {
    b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstandard", b"7z\xbc\xaf": "7-zip", b"Rar!": "rar",
    b"\x04\x22\x4d\x18": "lz4", b"\x1f\x9d": "compress",
}  # fmt: skip


class BundleError(DatasetError):
    """The archive cannot be taken: ``code`` of `train.data.codes`, and the member at fault when there is one."""

    def __init__(self, code: str, message: str, *, member: str | None = None, allowed: str | None = None) -> None:
        super().__init__(message, field="file")
        self.code, self.member, self.allowed = code, member, allowed


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


def kind_of(archive: Path) -> Kind:
    """Tell a bundle from its bytes; raises `BundleError` for an archive that is not read."""
    if not archive.is_file():
        raise BundleError("bundle_unreadable", f"{archive.name} is not there, or is no file")
    with archive.open("rb") as stream:
        head = stream.read(512)
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return "zip"
    if head[:2] == b"\x1f\x8b":
        return "tar.gz"
    if head[257:262] == b"ustar" or (len(head) == 512 and _is_old_tar(head)):
        return "tar"
    other = next((name for magic, name in _OTHERS.items() if head.startswith(magic)), None)
    if other is not None:
        raise BundleError("bundle_compression", f"the file is a {other} archive", allowed="zip, tar, tar.gz, jsonl")
    if b"\0" in head:
        raise BundleError("bundle_unreadable", "the file is no archive and no text", allowed="zip, tar, tar.gz, jsonl")
    return "jsonl"


def _unpack_into(archive: Path, folder: Path, limits: BundleLimits, on_unused: Callable[[str], None]) -> None:
    kind = kind_of(archive)
    if kind == "jsonl":
        with archive.open("rb") as stream:
            _write(stream, folder / MANIFEST, _Budget(limits.max_manifest_bytes), limits.max_manifest_bytes, MANIFEST)
        return
    try:
        with _opened(archive, kind, limits) as box:
            members = _checked(box.members(), limits)
            base, manifest = _find_manifest(members)
            budget = _Budget(limits.max_total_bytes)
            box.extract({manifest.key: folder / MANIFEST}, budget, {manifest.key: limits.max_manifest_bytes})
            wanted = {
                member.key: folder / member.name.removeprefix(base)
                for member in _named_by(folder / MANIFEST, base, members)
            }
            box.extract(wanted, budget, dict.fromkeys(wanted, limits.max_member_bytes))
    except (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise BundleError("bundle_unreadable", f"the archive is damaged ({error})") from error
    except (NotImplementedError, RuntimeError, UnicodeError, ValueError, OverflowError) as error:
        raise BundleError("bundle_unreadable", f"the archive cannot be read ({error})") from error
    for member in members:
        if member.key not in wanted and member is not manifest and not _is_noise(member.name):
            on_unused(member.name)


# ---- members ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Member:
    """A file in an archive: its name, what it says its size is, and where the archive keeps it."""

    name: str
    size: int
    key: int


class _Box(Protocol):
    """An opened archive."""

    def members(self) -> Iterator[Member]:
        """Yield the files; raises `BundleError` for what is neither a file nor a folder."""
        ...

    def extract(self, targets: dict[int, Path], budget: _Budget, most: dict[int, int]) -> None:
        """Write members to paths, under limits for each and for all."""
        ...


class _Budget:
    """Counts the bytes of all members together."""

    def __init__(self, most: int) -> None:
        self.most, self.used = most, 0

    def take(self, count: int, name: str) -> None:
        self.used += count
        if self.used > self.most:
            _too_large(name, self.most, "all members together")


@contextmanager
def _opened(archive: Path, kind: Kind, limits: BundleLimits) -> Iterator[_Box]:
    with archive.open("rb") as stream:
        if kind == "zip":
            with zipfile.ZipFile(stream) as opened:
                yield _Zip(opened)
        else:
            yield _Tar(stream, is_gzip=kind == "tar.gz", limits=limits)


def _checked(found: Iterable[Member], limits: BundleLimits) -> list[Member]:
    """Check every name and declared size before anything is written."""
    members: list[Member] = []
    seen: dict[str, str] = {}
    total = 0
    for member in found:
        if len(members) >= limits.max_members:
            message = f"the archive has more than {limits.max_members} members"
            raise BundleError("bundle_too_large", message, allowed=f"at most {limits.max_members}")
        _check_name(member.name)
        member = replace(member, name=str(PurePosixPath(member.name)))  # ./a//b is a/b
        # Some file systems take A.wav and a.wav, or two ways to write ä, for the same file.
        folded = unicodedata.normalize("NFC", member.name).casefold()
        if folded in seen:
            message = f"members {seen[folded]!r} and {member.name!r} would be one file"
            raise BundleError("bundle_duplicate", message, member=member.name)
        seen[folded] = member.name
        total += member.size
        if total > limits.max_total_bytes:
            _too_large(member.name, limits.max_total_bytes, "all members together")
        members.append(member)
    names = set(seen)
    for folded, name in seen.items():
        parents = [str(parent) for parent in PurePosixPath(folded).parents]
        clash = next((parent for parent in parents if parent in names), None)
        if clash is not None:
            message = f"{seen[clash]!r} is a file, and the folder of {name!r}"
            raise BundleError("bundle_duplicate", message, member=name)
    return members


def _check_name(name: str) -> None:
    path = PurePosixPath(name)
    bad = (
        "is empty" if not name.strip() or not path.parts
        else "is an absolute path" if path.is_absolute() or name[1:2] == ":"
        else "holds .." if ".." in path.parts
        else "holds a backslash" if "\\" in name
        else "holds control characters" if not name.isprintable()
        else "is too long" if len(name) > 1000 or any(len(part.encode()) > 240 for part in path.parts)
        else None
    )  # fmt: skip
    if bad is not None:
        raise BundleError("bundle_path", f"the name of member {name[:80]!r} {bad}", member=name)


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


# ---- the two kinds ------------------------------------------------------------------------------------------------


class _Zip:
    def __init__(self, opened: zipfile.ZipFile) -> None:
        self._opened = opened

    def members(self) -> Iterator[Member]:
        for key, info in enumerate(self._opened.infolist()):
            name = info.orig_filename
            kind = stat.S_IFMT(info.external_attr >> 16) if info.create_system == 3 else 0
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise BundleError("bundle_link", f"member {name[:80]!r} is a link or a device", member=name)
            if info.flag_bits & 0x2041:  # encrypted, strongly encrypted, names encrypted
                raise BundleError("bundle_encrypted", f"member {name[:80]!r} is encrypted", member=name)
            if name.endswith("/") or kind == stat.S_IFDIR:
                _check_name(name.rstrip("/") or name)
                continue
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                message = f"member {name[:80]!r} is compressed by method {info.compress_type}"
                raise BundleError("bundle_compression", message, member=name, allowed="stored, deflate")
            yield Member(name=name, size=info.file_size, key=key)

    def extract(self, targets: dict[int, Path], budget: _Budget, most: dict[int, int]) -> None:
        infos = self._opened.infolist()
        for key, target in targets.items():
            with self._opened.open(infos[key]) as stream:
                _write(stream, target, budget, most[key], infos[key].filename)


class _Tar:
    """A tar file read from front to back, once to list it and once for each extraction."""

    def __init__(self, stream: BinaryIO, *, is_gzip: bool, limits: BundleLimits) -> None:
        self._stream, self._is_gzip = stream, is_gzip
        self._max_members = limits.max_members
        self._most = limits.max_total_bytes + limits.max_members * _TAR_OVERHEAD_BYTES

    def members(self) -> Iterator[Member]:
        for key, info in enumerate(self._infos()):
            if info.isdir():
                if info.name not in (".", "./"):
                    _check_name(info.name)
                continue
            if info.issparse() or not info.isreg():
                raise BundleError("bundle_link", f"member {info.name[:80]!r} is no plain file", member=info.name)
            yield Member(name=info.name, size=info.size, key=key)

    def extract(self, targets: dict[int, Path], budget: _Budget, most: dict[int, int]) -> None:
        left = dict(targets)
        for key, info in enumerate(self._infos()):
            if not left:
                return
            if key in left:
                stream = self._opened.extractfile(info)
                assert stream is not None
                with stream:
                    _write(stream, left.pop(key), budget, most[key], info.name)
        if left:
            raise BundleError("bundle_unreadable", "the archive changed while it was read")

    def _infos(self) -> Iterator[tarfile.TarInfo]:
        self._stream.seek(0)
        raw: BinaryIO = gzip.GzipFile(fileobj=self._stream, mode="rb") if self._is_gzip else self._stream  # type: ignore[assignment]
        with tarfile.open(fileobj=_Bounded(raw, self._most), mode="r:") as self._opened:
            count = 0
            while (info := self._opened.next()) is not None:
                count += 1
                if count > 2 * self._max_members:  # folders are not counted elsewhere
                    raise BundleError("bundle_too_large", f"the archive has more than {2 * self._max_members} entries")
                # Before the next header is looked for: that would already unpack what lies before it.
                if info.size < 0 or info.size > self._most:
                    _too_large(info.name, self._most, "one member")
                self._opened.members.clear()  # type: ignore[attr-defined]  # tarfile would keep every header
                yield info


class _Bounded(io.RawIOBase):
    """Lets tarfile read and seek, but neither far nor much at once: its headers may claim any size."""

    _LARGEST_READ = 4 * _BLOCK

    def __init__(self, raw: BinaryIO, most: int) -> None:
        self._raw, self._most = raw, most

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= self._LARGEST_READ:
            raise BundleError("bundle_too_large", f"a header of the archive claims {size} bytes")
        if self._raw.tell() + size > self._most + _BLOCK:
            _too_large("", self._most, "the archive")
        return self._raw.read(size)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence != io.SEEK_SET or offset > self._most:
            _too_large("", self._most, "the archive")
        return self._raw.seek(offset)

    def tell(self) -> int:
        return self._raw.tell()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


def _write(stream: IO[bytes], target: Path, budget: _Budget, most: int, name: str) -> None:
    """Copy a member to a new file, counting what really comes out."""
    target.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with target.open("xb") as sink:
        while block := stream.read(_BLOCK):
            written += len(block)
            if written > most:
                _too_large(name, most, "one member")
            budget.take(len(block), name)
            sink.write(block)


def _too_large(name: str, most: int, what: str) -> NoReturn:
    at = f" at member {name[:80]!r}" if name else ""
    raise BundleError("bundle_too_large", f"{what}: more than {most} bytes{at}", member=name or None, allowed=f"{most}")


def _is_old_tar(head: bytes) -> bool:
    """Tell a tar from before POSIX by its header's checksum."""
    try:
        declared = int(head[148:156].strip(b" \0") or b"x", 8)
    except ValueError:
        return False
    return head[:1] != b"\0" and declared == sum(head[:148]) + 8 * 32 + sum(head[156:])
