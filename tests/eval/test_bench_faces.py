"""`emollama bench faces` reads the same faces on every side and writes what it measured."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from eval.bench_faces import app


def test_every_reader_is_measured_and_says_the_same(tmp_path):
    result = CliRunner().invoke(
        app, ["--model", "mbf_va_mtl", "--faces", "2", "--batch", "1", "--batch", "2", "--runs", "2", "--threads", "1",
              "--json", str(tmp_path / "faces.json")]
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    document = json.loads((tmp_path / "faces.json").read_text())
    readers = {(each["name"], each["batch_size"]): each for each in document["readers"]}
    assert set(readers) == {("plain loop", 1), *((n, b) for n in ("torch", "onnxruntime") for b in (1, 2))}
    for each in readers.values():
        assert len(each["seconds"]) == 2
        assert each["faces_per_second"] == pytest.approx(2 * 2 / sum(each["seconds"]), rel=0.02)
    # PIL rounds the resized picture to bytes, ours does not; the networks are the same
    assert document["largest_difference"] < 0.05
    assert document["threads"] == 1
    assert "command" in document


@pytest.mark.parametrize(
    ("options", "told"),
    [(["--model", "resnet"], "enet_b0_8"), (["--model", "nano-face", "--faces", "32"], "grey"),
     (["--model", "mbf_va_mtl", "--faces", "2"], "allowed: 32 or more")],
)  # fmt: skip
def test_what_cannot_be_measured_is_said(options, told):
    result = CliRunner().invoke(app, options)
    assert result.exit_code == 2
    assert told in " ".join(result.stderr.split())
