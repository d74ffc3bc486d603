"""How clips get beside the manifest: referred to, copied, linked; and how their names are found."""

from __future__ import annotations

import os

import pytest

from emollama.errors import DatasetError, InputError, UnknownNameError
from emollama.importers import IMPORTERS, load_importer
from emollama.importers.clips import ClipFolder, ClipIndex

import_folder = load_importer("folder")


def test_every_name_loads_and_an_unknown_one_lists_them() -> None:
    assert all(callable(load_importer(name)) for name in IMPORTERS)
    with pytest.raises(UnknownNameError, match="dfew, folder, mer, merr"):
        load_importer("imagenet")


def test_clips_elsewhere_are_refused_copied_or_linked(tmp_path, clip, round_trip) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    path = clip(source, "joy/a.wav", b"RIFFxxxxWAVE one")
    with pytest.raises(DatasetError, match=r"does not lie below the manifest's folder .* copy or link"):
        list(import_folder(source, clips=ClipFolder(root=out)))
    for mode in ("copy", "link"):
        folder = out / mode
        (sample,) = round_trip(folder, import_folder(source, clips=ClipFolder(root=folder, mode=mode)))
        assert sample.clip == "clips/joy/a.wav"
        assert (folder / sample.clip).read_bytes() == path.read_bytes()
        assert os.path.samefile(folder / sample.clip, path) == (mode == "link")
        assert not list(folder.rglob("*.partial"))
    with pytest.raises(InputError, match="allowed: refer, copy, link"):
        ClipFolder(root=out, mode="move")


def test_a_link_may_stay_inside_but_not_lead_out(tmp_path, clip) -> None:
    secret = clip(tmp_path / "elsewhere", "secret.wav")
    source = tmp_path / "source"
    inside = clip(source, "joy/a.wav")
    (source / "joy" / "b.wav").symlink_to(inside)
    assert [s.clip for s in import_folder(source)] == ["joy/a.wav", "joy/b.wav"]
    (source / "joy" / "c.wav").symlink_to(secret)
    with pytest.raises(DatasetError, match="does not lie below"):
        list(import_folder(source))


def test_a_name_finds_its_file_and_prefers_the_video(tmp_path, clip) -> None:
    clip(tmp_path, "audio/s1.wav")
    video = clip(tmp_path, "video/s1.mp4")
    clip(tmp_path, "video/s1.5.mp4")
    index = ClipIndex(folder=tmp_path)
    assert index.find("s1", where="x") == video
    assert index.find("audio/s1.wav", where="x") == tmp_path / "audio" / "s1.wav"
    assert index.find("somewhere/else/s1.wav", where="x") == tmp_path / "audio" / "s1.wav"
    assert index.find("s1.5", where="x") == tmp_path / "video" / "s1.5.mp4"
    assert index.find("s2", where="x") is None
    clip(tmp_path, "other/s1.mp4")
    with pytest.raises(DatasetError, match=r"list\.csv:3: 's1' may mean 'other/s1.mp4' and 'video/s1.mp4'"):
        ClipIndex(folder=tmp_path).find("s1", where="list.csv:3")


def test_a_missing_media_folder_is_named(tmp_path) -> None:
    with pytest.raises(DatasetError, match="name it by media"):
        ClipIndex(folder=tmp_path / "nowhere")
