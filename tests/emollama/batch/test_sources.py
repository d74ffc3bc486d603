"""What can be given as the list of clips, and what is said about a list that is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from emollama.batch.items import digest_of, prepare
from emollama.batch.sources import read_source
from emollama.errors import DatasetError, InputError, MediaLimitError
from emollama.media import MediaLimits
from emollama.types import Transcript


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_a_manifest_brings_stretches_and_words(tmp_path):
    rows = [
        {"manifest_version": 1, "labels": ["sad", "happy"]},
        {"id": "a", "clip": "x/a.mp4", "start": 1.0, "end": 2.5, "transcript": "oh  no", "language": "en"},
        {"id": "b", "clip": None, "transcript": "words alone"},
    ]  # fmt: skip
    source = read_source(write(tmp_path / "m.jsonl", "\n".join(map(json.dumps, rows))))
    first, second = source.items
    assert (source.kind, first.id, first.clip, first.start, first.end) == ("manifest", "a", "x/a.mp4", 1.0, 2.5)
    assert Path(first.path or "") == tmp_path / "x" / "a.mp4"
    assert first.transcript == Transcript(text="oh no", language="en", source="given")
    assert second.path is None
    assert second.transcript is not None


def test_a_table_needs_a_path_or_words(tmp_path):
    table = write(
        tmp_path / "t.tsv", "File\tstart_time\tend\ttext\nx.mp4\t1\t2\thello\nx.mp4\t\t\t\n\t\t\twords only\n"
    )
    source = read_source(table)
    assert [item.id for item in source.items] == ["x.mp4#1-2", "x.mp4", "line 4"]
    assert [item.path is None for item in source.items] == [False, False, True]
    with pytest.raises(DatasetError, match="no column says which clip"):
        read_source(write(tmp_path / "u.csv", "speaker,emotion\na,b\n"))


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("id,path\na,x.mp4\na,y.mp4\n", "'a' stands already in line 2"),
        ("path,start,end\nx.mp4,3,2\n", "an end after it"),
        ("path,start\nx.mp4,soon\n", "'soon' is not a finite number"),
        ("path,transcript\nx.mp4,\na,b,c\n", "cells where the header has"),
        ("path,transcript,note\n,,x\n", "names no clip and has no words"),
    ],
)
def test_a_wrong_table_says_its_line(tmp_path, rows, said):
    with pytest.raises(DatasetError, match=said):
        read_source(write(tmp_path / "t.csv", rows))


def test_a_list_has_a_path_a_line_and_a_root(tmp_path):
    path = write(tmp_path / "lists" / "all.txt", "a b.mp4\r\n\n/abs/c.mp4\na b.mp4\n")
    source = read_source(path, root=tmp_path)
    assert [item.path for item in source.items] == [
        str(tmp_path / "a b.mp4"), "/abs/c.mp4", str(tmp_path / "a b.mp4"),
    ]  # fmt: skip
    assert [item.id for item in source.items] == ["a b.mp4", "/abs/c.mp4", "a b.mp4 (2)"]
    assert Path(read_source(path).items[0].path or "") == path.parent / "a b.mp4"


def test_a_folder_is_searched_by_bytes(tmp_path, media):
    media.wav(tmp_path / "deep" / "er" / "voice.wav") if (tmp_path / "deep" / "er").mkdir(
        parents=True
    ) is None else None
    (tmp_path / "deep" / "er" / "voice.wav").rename(tmp_path / "deep" / "er" / "voice.data")
    write(tmp_path / "deep" / "er" / "voice.srt", "1\n00:00:00,000 --> 00:00:01,000\noh no\n")
    write(tmp_path / "broken.mp4", "not media at all")
    write(tmp_path / "readme.md", "text")
    write(tmp_path / ".hidden" / "x.mp4", "x")
    source = read_source(tmp_path)
    assert [item.id for item in source.items] == ["broken.mp4", "deep/er/voice.data"]
    assert source.num_left_out == 1
    words = prepare(source.items[1]).transcript
    assert words is not None
    assert words.segments[0].end == 1.0
    with pytest.raises(InputError, match="holds no media file"):
        read_source(write(tmp_path / "empty" / "x.md", "x").parent)


@pytest.mark.parametrize(
    ("name", "said"), [("nothing.jsonl", "does not exist"), ("clip.mp4", "is one clip"), ("empty.txt", "names no clip")]
)
def test_what_is_no_list_is_refused(tmp_path, name, said):
    if name != "nothing.jsonl":
        write(tmp_path / name, "\n")
    with pytest.raises((InputError, DatasetError), match=said):
        read_source(tmp_path / name)


def test_bytes_that_are_no_text_are_no_list(tmp_path):
    (tmp_path / "l.txt").write_bytes(b"\xff\xfe\x00a")
    with pytest.raises(DatasetError, match="not text in UTF-8"):
        read_source(tmp_path / "l.txt")
    with pytest.raises(DatasetError, match=r"l2\.txt:1: this is no path"):
        read_source(write(tmp_path / "l2.txt", "a\x00b\n"))


def test_two_items_are_the_same_clip_by_bytes_stretch_and_words(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        write(tmp_path / name, "same")
    rows = "path,start,transcript\na.mp4,,\nb.mp4,,\na.mp4,1,\na.mp4,,hello\n"
    keys = [prepare(item).key for item in read_source(write(tmp_path / "t.csv", rows)).items]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3


def test_what_cannot_be_read_is_told_by_the_path_as_written(tmp_path):
    items = read_source(write(tmp_path / "l.txt", "gone.mp4\n.\n")).items
    with pytest.raises(InputError, match=r"'gone\.mp4' is not there"):
        prepare(items[0])
    with pytest.raises(InputError, match="is a folder"):
        prepare(items[1])
    large = write(tmp_path / "l.txt", "l.txt").parent
    with pytest.raises(MediaLimitError, match="max_bytes"):
        prepare(read_source(large / "l.txt").items[0], limits=MediaLimits(max_bytes=3))


def test_a_link_out_of_a_manifests_folder_is_not_followed(tmp_path):
    secret = write(tmp_path / "secret.mp4", "x")
    inside = tmp_path / "set"
    inside.mkdir()
    (inside / "link.mp4").symlink_to(secret)
    manifest = write(inside / "m.jsonl", json.dumps({"id": "a", "clip": "link.mp4"}))
    with pytest.raises(InputError, match="leads out"):
        prepare(read_source(manifest).items[0])


def test_the_digest_is_of_what_is_asked_not_of_where_it_lies(tmp_path):
    digests = []
    for folder in ("one", "two"):
        path = write(tmp_path / folder / "l.csv", "path\na.mp4\nb.mp4\n")
        digests.append(digest_of(read_source(path).items))
    assert digests[0] == digests[1]
    other = write(tmp_path / "three" / "l.csv", "path,start\na.mp4,1\nb.mp4,\n")
    assert digest_of(read_source(other).items) != digests[0]
