"""Reports say what the analysis says, in every format, and let nothing that a caller named become markup."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from emollama.cli import app
from emollama.disclosure import NOTES
from emollama.errors import InputError, UndecodableMediaError
from emollama.reports import FORMATS, SUMMARY_FORMATS, write_report, write_summary
from emollama.reports.charts import colour
from emollama.reports.folder import folder_summary
from emollama.reports.summary import Failure, summary_of
from emollama.subtitles import read_subtitles

SCORES = {"sadness": 0.7, "happiness": 0.2, "<b>bored</b>": 0.1}


def analysis(**changes: Any) -> dict[str, Any]:
    document: dict[str, Any] = {
        "id": "ana_1", "model": "nano", "adapter": None, "created": 1_790_000_000, "clip": "a <script>.mp4",
        "seconds": 4.0, "emotion": {"label": "sadness", "confidence": 0.7, "abstained": False, "scores": SCORES},
        "open_vocabulary": ["grief"], "valence": -0.5, "arousal": 0.1, "affect_source": "face",
        "rationale": "The person appears sad & tired.",
        "evidence": {
            "visual": [
                {"start": 2.0, "end": 4.0, "cue": "the face appears happy", "reading": "r", "value": 0.81,
                 "supports": "happiness", "track": 0},
                {"start": 0.0, "end": 2.0, "cue": "the face appears sad", "reading": "r", "value": 0.9,
                 "supports": "sadness", "track": 0},
            ],
            "audio": [], "text": [],
        },
        "transcript": {"text": "今天很难过 Привет", "language": None, "segments": [], "source": "given"},
        "timeline": [
            {"start": 0.0, "end": 2.0, "label": "sadness", "scores": {"sadness": 0.8}, "valence": -0.5,
             "arousal": 0.0, "track": 0},
            {"start": 2.0, "end": 4.0, "label": "happiness", "scores": {"happiness": 0.9}, "valence": 0.6,
             "arousal": 0.2, "track": 0},
        ],
        "faces": [],
        "modalities": {"visual": {"used": True, "frames": 20, "faces": 1},
                       "audio": {"used": False, "seconds": 0.0, "voiced_seconds": 0.0},
                       "text": {"used": True, "source": "given"}},
        "warnings": ["No voice was heard."], "timings_ms": {}, "schema_version": "1.0",
    }  # fmt: skip
    return {**document, **changes}


def text_of(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<svg.*?</svg>|<style>.*?</style>|<[^>]+>", " ", page, flags=re.S))


def test_the_page_tells_the_turn_in_order_and_what_it_rests_on() -> None:
    page = write_report(analysis(), "html").decode()
    told = text_of(page)
    assert "appears sad confidence 70%" in told
    assert told.index("0.0 to 2.0 face 0 sadness 80% -0.50 +0.00") < told.index("2.0 to 4.0 face 0 happiness 90%")
    assert told.index("0.0 to 2.0 Face the face appears sad 0.90") < told.index(
        "2.0 to 4.0 Face the face appears happy"
    )
    assert "今天很难过" in told
    assert "No voice was heard." in told
    assert "ana_1" in told
    assert all(note in told for note in NOTES)
    # Both stretches are drawn, in their own colours.
    assert colour("sadness") in page
    assert colour("happiness") in page


def test_what_a_caller_named_is_text_and_the_page_asks_nobody() -> None:
    page = write_report(analysis(), "html").decode()
    assert "<script" not in page
    assert "<b>bored" not in page
    assert "a &lt;script&gt;.mp4" in page
    assert "sad &amp; tired" in page
    drawn = re.sub(r"""\sxmlns(:\w+)?="[^"]*"|<metadata>.*?</metadata>""", "", page, flags=re.S)
    assert not re.search(r"https?://|//[a-z]|url\((?!#)|xlink:href=.[^#]", drawn)


def test_an_abstained_and_an_empty_reading_are_said_to_be_so() -> None:
    unsure = {"label": "sadness", "confidence": 0.3, "abstained": True, "scores": SCORES}
    assert (
        "Abstained: the reading is too unsure to be claimed." in write_report(analysis(emotion=unsure), "html").decode()
    )
    nothing = {"label": None, "confidence": 0.0, "abstained": True, "scores": {"sadness": 0.5, "happiness": 0.5}}
    page = write_report(analysis(emotion=nothing, timeline=[], valence=None, arousal=None), "html").decode()
    assert "nothing to judge" in page
    assert "Over time" not in page
    assert "50.0%" not in page
    assert "Valence / arousal" not in page


@pytest.mark.parametrize("name", FORMATS)
def test_the_same_analysis_gives_the_same_bytes(name: str) -> None:
    assert write_report(analysis(), name) == write_report(analysis(), name)


