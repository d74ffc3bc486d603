"""Archives: what is named is unpacked, what is dangerous is refused, and a refusal leaves nothing."""

from __future__ import annotations

import importlib.util
import io
import json
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from emollama.errors import DatasetError, InputError
from emollama.manifest import read_manifest
from train.data.bundle import BundleError, unpack
from train.data.limits import BundleLimits, DataLimits
from train.data.validate import validate_upload

_spec = importlib.util.spec_from_file_location("bundle_defects", Path(__file__).with_name("defects.py"))
assert _spec is not None
assert _spec.loader is not None
d = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = d
_spec.loader.exec_module(d)

LIMITS = BundleLimits(max_members=30, max_member_bytes=100_000, max_manifest_bytes=50_000, max_total_bytes=200_000)


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("prefix", ["", "mydata/", "./"])
@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_what_the_manifest_names_is_unpacked(tmp_path: Path, kind: str, prefix: str) -> None:
    archive = d.bundle(tmp_path / "made", kind=kind, prefix=prefix)
    manifest = unpack(archive, tmp_path / "data", LIMITS)
    assert manifest == tmp_path / "data" / "manifest.jsonl"
    read = read_manifest(manifest)
    assert [sample.id for sample in read.samples] == [f"s{n}" for n in range(8)]
    assert names(tmp_path / "data") == [*(f"clips/s{n}.wav" for n in range(8)), "manifest.jsonl"]
    assert (tmp_path / "data" / "clips" / "s2.wav").read_bytes() == d.wav(hz=280.0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "made"]


