"""The command line as a user meets it: output, exit codes, resuming, and what it costs to ask for help."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from emollama import __version__, cli
from emollama.errors import UnsupportedMediaError
from emollama.panel import colour, render
from emollama.types import (
    Affect,
    Analysis,
    AudioUse,
    Emotion,
    Evidence,
    ModalityUse,
    Segment,
    TextUse,
    Transcript,
    VisualUse,
)

runner = CliRunner()


def answer(clip: str = "clip.mp4", *, label: str | None = "sadness", abstained: bool = False) -> Analysis:
    scores = {"sadness": 0.7, "happiness": 0.2, "[bold]bored": 0.1}
    return Analysis(
        id="ana_1", model="nano", adapter=None, created=1, clip=clip, seconds=4.0,
        emotion=Emotion(label=label, confidence=0.7, abstained=abstained, scores=scores),
        open_vocabulary=("grief",),
        affect=Affect(valence=-0.5 if label else None, arousal=0.1, source="face"),
        rationale="The person appears sad, [red]so it looks[/red].",
        evidence={
            "visual": (Evidence(start=0.0, end=2.0, cue="the face appears sad", reading="face.sadness.probability",
                                value=0.8, supports="sadness", track=0),),
            "audio": (), "text": (),
        },
        transcript=Transcript(text="oh no"),
        timeline=tuple(
            Segment(start=s, end=s + 2.0, label=name, scores={name: 0.8}, valence=0.0, arousal=0.0, track=0)
            for s, name in ((0.0, "sadness"), (2.0, "happiness"))
        ),
        faces=(),
        modalities=ModalityUse(
            visual=VisualUse(used=True, frames=20, faces=1),
            audio=AudioUse(used=False, seconds=0.0, voiced_seconds=0.0),
            text=TextUse(used=True, source="given"),
        ),
        warnings=("No voice was heard in the sound, so the sound was not used.",),
        timings_ms={"total": 812.0},
    )  # fmt: skip


class StubAnalyzer:
    """Answers every clip, but fails for one whose name holds "bad"."""

    def __init__(self) -> None:
        self.calls: list[tuple] = []
        self.loaded: tuple | None = None

    def __call__(self, model, *, adapter, device):
        self.loaded = (model, adapter, device)
        return self

    def analyze(self, source, **options):
        self.calls.append((source, options))
        if isinstance(source, Path) and "bad" in source.name:
            raise UnsupportedMediaError("the bytes are\nnot media")
        return answer("stdin" if isinstance(source, bytes) else source.name if source else "words")


@pytest.fixture
def stub() -> StubAnalyzer:
    return StubAnalyzer()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    clips = tmp_path / "clips"
    (clips / "inner").mkdir(parents=True)
    for name in ("a.mp4", "bad.mp4", "inner/c.WAV", "notes.txt"):
        (clips / name).write_bytes(name.encode())
    return clips


def run(*args: object, stub: StubAnalyzer | None = None, **options):
    return runner.invoke(cli.app, [str(arg) for arg in args], obj=stub, **options)


# ---- one clip -------------------------------------------------------------------------------------------------------


def test_json_of_one_clip_is_one_object(stub, folder):
    result = run("analyze", folder / "a.mp4", "--json", stub=stub)
    assert result.exit_code == 0
    assert json.loads(result.stdout)["emotion"]["label"] == "sadness"
    assert stub.loaded == ("nano", None, "cpu")


def test_the_panel_shows_scores_timeline_evidence_and_reasons(stub, folder):
    result = run("analyze", folder / "a.mp4", stub=stub)
    assert result.exit_code == 0
    for text in ("appears sad  70%", "70.0%", "happiness 2.0-4.0 s", "[red]so it looks[/red]", "[bold]bored",
                 "the face appears sad", "also: grief", "voice not used", "! No voice was heard"):  # fmt: skip
        assert text in result.stdout, text


def test_the_panel_says_when_it_abstains_or_has_nothing():
    def text(analysis: Analysis) -> str:
        console = Console(file=io.StringIO(), width=100)
        console.print(render(analysis))
        return console.file.getvalue()  # type: ignore[attr-defined]

    assert "abstained" in text(answer(abstained=True))
    assert "nothing to judge" in text(answer(label=None))
    assert colour("Happy") == colour("happiness")
    assert colour("bored", ["tense", "bored"]) != colour("tense", ["tense", "bored"])


def test_options_reach_the_analyzer(stub, folder, tmp_path):
    words = tmp_path / "words.srt"
    words.write_text("1\n00:00:01,000 --> 00:00:02,000\noh no\n", encoding="utf-8")
    result = run(
        "analyze", folder / "a.mp4", "--transcript", words, "--labels", "Sad,happy", "--language", "en",
        "--model", "other", "--adapter", tmp_path, "--device", "cuda", "--asr", "whisper-base", "--json", stub=stub,
    )  # fmt: skip
    assert result.exit_code == 0
    ((source, options),) = stub.calls
    assert source == folder / "a.mp4"
    assert options["labels"] == ("Sad", "happy")
    assert options["transcript"].segments[0].start == 1.0
    assert options["asr"] == "whisper-base"
    assert stub.loaded == ("other", tmp_path, "cuda")


def test_words_alone_and_standard_input(stub):
    assert run("analyze", "--transcript", "I hate  this.", "--json", stub=stub).exit_code == 0
    assert stub.calls[0][0] is None
    assert stub.calls[0][1]["transcript"].text == "I hate this."
    result = run("analyze", "-", "--json", stub=stub, input=b"bytes of a clip")
    assert result.exit_code == 0
    assert stub.calls[1][0] == b"bytes of a clip"


@pytest.mark.parametrize("suffix", [".srt", ".vtt", ".csv", ".json"])
def test_the_timeline_can_be_written_beside_the_answer(stub, folder, tmp_path, suffix):
    target = tmp_path / f"timeline{suffix}"
    assert run("analyze", folder / "a.mp4", "--json", "--subtitles", target, stub=stub).exit_code == 0
    assert "sad" in target.read_text()


def test_csv_has_a_row_for_each_clip_and_its_scores(stub, folder):
    result = run("analyze", folder, "--csv", stub=stub)
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert result.exit_code == 1
    assert [row["label"] for row in rows] == ["sadness", "", "sadness"]
    assert rows[0]["score_happiness"] == "0.2"
    assert "not media" in rows[1]["error"]
    one = run("analyze", folder / "a.mp4", "--csv", stub=stub)
    assert one.stdout.count("\n") == 2


# ---- many clips -----------------------------------------------------------------------------------------------------


def test_a_folder_gives_a_line_a_clip_and_failures_do_not_stop_it(stub, folder):
    result = run("analyze", folder, "--json", stub=stub)
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.exit_code == 1
    assert [Path(row["path"]).name for row in rows] == ["a.mp4", "bad.mp4", "c.WAV"]
    assert rows[1]["error"] == {"type": "UnsupportedMediaError", "message": "the bytes are not media"}
    assert "1 of 3 clips failed" in result.stderr
    assert len({row["sha256"] for row in rows}) == 3


def test_several_files_without_json_print_panels(stub, folder):
    result = run("analyze", folder / "a.mp4", folder / "inner" / "c.WAV", stub=stub)
    assert result.exit_code == 0
    assert result.stdout.count("appears sad  70%") == 2


def test_an_interrupted_batch_goes_on_where_it_stopped(stub, folder, tmp_path):
    output = tmp_path / "answers.jsonl"
    assert run("analyze", folder / "a.mp4", "--output", output, stub=stub).exit_code == 0
    output.write_text(output.read_text() + '{"path": "cut o')
    assert run("analyze", folder, "--output", output, stub=stub).exit_code == 1
    assert [call[0].name for call in stub.calls] == ["a.mp4", "a.mp4", "bad.mp4", "c.WAV"][:1] + ["bad.mp4", "c.WAV"]
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert len(rows) == 3
    again = run("analyze", folder, "--output", output, stub=stub)
    assert again.exit_code == 1
    assert "0 new, 3 already there, 1 failed" in again.stderr
    assert len(stub.calls) == 3
    retried = run("analyze", folder, "--output", output, "--retry-failed", stub=stub)
    assert retried.exit_code == 1
    assert stub.calls[-1][0].name == "bad.mp4"
    assert len(output.read_text().splitlines()) == 3


def test_a_changed_file_of_the_same_name_is_analysed_again(stub, folder, tmp_path):
    output = tmp_path / "answers.jsonl"
    run("analyze", folder / "a.mp4", "--output", output, stub=stub)
    (folder / "a.mp4").write_bytes(b"another clip")
    run("analyze", folder / "a.mp4", "--output", output, stub=stub)
    assert len(stub.calls) == 2


def test_a_file_that_cannot_be_opened_is_a_row_too(stub, folder, monkeypatch):
    real = Path.open

    def refuse(self, *args, **options):
        if self.name == "a.mp4":
            raise PermissionError(13, "Permission denied")
        return real(self, *args, **options)

    monkeypatch.setattr(Path, "open", refuse)
    result = run("analyze", folder / "a.mp4", folder / "inner" / "c.WAV", "--json", stub=stub)
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.exit_code == 1
    assert "Permission denied" in rows[0]["error"]["message"]
    assert rows[1]["emotion"]["label"] == "sadness"


# ---- wrong input ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["{tmp}/none.mp4"], "does not exist"),
        ([], "no clip"),
        (["{tmp}"], "holds no media file"),
        (["{clip}", "--labels", "sad"], "labels holds 1 names"),
        (["{clip}", "--json", "--csv"], "exclude"),
        (["{clip}", "{clip2}", "--transcript", "hello there"], "belongs to one clip"),
        (["{clip}", "--transcript", "none.srt"], "not a file"),
        (["{clip}", "--transcript", "{latin}"], "is not UTF-8 text"),
        (["{clip}", "--output", "{tmp}/no/such.jsonl"], "does not exist"),
        (["{clip}", "--output", "{tmp}"], "is a folder"),
        (["{clip}", "--output", "{latin}"], "line 1 is not a row"),
        (["{clip}", "--retry-failed"], "needs --output"),
        (["{clip}", "--subtitles", "x.pdf"], "must end in"),
        (["{clip}", "--subtitles", "{tmp}/no/x.srt"], "does not exist"),
        (["{clip}", "{clip2}", "--subtitles", "x.srt"], "belongs to one clip"),
        (["{bad}"], "not media"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(stub, folder, tmp_path, args, message):
    empty = tmp_path / "empty"
    empty.mkdir()
    latin = tmp_path / "latin.txt"
    latin.write_bytes("caf\xe9\n".encode("latin-1") if "--transcript" in args else b"not json\n")
    places = {
        "{tmp}": empty, "{clip}": folder / "a.mp4", "{clip2}": folder / "inner" / "c.WAV", "{latin}": latin,
        "{bad}": folder / "bad.mp4",
    }  # fmt: skip
    for key, place in places.items():
        args = [arg.replace(key, str(place)) for arg in args]
    result = run("analyze", *args, stub=stub)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1


def test_ctrl_c_is_not_a_traceback(folder):
    class Interrupted(StubAnalyzer):
        def analyze(self, source, **options):
            raise KeyboardInterrupt

    result = run("analyze", folder / "a.mp4", stub=Interrupted())
    assert result.exit_code == 130
    assert "interrupted" in result.stderr


def test_a_transcript_is_text_or_a_file(tmp_path):
    assert cli.read_transcript(None) is None
    path = tmp_path / "words.txt"
    path.write_text("two\nlines", encoding="utf-8")
    transcript = cli.read_transcript(str(path), language="en")
    assert transcript is not None
    assert (transcript.text, transcript.language) == ("two lines", "en")


# ---- the rest -------------------------------------------------------------------------------------------------------


def test_version_and_models():
    assert run("--version").stdout.strip() == f"emollama {__version__}"
    assert "nano" in run("models").stdout
    rows = json.loads(run("models", "--json").stdout)
    assert [row["name"] for row in rows if row["embedded"]] == ["nano"]


def test_sub_commands_of_other_packages_are_imported_only_when_called(monkeypatch, tmp_path):
    module = tmp_path / "other_package_cli.py"
    module.write_text(
        "import typer\napp = typer.Typer()\n\n@app.command()\n"
        "def shine(times: int = 1):\n    typer.echo('shone ' * times)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    points = [
        EntryPoint(name="shine", value="other_package_cli:app", group=cli.GROUP),
        EntryPoint(name="serve", value="no_such_package_at_all:app", group=cli.GROUP),
    ]
    monkeypatch.setattr("importlib.metadata.entry_points", lambda *, group: points)
    listing = run("--help")
    assert "shine" in listing.stdout
    assert "Serve /analyze" in listing.stdout
    assert "other_package_cli" not in sys.modules
    assert run("shine", "--times", "2").stdout.strip() == "shone shone"
    missing = run("serve")
    assert missing.exit_code == 2
    assert "no_such_package_at_all" in missing.stderr
    assert run("nonsense").exit_code == 2


def test_asking_for_help_imports_nothing_heavy():
    code = (
        "import sys; sys.argv = ['emollama', '--help']\n"
        "from emollama.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "heavy = {'torch', 'numpy', 'av', 'cv2', 'transformers', 'scipy', 'server', 'train', 'eval', 'rich'}\n"
        "heavy &= set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "analyze" in result.stdout


def test_a_command_of_two_words_is_found_by_either_spelling():
    both = [runner.invoke(cli.app, [*words, "--help"]).output for words in (["bench", "train"], ["bench-train"])]
    assert "Trainer" in both[0]
    assert both[0].splitlines()[2:] == both[1].splitlines()[2:]
