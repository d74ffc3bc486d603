"""What kind of media some bytes are, told from the bytes themselves; a file's name is never believed.

The table is an allow-list: only these demuxers are ever opened, so playlists, concatenation scripts, image-sequence
patterns and network protocols cannot be reached. Signatures: ISO/IEC 14496-12 (ftyp), RFC 8794 (EBML), the RIFF and
AIFF-era chunk layouts, RFC 3533 (Ogg), RFC 9639 (FLAC), id3.org (ID3v2), ISO/IEC 11172-3 (MPEG audio), RFC 2083 (PNG).
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from typing import BinaryIO, Literal

from emollama.errors import UnsupportedMediaError

READABLE = "mp4, mov, mkv, webm, avi, gif; wav, mp3, m4a, flac, ogg; jpg, png, webp"
# What files of these kinds are usually called; only for finding them in a folder, never for believing it.
VIDEO_SUFFIXES = frozenset({".mp4", ".mov", ".mkv", ".webm", ".avi", ".gif", ".m4v"})
AUDIO_SUFFIXES = frozenset({".wav", ".mp3", ".m4a", ".flac", ".ogg", ".opus"})
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})
MEDIA_SUFFIXES = VIDEO_SUFFIXES | AUDIO_SUFFIXES | IMAGE_SUFFIXES
HEAD_BYTES = 262_144  # enough for the tags in front of an MP3 and the metadata in front of a JPEG's size

_ISO_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
_ISO_IMAGE_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"mif1", b"msf1", b"avif", b"avis")


@dataclass(frozen=True, kw_only=True)
class MediaType:
    """``demuxer`` is FFmpeg's name for the container; ``family`` says what such a file is expected to hold."""

    demuxer: str
    family: Literal["video", "audio", "image"]
    extension: str


MEDIA_TYPES = {
    "mp4": MediaType(demuxer="mov", family="video", extension=".mp4"),
    "matroska": MediaType(demuxer="matroska", family="video", extension=".mkv"),
    "avi": MediaType(demuxer="avi", family="video", extension=".avi"),
    "gif": MediaType(demuxer="gif", family="video", extension=".gif"),
    "wav": MediaType(demuxer="wav", family="audio", extension=".wav"),
    "mp3": MediaType(demuxer="mp3", family="audio", extension=".mp3"),
    "aac": MediaType(demuxer="aac", family="audio", extension=".aac"),
    "flac": MediaType(demuxer="flac", family="audio", extension=".flac"),
    "ogg": MediaType(demuxer="ogg", family="audio", extension=".ogg"),
    "jpeg": MediaType(demuxer="jpeg_pipe", family="image", extension=".jpg"),
    "png": MediaType(demuxer="png_pipe", family="image", extension=".png"),
    "webp": MediaType(demuxer="webp_pipe", family="image", extension=".webp"),
}


def sniff(head: bytes) -> MediaType:
    """Return the media type of a file that starts with ``head``; raise `UnsupportedMediaError` for anything else."""
    name = _container(head)
    if name is None:
        raise UnsupportedMediaError(f"{_describe(head)}; this project reads {READABLE}", field="file")
    return MEDIA_TYPES[name]


def image_size(head: bytes) -> tuple[int, int] | None:
    """Return (width, height) that a picture's header declares, before any decoder sees it; None if unknown."""
    if head[:4] == b"\x89PNG" and len(head) >= 24:
        width, height = struct.unpack(">II", head[16:24])
        return width, height
    if head[:4] == b"GIF8" and len(head) >= 10:
        width, height = struct.unpack("<HH", head[6:10])
        return width, height
    if head[:2] == b"\xff\xd8":
        return _jpeg_size(head)
    if head[8:12] == b"WEBP" and len(head) >= 30:
        return _webp_size(head)
    return None


def exif_orientation(head: bytes) -> int | None:
    """Return the EXIF orientation (1 to 8; CIPA DC-008, tag 0x0112) that a JPEG declares, or None."""
    start = head.find(b"Exif\0\0") + 6
    if head[:2] != b"\xff\xd8" or start < 6:
        return None
    order: Literal["little", "big"] = "little" if head[start : start + 2] == b"II" else "big"
    entries = start + int.from_bytes(head[start + 4 : start + 8], order)
    for index in range(min(64, int.from_bytes(head[entries : entries + 2], order))):
        entry = head[entries + 2 + 12 * index : entries + 14 + 12 * index]
        if int.from_bytes(entry[:2], order) == 0x0112:
            value = int.from_bytes(entry[8:10], order)
            return value if 1 <= value <= 8 else None
    return None


