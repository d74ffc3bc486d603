"""Broken data sets, one defect each: what a check must find, by name.

``DEFECTS`` maps a name to a function ``(folder) -> path of the file to upload`` (a manifest, or an archive);
``EXPECTED`` to the code that is found and the line it is found in (None: it is about no single line). Apart from its
one defect, each data set is sound: `sound_rows` in a manifest beside its clips.
"""

from __future__ import annotations

import io
import json
import stat
import tarfile
import wave
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

LABELS = ("joy", "boredom")
Build = Callable[[Path], Path]
DEFECTS: dict[str, Build] = {}
EXPECTED: dict[str, tuple[str, int | None]] = {}


def wav(seconds: float = 0.4, *, hz: float = 200.0, level: float = 0.3) -> bytes:
    """Return a WAV file with a tone."""
    samples = level * np.sin(2 * np.pi * hz * np.arange(round(seconds * 8000)) / 8000)
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return stream.getvalue()


def sound_rows() -> list[dict[str, Any]]:
    """Return eight rows without a defect: two labels, four people, two splits."""
    return [
        {
            "id": f"s{index}",
            "clip": f"clips/s{index}.wav",
            "label": LABELS[index % 2],
            "split": "valid" if index > 5 else "train",
            "speaker": ("anna", "ben", "dora", "carol")[index // 2],
        }
        for index in range(8)
    ]


def write_clips(folder: Path) -> None:
    """Write the clips of `sound_rows`, each of its own content."""
    (folder / "clips").mkdir(parents=True, exist_ok=True)
    for index in range(8):
        (folder / "clips" / f"s{index}.wav").write_bytes(wav(hz=200.0 + 40 * index))


def write_rows(folder: Path, rows: list[Any]) -> Path:
    """Write rows (objects, or a line's bytes) and the clips, and return the manifest."""
    write_clips(folder)
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    path = folder / "manifest.jsonl"
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def sound(folder: Path) -> Path:
    """Write a data set without a defect."""
    return write_rows(folder, sound_rows())


def defect(code: str, line: int | None) -> Callable[[Build], Build]:
    def keep(build: Build) -> Build:
        DEFECTS[build.__name__], EXPECTED[build.__name__] = build, (code, line)
        return build

    return keep


def with_row(folder: Path, index: int, **changes: Any) -> Path:
    """Write the sound rows with one of them changed; a value of ``...`` removes the field."""
    rows = sound_rows()
    rows[index] = {name: value for name, value in {**rows[index], **changes}.items() if value is not ...}
    return write_rows(folder, rows)


# ---- lines --------------------------------------------------------------------------------------------------------


@defect("bad_json", 3)
def broken_json(folder: Path) -> Path:
    rows: list[Any] = sound_rows()
    rows[2] = b'{"id": "s2", "clip": '
    return write_rows(folder, rows)


@defect("bad_json", 1)
def deep_nesting(folder: Path) -> Path:
    return write_rows(folder, [b'{"id": ' + b"[" * 100_000, *sound_rows()])


@defect("not_utf8", 2)
def latin_1(folder: Path) -> Path:
    rows: list[Any] = sound_rows()
    rows[1] = json.dumps({**rows[1], "transcript": "schön"}, ensure_ascii=False).encode("latin-1")
    return write_rows(folder, rows)


@defect("not_an_object", 4)
def a_list_as_a_line(folder: Path) -> Path:
    rows: list[Any] = sound_rows()
    rows[3] = b'["s3", "clips/s3.wav"]'
    return write_rows(folder, rows)


@defect("not_finite", 1)
def not_a_number(folder: Path) -> Path:
    rows: list[Any] = sound_rows()
    rows[0] = json.dumps({**rows[0], "valence": float("nan")}).encode()
    return write_rows(folder, rows)


@defect("not_finite", 5)
def infinite(folder: Path) -> Path:
    rows: list[Any] = sound_rows()
    rows[4] = json.dumps(rows[4])[:-1].encode() + b', "arousal": 1e999}'
    return write_rows(folder, rows)


@defect("field_twice", 2)
def field_twice(folder: Path) -> Path:
    rows: list[Any] = sound_rows()
    rows[1] = json.dumps(rows[1])[:-1].encode() + b', "label": "joy"}'
    return write_rows(folder, rows)


@defect("line_too_long", 6)
def huge_line(folder: Path) -> Path:
    rows: list[Any] = sound_rows()
    rows[5] = json.dumps({**rows[5], "transcript": "la " * 400_000}).encode()
    return write_rows(folder, rows)


@defect("no_rows", None)
def empty_file(folder: Path) -> Path:
    return write_rows(folder, [b"", b"  "])


@defect("bad_header", 1)
def another_version(folder: Path) -> Path:
    return write_rows(folder, [{"manifest_version": 2}, *sound_rows()])


@defect("header_misplaced", 3)
def header_in_the_middle(folder: Path) -> Path:
    rows = sound_rows()
    return write_rows(folder, [*rows[:2], {"manifest_version": 1}, *rows[2:]])


# ---- fields -------------------------------------------------------------------------------------------------------


@defect("unknown_field", 2)
def misspelled_field(folder: Path) -> Path:
    return with_row(folder, 1, lable="joy")


@defect("wrong_type", 3)
def number_as_text(folder: Path) -> Path:
    return with_row(folder, 2, valence="0.5")


@defect("missing_id", 4)
def no_id(folder: Path) -> Path:
    return with_row(folder, 3, id=...)


@defect("duplicate_id", 4)
def id_twice(folder: Path) -> Path:
    return with_row(folder, 3, id="s1")


@defect("too_long", 1)
def endless_speaker(folder: Path) -> Path:
    return with_row(folder, 0, speaker="anna" * 100)


@defect("control_characters", 6)
def bell_in_the_words(folder: Path) -> Path:
    return with_row(folder, 5, transcript="ding\u0007")


@defect("control_characters", 2)
def half_a_surrogate(folder: Path) -> Path:
    return with_row(folder, 1, transcript="\ud83d smile")


@defect("out_of_range", 2)
def valence_on_another_scale(folder: Path) -> Path:
    return with_row(folder, 1, valence=-2.5)


@defect("reversed_times", 1)
def end_before_start(folder: Path) -> Path:
    return with_row(folder, 0, start=0.3, end=0.1)


@defect("reversed_times", 2)
def no_length(folder: Path) -> Path:
    return with_row(folder, 1, start=0.2, end=0.2)


@defect("out_of_range", 3)
def starts_before_the_clip(folder: Path) -> Path:
    return with_row(folder, 2, start=-1.0)


@defect("unknown_split", 5)
def dev_split(folder: Path) -> Path:
    return with_row(folder, 4, split="dev")


@defect("empty_transcript", 3)
def blank_words(folder: Path) -> Path:
    return with_row(folder, 2, transcript="  \n")


@defect("no_modality", 1)
def neither_clip_nor_words(folder: Path) -> Path:
    return with_row(folder, 0, clip=None)


@defect("no_target", 6)
def nothing_to_learn(folder: Path) -> Path:
    return with_row(folder, 5, label=...)


@defect("label_spelling", 3)
def another_spelling(folder: Path) -> Path:
    return with_row(folder, 2, label="Joy ")


@defect("unknown_label", 4)
def label_outside_the_header(folder: Path) -> Path:
    rows = sound_rows()
    rows[2]["label"] = "boredum"
    return write_rows(folder, [{"manifest_version": 1, "labels": list(LABELS)}, *rows])


@defect("bad_distribution", 1)
def shares_sum_to_more(folder: Path) -> Path:
    return with_row(folder, 0, label=..., distribution={"joy": 0.8, "boredom": 0.4})


@defect("bad_distribution", 1)
def negative_share(folder: Path) -> Path:
    return with_row(folder, 0, label=..., distribution={"joy": 1.0, "boredom": -0.1})


@defect("bad_distribution", 2)
def empty_distribution(folder: Path) -> Path:
    return with_row(folder, 1, label=..., distribution={})


@defect("label_disputed", 1)
def label_against_distribution(folder: Path) -> Path:
    return with_row(folder, 0, distribution={"joy": 0.2, "boredom": 0.8})


# ---- dialogues ----------------------------------------------------------------------------------------------------


def _turns(*turns: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in turns]


@defect("no_answer", 2)
def question_without_answer(folder: Path) -> Path:
    return with_row(folder, 1, messages=_turns(("user", "How does she feel?")))


@defect("empty_message", 3)
def empty_answer(folder: Path) -> Path:
    return with_row(folder, 2, messages=_turns(("user", "How does she feel?"), ("assistant", " ")))


@defect("role_order", 4)
def answer_before_question(folder: Path) -> Path:
    return with_row(folder, 3, messages=_turns(("assistant", "Bored."), ("user", "How does she feel?")))


@defect("role_order", 1)
def unknown_role(folder: Path) -> Path:
    turns = _turns(("user", "Why?"), ("assistant", "A yawn."), ("tool", "{}"))
    return with_row(folder, 0, messages=turns)


# ---- clips --------------------------------------------------------------------------------------------------------


@defect("missing_clip", 2)
def missing_clip(folder: Path) -> Path:
    return with_row(folder, 1, clip="clips/nowhere.wav")


@defect("missing_clip", 2)
def folder_as_clip(folder: Path) -> Path:
    return with_row(folder, 1, clip="clips")


@defect("clip_outside", 1)
def absolute_path(folder: Path) -> Path:
    return with_row(folder, 0, clip="/etc/hostname")


@defect("clip_outside", 3)
def path_upwards(folder: Path) -> Path:
    return with_row(folder, 2, clip="../s2.wav")


@defect("empty_clip", 4)
def empty_clip(folder: Path) -> Path:
    path = sound(folder)
    (folder / "clips" / "s3.wav").write_bytes(b"")
    return path


@defect("not_media", 5)
def text_as_clip(folder: Path) -> Path:
    path = sound(folder)
    (folder / "clips" / "s4.wav").write_text("This was once a recording of a yawn.")
    return path


@defect("undecodable_clip", 6)
def clip_of_zeros(folder: Path) -> Path:
    path = sound(folder)
    (folder / "clips" / "s5.wav").write_bytes(wav()[:44])  # a header that promises sound, and none
    return path


@defect("no_modality", 1)
def digital_silence(folder: Path) -> Path:
    path = sound(folder)
    (folder / "clips" / "s0.wav").write_bytes(wav(level=0.0))
    return path


@defect("start_past_end", 2)
def start_after_the_end(folder: Path) -> Path:
    return with_row(folder, 1, start=5.0)


# ---- the whole ----------------------------------------------------------------------------------------------------


@defect("one_class", None)
def one_class(folder: Path) -> Path:
    return write_rows(folder, [{**row, "label": "joy"} for row in sound_rows()])


@defect("too_few_samples", None)
def one_sample_of_a_class(folder: Path) -> Path:
    rows = sound_rows()
    rows[1]["label"] = rows[3]["label"] = "joy"
    return write_rows(folder, rows)


@defect("label_not_trained", 8)
def label_only_in_valid(folder: Path) -> Path:
    return with_row(folder, 7, label="fear")


@defect("no_train_rows", None)
def no_training(folder: Path) -> Path:
    return write_rows(folder, [{**row, "split": "test"} for row in sound_rows()])


@defect("speaker_in_two_splits", 7)
def speaker_on_both_sides(folder: Path) -> Path:
    return with_row(folder, 6, speaker="anna")


@defect("clip_in_two_splits", 8)
def content_on_both_sides(folder: Path) -> Path:
    path = sound(folder)
    (folder / "clips" / "s7.wav").write_bytes((folder / "clips" / "s1.wav").read_bytes())
    return path


@defect("two_labels", 2)
def content_with_two_labels(folder: Path) -> Path:
    path = sound(folder)
    (folder / "clips" / "s1.wav").write_bytes((folder / "clips" / "s0.wav").read_bytes())
    return path


# ---- bundles ------------------------------------------------------------------------------------------------------


def bundle(folder: Path, *, kind: str = "zip", prefix: str = "") -> Path:
    """Pack a sound data set as zip, tar or tar.gz and return the archive, which is all that is left in ``folder``."""
    content = _content(folder)
    path = folder / f"data.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in content.items():
                archive.writestr(prefix + name, data)
    else:
        with tarfile.open(path, "w:gz" if kind == "tar.gz" else "w") as archive:
            for name, data in content.items():
                add_to_tar(archive, prefix + name, data)
    return path


def _content(folder: Path) -> dict[str, bytes]:
    path = sound(folder / "packed")
    content = {
        "manifest.jsonl": path.read_bytes(),
        **{f"clips/{clip.name}": clip.read_bytes() for clip in sorted((folder / "packed" / "clips").iterdir())},
    }
    for clip in (folder / "packed" / "clips").iterdir():
        clip.unlink()
    (folder / "packed" / "clips").rmdir()
    path.unlink()
    (folder / "packed").rmdir()
    return content


def add_to_tar(
    archive: tarfile.TarFile, name: str, data: bytes, *, kind: bytes = tarfile.REGTYPE, to: str = ""
) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(data), kind, to
    archive.addfile(info, io.BytesIO(data))


@defect("bundle_path", None)
def member_upwards(folder: Path) -> Path:
    path = bundle(folder)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../../evil.wav", wav())
    return path


@defect("bundle_path", None)
def member_at_the_root(folder: Path) -> Path:
    path = bundle(folder, kind="tar")
    with tarfile.open(path, "a") as archive:
        add_to_tar(archive, "/etc/evil.wav", wav())
    return path


@defect("bundle_link", None)
def link_in_a_tar(folder: Path) -> Path:
    path = bundle(folder, kind="tar")
    with tarfile.open(path, "a") as archive:
        add_to_tar(archive, "clips/link.wav", b"", kind=tarfile.SYMTYPE, to="/etc/passwd")
    return path


@defect("bundle_link", None)
def link_in_a_zip(folder: Path) -> Path:
    path = bundle(folder)
    info = zipfile.ZipInfo("clips/link.wav")
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(info, "/etc/passwd")
    return path


@defect("bundle_link", None)
def device(folder: Path) -> Path:
    path = bundle(folder, kind="tar")
    with tarfile.open(path, "a") as archive:
        add_to_tar(archive, "clips/device.wav", b"", kind=tarfile.CHRTYPE)
    return path


@defect("bundle_encrypted", None)
def encrypted_member(folder: Path) -> Path:
    path = bundle(folder)
    data = bytearray(path.read_bytes())
    for magic, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # the flag, in the member and in the directory
        place = data.rfind(magic)
        data[place + offset] |= 1
    path.write_bytes(data)
    return path


@defect("bundle_duplicate", None)
def names_that_collide(folder: Path) -> Path:
    path = bundle(folder)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("clips/S1.WAV", wav())
    return path


@defect("bundle_compression", None)
def lzma_in_a_zip(folder: Path) -> Path:
    path = bundle(folder)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_LZMA) as archive:
        archive.writestr("clips/extra.wav", wav())
    return path


@defect("bundle_compression", None)
def seven_zip(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "data.7z"
    path.write_bytes(b"7z\xbc\xaf\x27\x1c" + bytes(600))
    return path


@defect("bundle_no_manifest", None)
def archive_without_manifest(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "data.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("clips/s0.wav", wav())
    return path


@defect("bundle_unreadable", None)
def half_a_zip(folder: Path) -> Path:
    path = bundle(folder)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return path


@defect("bundle_unreadable", None)
def half_a_tar(folder: Path) -> Path:
    path = bundle(folder, kind="tar.gz")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return path


@defect("missing_clip", 3)
def clip_not_packed(folder: Path) -> Path:
    packed = bundle(folder)
    path = folder / "short.zip"
    with zipfile.ZipFile(packed) as source, zipfile.ZipFile(path, "w") as archive:
        for name in source.namelist():
            if name != "clips/s2.wav":
                archive.writestr(name, source.read(name))
    packed.unlink()
    return path
