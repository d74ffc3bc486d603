"""Archives under limits: the files in a zip or a tar, listed before and counted while they come out.

Sizes and names in an archive are claims. A member is refused when it is a link, a device, encrypted or packed in a way
that is not read here; what comes out is counted, whatever was declared; and a tar's headers cannot make the reader take
more memory than a few megabytes. Formats: PKWARE APPNOTE 6.3, POSIX.1-2001 pax, RFC 1952.
"""

from __future__ import annotations

import gzip
import io
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO, Literal, NoReturn, Protocol

from emollama.errors import DatasetError
from train.data.limits import BundleLimits

Kind = Literal["zip", "tar", "tar.gz", "jsonl"]
_BLOCK = 1 << 20
_TAR_OVERHEAD_BYTES = 4096  # headers and padding of a member, generously
_OTHERS = {
    b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstandard", b"7z\xbc\xaf": "7-zip", b"Rar!": "rar",
    b"\x04\x22\x4d\x18": "lz4", b"\x1f\x9d": "compress",
}  # fmt: skip


class BundleError(DatasetError):
    """The archive cannot be taken: ``code`` of `train.data.codes`, and the member at fault when there is one."""

    def __init__(self, code: str, message: str, *, member: str | None = None, allowed: str | None = None) -> None:
        super().__init__(message, field="file")
        self.code, self.member, self.allowed = code, member, allowed


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


@dataclass(frozen=True, kw_only=True)
class Member:
    """A file in an archive: its name, what it says its size is, and where the archive keeps it."""

    name: str
    size: int
    key: int


class Box(Protocol):
    """An opened archive."""

    def members(self) -> Iterator[Member]:
        """Yield the files; raises `BundleError` for what is neither a file nor a folder."""
        ...

    def extract(self, targets: dict[int, Path], budget: Budget, most: dict[int, int]) -> None:
        """Write members to paths, under limits for each and for all."""
        ...


class Budget:
    """Counts the bytes of all members together."""

    def __init__(self, most: int) -> None:
        self.most, self.used = most, 0

    def take(self, count: int, name: str) -> None:
        self.used += count
        if self.used > self.most:
            too_large(name, self.most, "all members together")


@contextmanager
def opened(archive: Path, kind: Kind, limits: BundleLimits) -> Iterator[Box]:
    with archive.open("rb") as stream:
        if kind == "zip":
            with zipfile.ZipFile(stream) as opened:
                yield _Zip(opened)
        else:
            yield _Tar(stream, is_gzip=kind == "tar.gz", limits=limits)


def check_name(name: str) -> None:
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
                check_name(name.rstrip("/") or name)
                continue
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                message = f"member {name[:80]!r} is compressed by method {info.compress_type}"
                raise BundleError("bundle_compression", message, member=name, allowed="stored, deflate")
            yield Member(name=name, size=info.file_size, key=key)

    def extract(self, targets: dict[int, Path], budget: Budget, most: dict[int, int]) -> None:
        infos = self._opened.infolist()
        for key, target in targets.items():
            with self._opened.open(infos[key]) as stream:
                write(stream, target, budget, most[key], infos[key].filename)


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
                    check_name(info.name)
                continue
            if info.issparse() or not info.isreg():
                raise BundleError("bundle_link", f"member {info.name[:80]!r} is no plain file", member=info.name)
            yield Member(name=info.name, size=info.size, key=key)

    def extract(self, targets: dict[int, Path], budget: Budget, most: dict[int, int]) -> None:
        left = dict(targets)
        for key, info in enumerate(self._infos()):
            if not left:
                return
            if key in left:
                stream = self._opened.extractfile(info)
                assert stream is not None
                with stream:
                    write(stream, left.pop(key), budget, most[key], info.name)
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
                    too_large(info.name, self._most, "one member")
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
            too_large("", self._most, "the archive")
        return self._raw.read(size)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence != io.SEEK_SET or offset > self._most:
            too_large("", self._most, "the archive")
        return self._raw.seek(offset)

    def tell(self) -> int:
        return self._raw.tell()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


def write(stream: IO[bytes], target: Path, budget: Budget, most: int, name: str) -> None:
    """Copy a member to a new file, counting what really comes out."""
    target.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with target.open("xb") as sink:
        while block := stream.read(_BLOCK):
            written += len(block)
            if written > most:
                too_large(name, most, "one member")
            budget.take(len(block), name)
            sink.write(block)


def too_large(name: str, most: int, what: str) -> NoReturn:
    at = f" at member {name[:80]!r}" if name else ""
    raise BundleError("bundle_too_large", f"{what}: more than {most} bytes{at}", member=name or None, allowed=f"{most}")


def _is_old_tar(head: bytes) -> bool:
    """Tell a tar from before POSIX by its header's checksum."""
    try:
        declared = int(head[148:156].strip(b" \0") or b"x", 8)
    except ValueError:
        return False
    return head[:1] != b"\0" and declared == sum(head[:148]) + 8 * 32 + sum(head[156:])