def test_the_table_and_the_subtitles_hold_the_timeline() -> None:
    rows = list(csv.DictReader(io.StringIO(write_report(analysis(), "csv").decode())))
    assert [(row["start"], row["label"]) for row in rows] == [("0.0", "sadness"), ("2.0", "happiness")]
    for name in ("srt", "vtt"):
        cues = read_subtitles(write_report(analysis(), name).decode()).segments
        assert [(cue.start, cue.end, cue.text) for cue in cues] == [
            (0.0, 2.0, "face 0: appears sad (80%)"), (2.0, 4.0, "face 0: appears happy (90%)"),
        ]  # fmt: skip


def test_the_document_has_the_words_and_the_fonts_for_them() -> None:
    pdf = write_report(analysis(), "pdf")
    assert pdf.startswith(b"%PDF-")
    assert pdf.rstrip().endswith(b"%%EOF")
    assert b"DejaVuSans" in pdf
    assert b"/JavaScript" not in pdf
    assert b"/URI" not in pdf
    long = analysis(timeline=analysis()["timeline"] * 30)
    assert pages(write_report(long, "pdf")) > pages(pdf) >= 1


def pages(pdf: bytes) -> int:
    return len(re.findall(rb"/Type /Page\b", pdf))


def test_a_long_clip_is_told_by_its_chapters() -> None:
    chapters = [{"start": 0.0, "end": 700.0, "label": "sadness", "scores": {"sadness": 0.6}, "valence": None,
                 "arousal": None}]  # fmt: skip
    told = text_of(write_report(analysis(seconds=700.0, chapters=chapters), "html").decode())
    assert "Length 11:40" in told
    assert "0.0 to 700.0 all sadness 60%" in told


def test_what_is_no_analysis_is_refused_by_what_it_lacks() -> None:
    with pytest.raises(InputError, match=r"lacks clip, seconds, emotion.*rationale"):
        write_report({"object": "analysis"}, "html")
    with pytest.raises(InputError, match="format is 'docx'; allowed: html, pdf, csv, srt, vtt"):
        write_report(analysis(), "docx")


# ---- folders and the command --------------------------------------------------------------------------------------


def fill(folder: Path) -> None:
    def line(name: str, label: str, **more: Any) -> str:
        emotion = {"label": label, "confidence": 0.6, "abstained": False, "scores": {label: 0.6}, **more}
        return json.dumps({"id": name, "path": f"{name}.mp4", **analysis(emotion=emotion)})

    rows = [line("a", "sadness"), line("b", "sadness"), line("c", "happiness"), line("d", "anger", abstained=True)]
    (folder / "results.jsonl").write_text("\n".join(rows) + "\n" + rows[0][:40])  # the last line is being written
    error = {"type": "UndecodableMediaError", "message": "no <picture>"}
    (folder / "errors.jsonl").write_text(json.dumps({"id": "e", "path": "e.mp4", "error": error}) + "\n")


def test_a_folder_is_summed_up_and_an_abstained_clip_is_not_counted(tmp_path: Path) -> None:
    fill(tmp_path)
    told = text_of(write_summary(folder_summary(tmp_path), "html").decode())
    assert "in 4 clips appear; 1 more could not be read" in told
    assert "sadness 2 67%" in told
    assert "happiness 1 33%" in told
    assert "anger 1" not in told
    assert "1 of 4: too unsure" in told
    assert "anger, 60% (abstained)" not in told
    assert "appears angry, 60% (abstained)" in told
    assert "e.mp4 UndecodableMediaError no &lt;picture&gt;" in told


def test_many_clips_stand_in_every_format_and_no_name_becomes_a_formula() -> None:
    failures = [Failure(id="2", clip="=cmd()", error="MediaLimitError", message="too long")]
    summary = summary_of([analysis(clip="@a.mp4"), analysis()], failures, title="case 17 今")
    rows = list(csv.DictReader(io.StringIO(write_summary(summary, "csv").decode())))
    assert [row["clip"] for row in rows] == ["'@a.mp4", "a <script>.mp4", "'=cmd()"]
    assert [(row["label"], row["valence"], row["error"]) for row in rows] == [
        ("sadness", "-0.5", ""), ("sadness", "-0.5", ""), ("", "", "MediaLimitError: too long"),
    ]  # fmt: skip
    pdf = write_summary(summary, "pdf")
    assert pages(pdf) >= 1
    assert pages(write_summary(summary_of([analysis()] * 200, title="many"), "pdf")) > pages(pdf)
    assert "<script" not in write_summary(summary, "html").decode()
    assert all(write_summary(summary, name) == write_summary(summary, name) for name in SUMMARY_FORMATS)
    with pytest.raises(InputError, match="format is 'srt'; allowed for many clips: html, pdf, csv"):
        write_summary(summary, "srt")
    with pytest.raises(InputError, match="this is not an analysis: it lacks 'emotion'"):
        summary_of([{"id": "a"}], title="x")
    assert "0 clips" in write_summary(summary_of([], title="none"), "html").decode()
    assert pages(write_summary(summary_of([], title="none"), "pdf")) == 1


