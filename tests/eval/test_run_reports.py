"""The reports of a run: whole, self-contained, and safe whatever the data set's words are."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from emollama.errors import InputError
from eval.charts import confusion_svg, intervals_svg, reliability_svg
from eval.results import render_results
from eval.run import EvalOptions, evaluate
from eval.scoring import ScoreSettings
from tests.eval.toy import ToyModel, toy_task


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reports") / "run"
    model = ToyModel(name="<b>bold</b>", wrong=["clip01", "clip02"], fails=["clip03"], silent=["clip04"])
    task = toy_task(notes="Mind | the <gap>.")
    evaluate(task, model, path.parent, path, EvalOptions(score=ScoreSettings(num_resamples=30)))
    return path


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "br"):
            self.open.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_needs_nothing_else_and_is_well_formed(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    parser = _Parser()
    parser.feed(page)
    assert parser.open == []
    assert parser.links == []
    assert "url(" not in page
    assert "@import" not in page
    assert "prefers-color-scheme: dark" in page
    assert "<b>bold</b>" not in page
    assert "&lt;b&gt;bold&lt;/b&gt;" in page
    for key in (
        "figures",
        "counts",
        "published",
        "classes",
        "confusion",
        "reliability",
        "ablation",
        "errors",
        "origin",
    ):
        assert f'id="{key}"' in page, key
    drawings = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert len(drawings) == 4
    for drawing in drawings:
        ElementTree.fromstring(drawing)


def test_both_reports_say_the_official_figure_and_what_went_wrong(folder: Path) -> None:
    document = json.loads((folder / "result.json").read_text())
    figure = document["figures"]["waf"]
    wanted = f"{figure['value']:.4f} [{figure['low']:.4f}, {figure['high']:.4f}]"
    text = (folder / "report.md").read_text()
    page = (folder / "report.html").read_text()
    assert wanted in text
    assert wanted in page
    for said in ("the clip", "broke in two", "a paper (other split)", "Mind", "1 of 24 items failed"):
        assert said in text
        assert said in page
    assert "the clip \\| broke" in text  # a bar in a cell would end it


def test_plots_say_what_they_show() -> None:
    drawing = confusion_svg(["a", "b"], [[3, 1, 0], [0, 2, 0]])
    assert "a answered as b: 1 of 4" in drawing
    assert "no answer" not in drawing
    assert "no answer" in confusion_svg(["a", "b"], [[3, 1, 0], [0, 2, 1]])
    assert "not defined" in intervals_svg("t", [("x", None, None, None), ("y", -0.4, -0.5, -0.1)])
    assert "0.50 right, 4 of 4 answers" in reliability_svg([[None, None, 0], [0.9, 0.5, 4]])  # type: ignore[list-item]


def log(folder: Path, name: str, document: dict[str, object]) -> Path:
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"command": f"emollama eval {name}", "date": "2026-01-01", **document}))
    return path


def test_the_page_of_results_holds_the_figures_of_its_logs(folder: Path, tmp_path: Path) -> None:
    result = json.loads((folder / "result.json").read_text())
    run = log(tmp_path, "eval-toy", {"task": "toy", "result": result})
    part = log(tmp_path, "toy", {"task": "toy", "result": {"uar": 0.71234, "folds": {"03+08": 0.5}, "recordings": 9}})
    other = log(tmp_path, "composed", {"task": "composed", "result": {"accuracy": 0.61234}})
    text = render_results([run, part, other])
    assert f"{result['figures']['waf']['value']:.4f}" in text
    assert "emollama eval eval-toy" in text
    assert "| toy, speakers not heard |" in text
    assert text.index("0.7123") < text.index("Parts on their own") < text.index("0.6123")
    assert "(#toy--co)" in text
    with pytest.raises(InputError, match="no log of a run"):
        render_results([part])
    bad = tmp_path / "bad.json"
    bad.write_text("{}")
    with pytest.raises(InputError, match="no log of"):
        render_results([bad])


def test_the_published_page_of_results_is_what_its_logs_give() -> None:
    docs = Path(__file__).parents[2] / "docs"
    logs = [*sorted((docs / "logs").glob("eval-*.json"))]
    logs += [docs / "logs" / f"{name}.json" for name in ("ferplus", "emodb", "goemotions", "composed")]
    assert (docs / "results.md").read_text(encoding="utf-8") == render_results(logs)