def has_end(file: BinaryIO, media_type: MediaType) -> bool:
    """Tell whether a file reaches the end that its format marks; True for formats whose end is not marked."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    head = file.read(12)
    file.seek(max(0, size - 65_536))
    tail = file.read()
    if head[:4] == b"RIFF":
        declared = int.from_bytes(head[4:8], "little")
        return declared in (0, 0xFFFFFFFF) or size >= declared + 8 - (declared & 1)
    if media_type.extension == ".ogg":
        last_page = tail.rfind(b"OggS")
        return last_page >= 0 and len(tail) > last_page + 5 and bool(tail[last_page + 5] & 4)
    marks = {".jpg": b"\xff\xd9", ".png": b"IEND", ".gif": b"\x3b"}
    mark = marks.get(media_type.extension)
    return mark is None or mark in tail[-4096 if media_type.family == "image" else -2 :]


def mended(file: BinaryIO, media_type: MediaType) -> BinaryIO:
    """Return ``file`` at its start; a PNG that was cut off gets an end, so that the decoder gives its first rows."""
    whole_file = media_type.extension != ".png" or has_end(file, media_type)
    file.seek(0)
    if whole_file:
        return file
    content = file.read()
    at = 8
    while at + 12 <= len(content) and at + 12 + int.from_bytes(content[at : at + 4], "big") <= len(content):
        at += 12 + int.from_bytes(content[at : at + 4], "big")
    whole, kind, data = content[:at], content[at + 4 : at + 8], content[at + 8 :]
    if kind == b"IDAT" and data:
        whole += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return io.BytesIO(whole + b"\0\0\0\0IEND\xaeB`\x82")


def _container(head: bytes) -> str | None:
    if head[:4] == b"RIFF" or head[:4] == b"RF64":
        return {b"AVI ": "avi", b"AVIX": "avi", b"WAVE": "wav", b"WEBP": "webp"}.get(head[8:12])
    if head[4:8] in _ISO_BOXES:
        return None if head[4:8] == b"ftyp" and head[8:12] in _ISO_IMAGE_BRANDS else "mp4"
    for signature, name in (
        (b"\x1a\x45\xdf\xa3", "matroska"),
        (b"GIF87a", "gif"),
        (b"GIF89a", "gif"),
        (b"\x89PNG\r\n\x1a\n", "png"),
        (b"\xff\xd8\xff", "jpeg"),
        (b"OggS", "ogg"),
        (b"fLaC", "flac"),
    ):
        if head.startswith(signature):
            return name
    if head[:3] == b"ID3" and len(head) >= 10:
        size = sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True)) + 10
        return _container(head[size:]) if len(head) > size + 16 else "mp3"
    return _mpeg_audio(head)


def _mpeg_audio(head: bytes) -> str | None:
    """Tell an MP3 or ADTS stream by its first frame header: sync word, and no field with a forbidden value."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    version, layer = (head[1] >> 3) & 3, (head[1] >> 1) & 3
    if head[1] & 0xF6 == 0xF0:
        return "aac" if (head[2] >> 2) & 15 < 13 else None
    if version == 1 or layer == 0 or head[2] >> 4 == 15 or (head[2] >> 2) & 3 == 3:
        return None
    return "mp3"


def _jpeg_size(head: bytes) -> tuple[int, int] | None:
    position = 2
    while position + 9 <= len(head):
        if head[position] != 0xFF:
            return None
        marker = head[position + 1]
        if marker == 0xFF:
            position += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", head[position + 5 : position + 9])
            return width, height
        (length,) = struct.unpack(">H", head[position + 2 : position + 4])
        position += 2 + length
    return None


def _webp_size(head: bytes) -> tuple[int, int] | None:
    kind = head[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        width, height = struct.unpack("<HH", head[26:30])
        return width & 0x3FFF, height & 0x3FFF
    return None


def _describe(head: bytes) -> str:
    if not head:
        return "the file is empty"
    if head.startswith(b"%PDF"):
        return "this is a PDF document"
    if head.startswith(b"PK\x03\x04"):
        return "this is a ZIP archive"
    if head.startswith(b"#EXTM3U"):
        return "this is a playlist, and playlists are never followed"
    if head[4:8] == b"ftyp":
        return f"this is a {head[8:12].decode('ascii', 'replace').strip()} picture"
    text = head[:512]
    if all(byte >= 32 or byte in (9, 10, 13) for byte in text):
        return "this looks like text"
    return "the bytes are not of a known container, audio file or image"
