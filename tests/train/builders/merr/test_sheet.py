import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from emollama.errors import DatasetError
from emollama.manifest import Manifest, Sample, read_manifest
from train.builders.merr.corrections import apply_corrections, texts_sha256
from train.builders.merr.export import export
from train.builders.merr.observation import Curve, Observation
from train.builders.merr.rules import RulesFile
from train.builders.merr.sheet import write_sheet
from train.builders.merr.state import Record, RunFolder, row_sha256

Seen = Callable[..., Observation]


class Page(HTMLParser):
    """Tags with their attributes, and the text of every textarea."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self._open: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "textarea":
            self._open = dict(attrs)["id"] or ""
            self.texts[self._open] = ""

    def handle_endtag(self, tag: str) -> None:
        if tag == "textarea":
            self._open = None

    def handle_data(self, data: str) -> None:
        if self._open is not None:
            self.texts[self._open] += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def made(tmp_path: Path, seen: Seen, good: str) -> tuple[Manifest, RunFolder]:
    """A run of three finished samples (one without an explanation) and a dropped one."""
    samples = tuple(Sample(id=name, clip=f"{name}.mp4") for name in ("a", "b<i>", "c", "d"))
    run = RunFolder(tmp_path / "m.build")
    for sample in samples:
        record = Record(id=sample.id, row_sha256=row_sha256(sample), stage="done", observation=seen(voice="sadness"))
        record.fields = {
            "coarse": "The brows are knitted & low.", "coarse_question": "What is seen?",
            "fine": good.replace("its", f"its {ord(sample.id[0])}th"), "fine_question": "Why?",
        }  # fmt: skip
        record.provenance = {"fine": {"writer": "nano", "model": "nano", "attempt": 1}}
        record.match = {"kept": True, "code": "x", "reason": "because <b>"}
        if sample.id == "a":
            record.picture = run.save_picture("a", b"\xff\xd8 jpeg")
            curve = Curve(times=(0.0, 1.0, 2.0, 3.0), values=(100.0, None, 120.0, 90.0))
            record.observation = seen(voice="sadness", curves={"pitch": curve, "face": curve})
        if sample.id == "c":
            del record.fields["fine"]
            record.code, record.reason = "explanation_rejected", "none passed"
        if sample.id == "d":
            record.stage, record.code, record.reason = "dropped", "no_rule", "x"
        run.save(record)
    return Manifest(path=tmp_path / "m.jsonl", samples=samples), run


def test_the_sheet_holds_everything_and_asks_for_nothing(made: Any, tmp_path: Path) -> None:
    sheet = write_sheet(tmp_path / "review.html", *made)
    assert (sheet.shown, sheet.of) == (3, 3)
    text = sheet.path.read_text()
    page = Page(text)
    cards = page.of("article")
    assert {card["data-id"] for card in cards} == {"a", "b<i>", "c"}
    number = [card["data-id"] for card in cards].index("b<i>") + 1
    assert page.texts[f"c{number}"] == "The brows are knitted & low."
    assert page.texts[f"f{number}"].startswith("The person appears sad.")
    assert "because &lt;b&gt;" in text
    # nothing is fetched: no address but inline data, and a policy that forbids any
    assert not re.search(r"(?:https?:)?//[a-z]", re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL))
    assert [meta for meta in page.of("meta") if "default-src 'none'" in (meta.get("content") or "")]
    assert not page.of("link")
    (image,) = page.of("img")
    assert (image["src"] or "").startswith("data:image/jpeg;base64,")
    assert image["alt"]
    (plot,) = page.of("svg")
    assert plot["aria-label"] == "Over time: face, pitch"
    # the unvoiced frame breaks the curve in two
    pitch = next(a["d"] for a in page.of("path") if a.get("class") == "pitch")
    assert (pitch or "").count("M") == 2


def test_every_field_has_a_label(made: Any, tmp_path: Path) -> None:
    page = Page(write_sheet(tmp_path / "review.html", *made).path.read_text())
    labelled = {label["for"] for label in page.of("label") if "for" in label}
    fields = {area["id"] for area in page.of("textarea")}
    fields |= {field["id"] for field in page.of("input") if field.get("type") == "text"}
    assert fields == labelled
    headings = {heading["id"] for heading in page.of("h2")}
    assert {card["aria-labelledby"] for card in page.of("article")} == headings


def test_the_sample_is_drawn_by_the_seed(made: Any, tmp_path: Path) -> None:
    def drawn(seed: int) -> list[str | None]:
        sheet = write_sheet(tmp_path / "r.html", *made, count=1, seed=seed)
        return [card["data-id"] for card in Page(sheet.path.read_text()).of("article")]

    assert drawn(1) == drawn(1)
    assert len({tuple(drawn(seed)) for seed in range(12)}) > 1
    with pytest.raises(DatasetError, match="no finished sample"):
        write_sheet(tmp_path / "r.html", made[0], RunFolder(tmp_path / "none"))


def corrections(tmp_path: Path, run: RunFolder, *entries: dict[str, Any]) -> Path:
    path = tmp_path / "corrections.json"
    rows = [{"texts_sha256": texts_sha256(run.load_id(e["id"]) or _none()), **e} for e in entries]
    path.write_text(json.dumps({"corrections_format": 1, "corrections": rows}))
    return path


def _none() -> Record:
    return Record(id="", row_sha256="", stage="done", fields={"coarse": "", "fine": ""})


def test_corrections_reach_the_manifest(made: Any, tmp_path: Path, rules: RulesFile, good: str) -> None:
    manifest, run = made
    path = corrections(
        tmp_path, run,
        {"id": "a", "decision": "accept", "coarse": "The brows are  knitted."},
        {"id": "b<i>", "decision": "reject", "note": "not the main face"},
        {"id": "c", "decision": "accept", "fine": good},
    )  # fmt: skip
    applied = apply_corrections(path, manifest, run, rules=rules)
    assert (applied.accepted, applied.edited, applied.rejected) == (2, 2, 1)
    # the clip has a voice, and the text of c says that it has none
    assert all(warning.startswith("c, fine:") for warning in applied.warnings)
    done = export(manifest, run)
    assert (done.kept, done.explained, done.dropped) == (2, 2, 2)
    rows = {row.id: row for row in read_manifest(tmp_path / "m.instructions.jsonl").samples}
    assert set(rows) == {"a.coarse", "a.fine", "c.coarse", "c.fine"}
    assert rows["a.coarse"].messages is not None
    assert rows["a.coarse"].messages[1].content == "The brows are knitted."
    assert rows["c.fine"].messages is not None
    assert rows["c.fine"].messages[1].content == good
    assert rows["a.coarse"].meta is not None
    assert rows["a.coarse"].meta["reviewed"] is True
    dropped = [json.loads(line) for line in (run.path / "dropped.jsonl").read_text().splitlines()]
    assert ("b<i>", "rejected_in_review", "not the main face") in [(d["id"], d["code"], d["reason"]) for d in dropped]
    by = run.load_id("a").provenance["coarse"]
    assert (by["by"], by["before"]["text"]) == ("review", "The brows are knitted & low.")
    # the same file once more changes nothing
    again = apply_corrections(path, manifest, run, rules=rules)
    assert (again.accepted, again.edited, again.rejected) == (2, 0, 1)
    assert run.load_id("a").provenance["coarse"] == by


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ([{"id": "a", "decision": "accept"}, {"id": "x", "decision": "accept"}], "'x' has no texts"),
        ([{"id": "a", "decision": "accept"}, {"id": "d", "decision": "accept"}], "'d' has no texts"),
        ([{"id": "a", "decision": "accept"}, {"id": "a", "decision": "reject"}], "'a' stands twice"),
        ([{"id": "a", "decision": "reject"}, {"id": "c", "decision": "accept", "texts_sha256": "0" * 64}], "changed"),
        ([{"id": "a", "decision": "maybe"}], "decision"),
        ([{"id": "a", "decision": "accept", "fine": "  "}], "fine is blank"),
        ([{"id": "a", "decision": "accept", "coarser": "x"}], "coarser"),
    ],
)
def test_a_wrong_file_changes_nothing(
    made: Any, tmp_path: Path, rules: RulesFile, entries: list[dict[str, Any]], said: str
) -> None:
    manifest, run = made
    path = corrections(tmp_path, run, *entries)
    with pytest.raises(DatasetError) as raised:
        apply_corrections(path, manifest, run, rules=rules)
    assert said in str(raised.value)
    assert run.load_id("a").review is None
