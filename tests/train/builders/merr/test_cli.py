"""The command line with nano itself: on words, on the bundled clip, and on real clips where they lie beside."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from emollama.checkpoint import ASSETS
from emollama.manifest import Sample, read_manifest, write_manifest
from train.builders.merr.cli import app

SAMPLE_CLIP = ASSETS / "sample" / "sample.mp4"
CLIPS = Path(__file__).resolve().parents[5] / "shared" / "clips"
WORDS = {
    "angry": "I am so furious about this mess, I hate it!",
    "happy": "What a wonderful day, I am so happy and I love it!",
}

pytestmark = pytest.mark.skipif(not (ASSETS / "nano" / "backbone").exists(), reason="nano's weights are not built yet")


def call(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


@pytest.fixture
def words(tmp_path: Path) -> Path:
    path = tmp_path / "words.jsonl"
    write_manifest(path, [Sample(id=label, transcript=text, label=label) for label, text in WORDS.items()])
    return path


def explain(body: dict[str, Any], completion: Any) -> Any:
    label = re.search(r"^Label: (\w+)$", body["messages"][1]["content"], re.MULTILINE)
    assert label is not None
    quote = {"angry": "furious about this mess", "happy": "a wonderful day"}[label[1]]
    text = (
        f'The person appears {label[1]}. What was said carries it: "{quote}" leaves little doubt, and nothing else in '
        "what was said speaks against it. There was no face to look at and no voice to listen to."
    )
    return completion(text)


def test_with_an_endpoint_from_plan_to_review(words: Path, endpoint: Any, completion: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url)
    monkeypatch.setenv("OPENAI_API_KEY", "secret-key")
    endpoint.reply = lambda body, n: (200, {}, explain(body, completion))
    options = ("--writer", "endpoint", "--model", "m")
    plan = call("plan", words, *options, "--prompt-price", 1, "--answer-price", 2)
    assert re.search(r"requests +2 to 6", plan.output)
    assert "in the currency of the prices" in plan.output
    assert "confirm with --yes" in call("run", words, *options, code=2).output
    assert not endpoint.bodies
    done = call("run", words, *options, "--yes")
    assert "2 kept (2 explained), 0 dropped, 0 failed" in done.output
    assert len(endpoint.bodies) == 2
    rows = read_manifest(words.with_name("words.instructions.jsonl")).samples
    assert [row.id for row in rows] == ["angry.coarse", "angry.fine", "happy.coarse", "happy.fine"]
    assert rows[1].messages is not None
    assert "“furious about this mess”" in rows[1].messages[1].content
    # nothing left to ask, so nothing to confirm
    assert "2 samples, 2 finished, 0 to do" in call("run", words, *options).output
    assert len(endpoint.bodies) == 2
    assert "was begun with other values of seed" in call("run", words, *options, "--seed", 1, "--yes", code=2).output
    run = words.with_name("words.build")
    assert not [file for file in run.rglob("*") if file.is_file() and b"secret-key" in file.read_bytes()]
    report = json.loads((run / "report.json").read_text())
    assert (report["kept"], report["labels"]) == (2, {"angry": 1, "happy": 1})

    assert "2 of 2 samples" in call("review", words).output
    sheet = (run / "review.html").read_text()
    sha256 = re.search(r'data-id="happy" data-sha256="(\w+)"', sheet)
    assert sha256 is not None
    corrections = words.with_name("corrections.json")
    entry = {"id": "happy", "texts_sha256": sha256[1], "decision": "reject"}
    corrections.write_text(json.dumps({"corrections_format": 1, "corrections": [entry]}))
    assert "0 accepted (0 edited), 1 rejected" in call("apply", words, corrections).output
    rows = read_manifest(words.with_name("words.instructions.jsonl")).samples
    assert [row.id for row in rows] == ["angry.coarse", "angry.fine"]


def test_a_dry_run_sends_and_writes_nothing(words: Path, endpoint: Any) -> None:
    before = sorted(words.parent.rglob("*"))
    shown = call(
        "run", words, "--writer", "endpoint", "--model", "m", "--base-url", endpoint.url, "--dry-run", "--limit", 1
    ).output
    assert "Label: angry" in shown
    assert "Label: happy" not in shown
    assert "nothing was sent" in shown
    assert not endpoint.bodies
    assert sorted(words.parent.rglob("*")) == before


def test_wrong_arguments_are_said_in_one_line(words: Path, monkeypatch: Any) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    assert "its URL or model is not given" in call("run", words, "--writer", "endpoint", code=2).output
    assert "known: endpoint, nano" in call("run", words, "--writer", "gpt", code=2).output
    assert "allowed: a JSON object" in call("run", words, "--body", "[1]", code=2).output
    assert "match is 'some'" in call("run", words, "--match", "some", code=2).output
    assert "is no folder" in call("run", words, "--openface", words, code=2).output
    assert "none.jsonl is not there" in call("plan", words.with_name("none.jsonl"), code=2).output
    assert "no finished sample" in call("review", words, code=2).output


def test_a_folder_with_the_bundled_clip(tmp_path: Path, openface: Any) -> None:
    folder = tmp_path / "clips"
    folder.mkdir()
    shutil.copy(SAMPLE_CLIP, folder / "smile.mp4")
    (folder / "broken.mp4").write_bytes(b"\x00\x00\x00\x18ftypisom" + bytes(40))
    openface(tmp_path / "units" / "smile.csv", active={"06": 2.5, "12": 3.0}, seconds=6.0, peak=4.0)
    done = call("run", folder, "--openface", tmp_path / "units", "--min-confidence", 0.3, code=1)
    assert "1 kept (1 explained), 0 dropped, 1 failed" in done.output
    assert "1 unreadable" in done.output
    coarse, fine = read_manifest(folder / "manifest.instructions.jsonl").samples
    assert (coarse.id, coarse.clip, coarse.label) == ("smile.mp4.coarse", "smile.mp4", "happiness")
    assert coarse.messages is not None
    assert fine.messages is not None
    assert "4.0 s" in coarse.messages[1].content
    assert re.search("mouth|smile", coarse.messages[1].content)
    assert "appears happy" in fine.messages[1].content
    # the pictures of the run do not become clips of the next
    again = call("run", folder, "--openface", tmp_path / "units", "--min-confidence", 0.3, code=1)
    assert "2 samples, 1 finished, 1 to do" in again.output
    sheet = call("review", folder)
    assert "1 of 1 samples" in sheet.output
    html = (tmp_path / "clips.build" / "review.html").read_text()
    assert "Over time: face, pitch, loudness" in html
    assert "AU12 3.0" in html


@pytest.mark.shared_data
def test_real_clips(tmp_path: Path) -> None:
    names = ("WolfgangLanger_Pexels.mp4", "single_face.mp4", "no_face.mp4")
    if not all((CLIPS / name).is_file() for name in names):
        pytest.skip(f"the real clips are not in {CLIPS}")
    for name in names:
        shutil.copy(CLIPS / name, tmp_path / name)
    tears, smile, nobody = names
    rows = [
        Sample(id="tears", clip=tears, start=0.0, end=9.0, label="sad"),
        Sample(id="joy", clip=tears, start=9.5, end=19.5),
        Sample(id="mislabelled", clip=tears, start=9.5, end=19.5, label="anger"),
        Sample(id="smile", clip=smile),
        Sample(id="nobody", clip=nobody),
    ]
    write_manifest(tmp_path / "real.jsonl", rows)
    call("run", tmp_path / "real.jsonl")
    built = {row.id: row for row in read_manifest(tmp_path / "real.instructions.jsonl").samples}
    assert set(built) == {f"{name}.{grain}" for name in ("tears", "joy", "smile") for grain in ("coarse", "fine")}
    assert [built[f"{name}.fine"].label for name in ("tears", "joy", "smile")] == ["sad", "happiness", "happiness"]
    for row in built.values():
        assert row.messages is not None
        text = row.messages[1].content
        # the sound track of the first clip is silence, and nobody gave words
        assert not re.search(r"voice (?:is|,)|sounds|“", text), text
    dropped = [json.loads(line) for line in (tmp_path / "real.build" / "dropped.jsonl").read_text().splitlines()]
    assert {row["id"]: row["code"] for row in dropped} == {
        "mislabelled": "expression_differs",
        "nobody": "nothing_to_judge",
    }
    assert len(list((tmp_path / "real.build" / "pictures").iterdir())) == 4
