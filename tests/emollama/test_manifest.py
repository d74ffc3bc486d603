"""The manifest: what a row may hold, how a wrong one is named, and that writing and reading are inverse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from emollama.errors import DatasetError
from emollama.manifest import (
    ManifestHeader,
    Sample,
    iter_rows,
    json_schema,
    read_manifest,
    write_manifest,
)


def lines(path: Path, *rows: object) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


WHOLE = {
    "id": "a", "clip": "clips/a.mp4", "start": 0.5, "end": 2.0, "transcript": "Nothing new.", "language": "en",
    "distribution": {"boredom": 0.7, "neutral": 0.3}, "open_vocabulary": ["weary"], "valence": -0.2, "arousal": -0.5,
    "messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "The voice drags."}],
    "split": "valid", "speaker": "03", "meta": {"take": 2},
}  # fmt: skip


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    samples = [
        Sample.model_validate(WHOLE),
        Sample(id="b", transcript="Well.", label="neutral"),
        Sample(id="c", clip="c.wav"),
    ]
    header = ManifestHeader(manifest_version=1, labels=("neutral", "boredom"), license="CC0")
    assert write_manifest(tmp_path / "manifest.jsonl", samples, header=header) == 3
    manifest = read_manifest(tmp_path / "manifest.jsonl")
    assert manifest.samples == tuple(samples)
    assert manifest.labels == ("neutral", "boredom")
    assert [sample.id for sample in manifest.of_split("train")] == ["b", "c"]
    assert samples[0].top_label == "boredom"
    assert samples[1].shares == {"neutral": 1.0}
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.jsonl"]


def test_the_label_set_without_a_header_is_what_the_rows_hold(tmp_path: Path) -> None:
    path = lines(
        tmp_path / "m.jsonl",
        {"id": "1", "clip": "x.wav", "label": "sad"},
        {"id": "2", "clip": "y.wav", "label": "glad"},
    )
    assert read_manifest(path).labels == ("sad", "glad")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ('{"id": "a", "clip": ', "m.jsonl:2: not JSON"),
        ("[1]", "m.jsonl:2: not a JSON object but list"),
        ('{"id": "a", "id": "b", "clip": "x"}', "'id' stands twice"),
        ('{"id": "a", "clip": "x.wav", "valence": NaN}', "NaN"),
        ({"clip": "x.wav"}, "m.jsonl:2: id: field required"),
        ({"id": 3, "clip": "x.wav"}, "id: input should be a valid string (it is 3)"),
        ({"id": "a", "clip": "x.wav", "emotion": "sad"}, "emotion: extra inputs are not permitted"),
        ({"id": "a", "clip": "/etc/passwd"}, "clip: must be a relative path"),
        ({"id": "a", "clip": "../x.wav"}, "clip: must be a relative path"),
        ({"id": "a", "clip": "b\\x.wav"}, "clip: must be a relative path"),
        ({"id": "a", "clip": None}, "no transcript"),
        ({"id": "a", "clip": "x.wav", "start": 2.0, "end": 1.0}, "end is 1 and start 2"),
        ({"id": "a", "clip": "x.wav", "valence": 1.5}, "valence: input should be less than or equal to 1 (it is 1.5)"),
        ({"id": "a", "clip": "x.wav", "distribution": {"sad": 0.5, "glad": 0.4}}, "sums to 0.9"),
        ({"id": "a", "clip": "x.wav", "label": "glad", "distribution": {"sad": 1.0}}, "keep one of them"),
        ({"id": "a", "clip": "x.wav", "split": "dev"}, "split"),
        ({"id": "a", "clip": "x.wav", "messages": [{"role": "user", "content": "Why?"}]}, "user and assistant in turn"),
        (
            {
                "id": "a",
                "clip": "x.wav",
                "messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": " "}],
            },
            "turn 2 (assistant) is empty",
        ),
        ({"id": "first", "clip": "x.wav"}, "'first' stands already in line 1"),
        ({"manifest_version": 1}, "a header may only be the first line"),
    ],
)
def test_a_wrong_row_is_named_with_its_line_and_field(tmp_path: Path, row: object, said: str) -> None:
    path = lines(tmp_path / "m.jsonl", {"id": "first", "clip": "a.wav"}, row)
    with pytest.raises(DatasetError) as caught:
        read_manifest(path)
    assert said in str(caught.value)


def test_every_line_is_told_of_whatever_is_in_it(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_bytes(
        b'\xef\xbb\xbf{"id": "a"}\r\n\n\xff\n' + b"x" * (2 << 20) + b"\n" + b"[" * 100_000 + b'\n{"id": "z"}'
    )
    rows = list(iter_rows(path))
    assert [row.line for row in rows] == [1, 3, 4, 5, 6]
    assert rows[0].document == {"id": "a"}
    assert "not UTF-8" in (rows[1].problem or "")
    assert "longer than" in (rows[2].problem or "")
    assert rows[3].problem
    assert rows[4].document == {"id": "z"}


def test_a_missing_or_empty_manifest_says_so(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="is not there"):
        read_manifest(tmp_path / "m.jsonl")
    with pytest.raises(DatasetError, match="holds no samples"):
        read_manifest(lines(tmp_path / "m.jsonl", {"manifest_version": 1}))


def test_a_link_that_leads_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "outside.wav").write_bytes(b"x")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.wav").symlink_to(tmp_path / "outside.wav")
    manifest = read_manifest(lines(tmp_path / "data" / "m.jsonl", {"id": "a", "clip": "a.wav"}))
    with pytest.raises(DatasetError, match="lies outside its folder"):
        manifest.clip_path(manifest.samples[0])


def test_the_schema_speaks_of_both_kinds_of_line() -> None:
    schema = json_schema()
    assert set(schema["$defs"]) >= {"Sample", "ManifestHeader"}
    assert set(schema["$defs"]["Sample"]["required"]) == {"id"}
