"""``emollama data`` as a user meets it: output, files and exit codes."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from emollama.manifest import json_schema, read_manifest
from train.data.cli import app

_spec = importlib.util.spec_from_file_location("cli_defects", Path(__file__).with_name("defects.py"))
assert _spec is not None
assert _spec.loader is not None
d = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = d
_spec.loader.exec_module(d)

runner = CliRunner()


def call(*args: object) -> tuple[int, str, str]:
    done = runner.invoke(app, [str(arg) for arg in args])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout, done.stderr


def test_sound_data_passes_and_its_cost_is_told(tmp_path: Path) -> None:
    code, out, _ = call("validate", d.sound(tmp_path), "--epochs", 2, "--batch-size", 4)
    assert code == 0
    assert "8 samples (6 train, 2 valid), 8 clips, 3.2 s, 4 speakers" in out
    assert "training: 4 steps (2 epochs of 6 samples, batches of 4), " in out
    assert out.endswith("manifest.jsonl: 0 errors, 2 warnings\n")


def test_problems_give_code_1_and_are_all_in_the_json(tmp_path: Path) -> None:
    path = d.with_row(tmp_path, 2, clip="clips/no.wav", valence=7)
    code, out, _ = call("validate", path)
    assert code == 1
    assert "manifest.jsonl:3: error: valence: is 7; allowed: -1 to 1 -> bring it to the scale of the manifest" in out
    code, out, _ = call("validate", path, "--json")
    document = json.loads(out)
    assert (code, document["ok"], document["num_errors"]) == (1, False, 2)
    assert {problem["code"] for problem in document["problems"]} >= {"missing_clip", "out_of_range"}
    code, out, _ = call("validate", d.sound(tmp_path), "--labels", "joy,fear")
    assert (code, "'boredom' is not in the label set" in out) == (1, True)


def test_a_manifest_for_validation_is_held_against_the_other(tmp_path: Path) -> None:
    rows = [{**d.sound_rows()[0], "split": "valid"}]
    path, training = d.write_rows(tmp_path / "b", rows), d.sound(tmp_path / "a")
    assert call("validate", path)[0] == 1  # alone it has nothing to train on
    code, out, _ = call("validate", path, "--validates", training)
    assert code == 1
    assert "manifest.jsonl:1: error: speaker: is trained on in manifest.jsonl, line 1" in out
    (path.parent / "clips" / "s0.wav").write_bytes(d.wav(hz=990.0))
    path.write_text(json.dumps({**rows[0], "speaker": "new"}) + "\n")
    assert call("validate", path, "--validates", training)[0] == 0
    assert call("validate", path, "--validates", tmp_path / "no.jsonl")[0] == 2


def test_bundles_are_checked_and_nothing_is_left(tmp_path: Path, monkeypatch) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    assert call("validate", d.bundle(tmp_path / "good", kind="tar.gz"))[0] == 0
    code, out, _ = call("validate", d.member_upwards(tmp_path / "bad"))
    assert (code, "[bundle_path]" in out) == (1, True)
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize(
    ("args", "wanted"),
    [
        (("validate", "no.jsonl"), "no.jsonl is not a file"),
        (("validate", "{sound}", "--labels", "joy"), "labels holds 1 names; allowed: 2 to 64"),
        (("validate", "{sound}", "--epochs", "0"), "begin at 1"),
        (("split", "{sound}"), "has splits already; --overwrite divides it anew"),
        (("split", "{sound}", "--valid", "2"), "has splits already"),
        (("split", "{sound}", "--overwrite", "--valid", "2"), "valid is 2.0; allowed: 0 to below 1"),
        (("split", "{sound}", "--overwrite", "--output", "/tmp/x.jsonl"), "must be in the manifest's folder"),
        (("show", "no.jsonl"), "no.jsonl is not there"),
        (("import", "imagenet", "a", "b"), "unknown importer 'imagenet'; known: csv, dfew"),
        (("import", "folder"), "import wants a SOURCE"),
        (("import", "folder", "a", "b"), "it must end in .jsonl"),
        (("import", "folder", "a", "b.jsonl", "--clips", "move"), "allowed: refer, copy, link"),
        (("import", "dfew", "a", "b.jsonl", "--set", "fold"), "is not KEY=VALUE"),
        (("import", "dfew", "a", "b.jsonl", "--set", "fold=x"), "a number is wanted"),
        (
            ("import", "dfew", "a", "b.jsonl", "--set", "year=2023"),
            "unknown option of this importer 'year'; known: fold",
        ),
        (("import", "csv", "no.csv", "b.jsonl"), "no.csv does not exist"),
    ],
)
def test_a_wrong_call_is_one_line_and_code_2(tmp_path: Path, args: tuple[str, ...], wanted: str) -> None:
    path = d.sound(tmp_path)
    code, out, err = call(*(arg.format(sound=path) for arg in args))
    assert (code, out) == (2, "")
    assert wanted in err
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1


def test_split_writes_the_manifest_and_tells_the_shares(tmp_path: Path) -> None:
    rows = [{name: value for name, value in row.items() if name != "split"} for row in d.sound_rows()]
    path = d.write_rows(tmp_path, [{"manifest_version": 1, "license": "CC0"}, *rows])
    before = path.read_bytes()
    code, out, _ = call("split", path, "--valid", 0.25, "--test", 0.25, "--output", tmp_path / "divided.jsonl")
    assert code == 0
    assert "train: 4 samples (50.0%), 2 speakers: boredom 2, joy 2" in out
    assert "4 groups by speaker, seed 0" in out
    assert path.read_bytes() == before
    divided = read_manifest(tmp_path / "divided.jsonl")
    assert divided.header is not None
    assert divided.header.license == "CC0"
    assert len(divided.of_split("test")) == 2
    code, out, _ = call("split", path, "--json")
    assert json.loads(out)["splits"]["train"]["samples"] == 4
    assert len(read_manifest(path).of_split("valid")) == 2
    assert call("validate", path)[0] == 0


def test_import_writes_a_manifest_that_passes(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for number in range(12):
        folder = source / ("joy", "fear")[number % 2] / f"p{number // 4}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.wav").write_bytes(d.wav(hz=200.0 + 20 * number))
    assert call("import")[1] == "importers: folder, csv, openai_chat, merr, mer, dfew\n"
    out = tmp_path / "out" / "manifest.jsonl"
    code, _, err = call("import", "folder", source, out)
    assert (code, "does not lie below" in err) == (2, True)
    assert not out.exists()
    code, text, _ = call("import", "folder", source, out, "--clips", "copy")
    assert (code, text) == (0, f"{out}: 12 samples\n")
    assert call("split", out, "--valid", 0.3, "--test", 0)[0] == 0
    assert call("validate", out)[0] == 0


def test_import_reads_options_and_counts_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(d.wav())
    (tmp_path / "list.csv").write_text("file,label,val\na.wav,joy,2.5\nb.wav,joy,1\n")
    args = (
        "import",
        "csv",
        tmp_path / "list.csv",
        tmp_path / "m.jsonl",
        "--skip-missing",
        "--set",
        "valence_limit=5",
        "--license",
        "CC0",
    )
    assert call(*args) == (0, f"{tmp_path / 'm.jsonl'}: 1 samples, 1 clips were not there\n", "")
    read = read_manifest(tmp_path / "m.jsonl")
    assert read.samples[0].valence == 0.5
    assert read.header is not None
    assert read.header.license == "CC0"


def test_show_counts_by_split_label_and_speaker(tmp_path: Path) -> None:
    path = d.with_row(tmp_path, 7, label="[red]joy", transcript="Hm.")
    code, out, _ = call("show", path)
    assert code == 0
    assert "[red]joy" in out
    assert [line.split() for line in out.splitlines() if line.strip().startswith("anna")] == [
        ["anna", "2", "0.8", "train"]
    ]
    document = json.loads(call("show", path, "--json")[1])
    assert document["splits"]["train"] == {
        "samples": 6, "clips": 6, "speakers": 3, "with_words": 0, "with_messages": 0, "seconds": 2.4,
    }  # fmt: skip
    assert document["labels"]["boredom"] == {"train": 3, "valid": 0}
    assert document["speakers"]["carol"]["splits"] == ["valid"]
    assert json.loads(call("show", path, "--json", "--no-clips")[1])["splits"]["valid"]["seconds"] is None


def test_progress_is_shown_on_a_terminal_and_not_in_the_output(tmp_path: Path, monkeypatch) -> None:
    import io

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    from train.data import cli

    terminal = Terminal()
    monkeypatch.setattr(cli.sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with cli._progress("reading clips") as tick:
        for done in range(4):
            tick(done, 3)
    assert "reading clips" in terminal.getvalue()
    assert "3/3" in terminal.getvalue()


def test_the_committed_schema_is_the_formats(tmp_path: Path) -> None:
    committed = Path(__file__).resolve().parents[3] / "docs" / "manifest.schema.json"
    assert json.loads(committed.read_text(encoding="utf-8")) == json_schema()
    assert call("schema")[1] == committed.read_text(encoding="utf-8")


def test_clips_can_be_timed(tmp_path: Path, monkeypatch) -> None:
    from train.data import timing
    from train.data.cost import Speed

    def measured(manifest, *, batch_size):
        return Speed(seconds_per_stretch=0.25, num_encoded=3, seconds_per_step=0.5)

    monkeypatch.setattr(timing, "time_nano", measured)
    code, out, _ = call("validate", d.sound(tmp_path), "--time")
    assert (code, "encoding about 2 s (measured on 3)" in out) == (0, True)
    code, _, err = call("validate", d.bundle(tmp_path / "b"), "--time")
    assert (code, "--time has no effect on a bundle" in err) == (2, True)