def test_folders_of_an_archive_are_no_members(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    manifest = d.sound(tmp_path / "made")
    with tarfile.open(path, "w") as archive:
        archive.add(manifest.parent, arcname=".")  # as `tar -C folder -cf a.tar .` does
    assert len(names(unpack(path, tmp_path / "data", LIMITS).parent)) == 9


def test_a_bare_manifest_is_a_bundle_without_clips(tmp_path: Path) -> None:
    rows = [
        {
            "id": str(n),
            "transcript": f"Words {n}.",
            "label": ("joy", "fear")[n % 2],
            "split": "train" if n < 4 else "valid",
        }
        for n in range(6)
    ]
    path = tmp_path / "words.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = validate_upload(path, tmp_path / "data", limits=DataLimits(few_samples_per_class=2))
    assert report.ok
    assert names(tmp_path / "data") == ["manifest.jsonl"]
    path.write_text(json.dumps({**rows[0], "clip": "a.wav"}) + "\n")
    report = validate_upload(path, tmp_path / "again")
    assert [(p.code, p.line) for p in report.errors] == [("one_class", None), ("missing_clip", 1)]
    assert not (tmp_path / "again").exists()


def test_what_the_manifest_does_not_name_stays_in_the_archive_and_is_said(tmp_path: Path) -> None:
    archive = d.bundle(tmp_path / "made")
    with zipfile.ZipFile(archive, "a") as opened:
        for name in ("clips/extra.wav", "run.sh", "__MACOSX/._manifest.jsonl", "clips/.DS_Store"):
            opened.writestr(name, b"x")
    report = validate_upload(archive, tmp_path / "data", limits=DataLimits(few_samples_per_class=2))
    assert report.ok
    assert [(p.code, p.value, p.severity) for p in report.problems] == [
        ("unused_member", "clips/extra.wav", "warning"),
        ("unused_member", "run.sh", "warning"),
    ]
    assert len(names(tmp_path / "data")) == 9


def zip_bomb(path: Path, *, claims: int | None = None) -> Path:
    """Write a zip whose manifest unpacks to 10 MB; ``claims`` is written over the size that it declares."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("manifest.jsonl", b" " * 10_000_000)
    if claims is not None:
        data = bytearray(path.read_bytes())
        place = data.rfind(b"PK\x01\x02")
        data[place + 24 : place + 28] = claims.to_bytes(4, "little")
        path.write_bytes(data)
    return path


def tar_bomb(path: Path) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        d.add_to_tar(archive, "clips/zeros.wav", bytes(10_000_000))
        d.add_to_tar(archive, "manifest.jsonl", b"{}\n")
    return path


def liar_tar(path: Path) -> Path:
    """Write a tar whose extended header claims to hold a terabyte."""
    info = tarfile.TarInfo("PaxHeaders/x")
    info.type, info.size = tarfile.XHDTYPE, 0
    head = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    head[124:136] = b"\x80" + (10**12).to_bytes(11, "big")
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    path.write_bytes(bytes(head) + bytes(20_000))
    return path


@pytest.mark.parametrize("make", [zip_bomb, tar_bomb, liar_tar])
def test_bombs_are_refused_before_they_burst(tmp_path: Path, make) -> None:
    (tmp_path / "made").mkdir()
    with pytest.raises(BundleError) as caught:
        unpack(make(tmp_path / "made" / "bomb"), tmp_path / "data", LIMITS)
    assert caught.value.code == "bundle_too_large"
    assert names(tmp_path) == ["made/bomb"]
    report = validate_upload(tmp_path / "made" / "bomb", tmp_path / "data", bundle_limits=LIMITS)
    assert [problem.code for problem in report.errors] == ["bundle_too_large"]


def test_a_size_that_lies_does_not_let_more_out(tmp_path: Path) -> None:
    with pytest.raises(BundleError) as caught:
        unpack(zip_bomb(tmp_path / "bomb.zip", claims=100), tmp_path / "data", LIMITS)
    assert caught.value.code == "bundle_unreadable"
    assert names(tmp_path) == ["bomb.zip"]


@pytest.mark.parametrize(
    "limits",
    [
        BundleLimits(max_members=8),
        BundleLimits(max_member_bytes=1000),
        BundleLimits(max_manifest_bytes=100),
        BundleLimits(max_total_bytes=20_000),
    ],
)
@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_each_limit_holds(tmp_path: Path, kind: str, limits: BundleLimits) -> None:
    archive = d.bundle(tmp_path / "made", kind=kind)
    with pytest.raises(BundleError) as caught:
        unpack(archive, tmp_path / "data", limits)
    assert caught.value.code == "bundle_too_large"
    assert "more than" in str(caught.value)
    assert names(tmp_path) == [f"made/data.{kind}"]


def test_folders_without_end_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "folders.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for number in range(100):
            d.add_to_tar(archive, f"folder{number}", b"", kind=tarfile.DIRTYPE)
    with pytest.raises(BundleError, match="more than 60 entries"):
        unpack(path, tmp_path / "data", LIMITS)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("clips/../../x.wav", "bundle_path"),
        ("C:/x.wav", "bundle_path"),
        ("clips\\x.wav", "bundle_path"),
        ("clips/x\x1b.wav", "bundle_path"),
        ("x" * 300 + ".wav", "bundle_path"),
        ("clips/./s1.wav", "bundle_duplicate"),
        ("clips//s1.wav", "bundle_duplicate"),
        ("Manifest.jsonl", "bundle_duplicate"),
        ("clips", "bundle_duplicate"),
        ("other/manifest.jsonl", "bundle_no_manifest"),
    ],
)
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_names_that_lead_out_or_collide(tmp_path: Path, kind: str, name: str, code: str) -> None:
    path = d.bundle(tmp_path / "made", kind=kind)
    if kind == "zip":
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(name, b"x")
    else:
        with tarfile.open(path, "a") as archive:
            d.add_to_tar(archive, name, b"x")
    with pytest.raises(BundleError) as caught:
        unpack(path, tmp_path / "data", LIMITS)
    assert caught.value.code == code
    assert names(tmp_path) == [f"made/data.{kind}"]


@pytest.mark.parametrize("make", ["hard link", "pipe"])
def test_other_kinds_of_members(tmp_path: Path, make: str) -> None:
    path = d.bundle(tmp_path / "made", kind="tar")
    with tarfile.open(path, "a") as archive:
        kind = tarfile.LNKTYPE if make == "hard link" else tarfile.FIFOTYPE
        d.add_to_tar(archive, "clips/x.wav", b"", kind=kind, to="clips/s1.wav")
    with pytest.raises(BundleError) as caught:
        unpack(path, tmp_path / "data", LIMITS)
    assert caught.value.code == "bundle_link"


def test_damage_anywhere_is_an_error_and_no_crash(tmp_path: Path) -> None:
    for kind in ("zip", "tar", "tar.gz"):
        archive = d.bundle(tmp_path / kind, kind=kind)
        whole = archive.read_bytes()
        for place in range(0, len(whole), max(1, len(whole) // 60)):
            damaged = bytearray(whole)
            damaged[place] ^= 0xFF
            archive.write_bytes(damaged)
            folder = tmp_path / f"data-{kind}-{place}"
            try:
                unpack(archive, folder, LIMITS)
            except BundleError:
                assert not folder.exists()
        assert not list(tmp_path.glob(".data*"))


def test_a_folder_that_holds_something_is_not_touched(tmp_path: Path) -> None:
    archive = d.bundle(tmp_path / "made")
    (tmp_path / "data").mkdir()
    unpack(archive, tmp_path / "data", LIMITS)  # an empty one is taken
    with pytest.raises(DatasetError, match="is not empty; unpack into a new folder"):
        unpack(archive, tmp_path / "data", LIMITS)
    assert len(names(tmp_path / "data")) == 9
    with pytest.raises(InputError, match="max_members is 0"):
        BundleLimits(max_members=0)


def test_a_manifest_that_names_itself_as_a_clip(tmp_path: Path) -> None:
    rows = [*d.sound_rows(), {**d.sound_rows()[0], "id": "x", "clip": "manifest.jsonl", "speaker": None}]
    path = d.write_rows(tmp_path / "made", rows)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for file in path.parent.rglob("*"):
            archive.write(file, file.relative_to(path.parent))
    report = validate_upload(tmp_path / "a.zip", tmp_path / "data")
    assert [(p.code, p.line) for p in report.errors] == [("not_media", 9)]


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch) -> None:
    archive = d.bundle(tmp_path / "made")

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("train.data.archives.write", full)
    with pytest.raises(OSError, match="No space left"):
        unpack(archive, tmp_path / "data", LIMITS)
    assert names(tmp_path) == ["made/data.zip"]


def test_an_empty_zip_and_a_gzip_of_something_else(tmp_path: Path) -> None:
    import gzip

    with zipfile.ZipFile(tmp_path / "empty.zip", "w"):
        pass
    (tmp_path / "rows.gz").write_bytes(gzip.compress(b'{"id": "a"}\n' * 100))
    (tmp_path / "noise").write_bytes(io.BytesIO(bytes(range(256)) * 4).getvalue())
    found = {}
    for name in ("empty.zip", "rows.gz", "noise"):
        with pytest.raises(BundleError) as caught:
            unpack(tmp_path / name, tmp_path / "data", LIMITS)
        found[name] = caught.value.code
    assert found == {"empty.zip": "bundle_no_manifest", "rows.gz": "bundle_unreadable", "noise": "bundle_unreadable"}