def test_a_folder_becomes_page_document_and_table_at_once(tmp_path: Path) -> None:
    (tmp_path / "answers").mkdir()
    fill(tmp_path / "answers")
    given = ["report", str(tmp_path / "answers"), "--out", str(tmp_path)]
    answer = CliRunner().invoke(app, [*given, "--html", "--pdf", "--csv"])
    assert answer.exit_code == 0, answer.output
    assert sorted(p.name for p in tmp_path.iterdir()) == ["answers", "answers.csv", "answers.html", "answers.pdf"]
    wrong = CliRunner().invoke(app, [*given, "--srt"])
    assert wrong.exit_code == 2
    assert "what can be written of a folder of answers: --html, --pdf, --csv" in wrong.output


def test_the_command_writes_what_is_asked_for_and_replaces_nothing_unasked(tmp_path: Path) -> None:
    (tmp_path / "talk.json").write_text(json.dumps(analysis()))
    run = CliRunner().invoke
    given = ["report", str(tmp_path / "talk.json"), "--out", str(tmp_path)]
    answer = run(app, [*given, "--html", "--srt"])
    assert answer.exit_code == 0, answer.output
    assert answer.output.split() == [str(tmp_path / "talk.html"), str(tmp_path / "talk.srt")]
    assert (tmp_path / "talk.html").read_bytes() == write_report(analysis(), "html")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["talk.html", "talk.json", "talk.srt"]
    again = run(app, given)
    assert again.exit_code == 2
    assert "talk.html is there already; --overwrite replaces it" in again.output
    assert run(app, [*given, "--overwrite"]).exit_code == 0


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--blur"], "--blur, --no-marks and --voice belong to --video"),
        (["--video"], "--video wants the clip itself, not its analysis"),
        (["--out", "nowhere"], "--out: the folder nowhere does not exist"),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path: Path, options: list[str], told: str) -> None:
    (tmp_path / "talk.json").write_text(json.dumps(analysis()))
    answer = CliRunner().invoke(app, ["report", str(tmp_path / "talk.json"), *options])
    assert answer.exit_code == 2
    assert told in answer.output


def test_a_folder_without_a_clip_is_refused(tmp_path: Path) -> None:
    answer = CliRunner().invoke(app, ["report", str(tmp_path), "--out", str(tmp_path)])
    assert answer.exit_code == 2
    assert "holds no media file" in answer.output


class Reading:
    """Stands for a loaded analyzer: one analysis for every clip, but for those that it cannot read."""

    def __init__(self, bad: str = "") -> None:
        self.bad, self.seen = bad, list[str]()

    def analyze(self, source: Path, **options: Any) -> Any:
        self.seen.append(source.name)
        if source.name == self.bad:
            raise UndecodableMediaError(f"{source.name} is no clip")
        return SimpleNamespace(to_json_dict=lambda: analysis(clip=source.name))


def test_a_folder_of_clips_is_gone_through_past_a_bad_one_and_gone_on_with(media: Any, tmp_path: Path) -> None:
    clips, out = tmp_path / "clips", tmp_path / "out"
    (clips / "day 2").mkdir(parents=True)
    out.mkdir()
    for place in ("b.wav", "b.mp3", "day 2/a.wav"):
        media.wav(clips / place)
    reading = Reading(bad="b.wav")
    loaded: list[str] = []

    def load(model: str, **_: Any) -> Reading:
        loaded.append(model)
        return reading

    run = CliRunner().invoke
    given = ["report", str(clips), "--out", str(out), "--html", "--csv"]
    first = run(app, given, obj=load)
    assert first.exit_code == 1
    assert "b.wav is no clip" in first.output
    assert "2 clips reported, 0 already there, 1 failed" in first.output
    written = sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_file())
    assert written == ["b.mp3.csv", "b.mp3.html", "day 2/a.wav.csv", "day 2/a.wav.html"]
    (out / "b.mp3.html").unlink()  # a run that was ended between two files
    reading.bad, reading.seen = "", []
    again = run(app, given, obj=load)
    assert again.exit_code == 0, again.output
    assert "2 clips reported, 1 already there, 0 failed" in again.output
    assert reading.seen == ["b.mp3", "b.wav"]
    assert loaded == ["nano", "nano"], "once a run"
    reading.seen = []
    run(app, given, obj=load)
    assert (reading.seen, loaded) == ([], ["nano", "nano"]), "where nothing is left to do, no model is loaded"
    assert run(app, [*given, "--overwrite"], obj=load).exit_code == 0
    assert len(reading.seen) == 3


def test_words_of_one_clip_are_not_those_of_a_folder(media: Any, tmp_path: Path) -> None:
    media.wav(tmp_path / "a.wav")
    answer = CliRunner().invoke(app, ["report", str(tmp_path), "--out", str(tmp_path), "--transcript", "so it is"])
    assert answer.exit_code == 2
    assert "--transcript belongs to one clip" in answer.output
