"""A folder of answers: each clip once, resumed to the same end, refused when it is another run."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from emollama.batch.folder import cut_torn_line, file_name
from emollama.batch.progress import State
from emollama.batch.run import RunOptions, Shard, run_batch
from emollama.batch.sources import read_source
from emollama.batch.workers import InProcess
from emollama.errors import DatasetError, InputError
from tests.emollama.batch.fakes import worked_on


def run(labelling, source: Path, out: Path, *, stop_after: int | None = None, **options):
    """Run in this process; with ``stop_after`` as if interrupted once so many clips are finished."""
    finished = []

    class Counting:
        def show(self, state: State) -> None:
            finished[:] = [state.done + state.failed]

        def close(self) -> None: ...

    def stopped() -> bool:
        return stop_after is not None and finished[0] >= stop_after

    return run_batch(
        read_source(source), out, labelling, lambda: InProcess(labelling), options=RunOptions(**options),
        command="emollama batch", progress=Counting(), stopped=stopped,
    )  # fmt: skip


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def contents(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8")
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("run.json", ".lock")
    }


@pytest.fixture
def folder(clips):
    return clips(a="one", b="bad", c="two", d="one", e="three", f="bad", g="four")


def test_every_clip_has_one_line_in_the_order_of_the_list(labelling, folder, tmp_path):
    out = tmp_path / "out"
    summary = run(labelling, folder, out, tables=("csv", "parquet"))
    assert (summary.done, summary.failed, summary.left, summary.num_copied) == (5, 2, 0, 2)
    assert summary.failures == {"UnsupportedMediaError": 2}
    results, errors = lines(out / "results.jsonl"), lines(out / "errors.jsonl")
    assert [line["id"] for line in results] == ["a.mp4", "c.mp4", "d.mp4", "e.mp4", "g.mp4"]
    assert [line["id"] for line in errors] == ["b.mp4", "f.mp4"]
    assert worked_on(labelling) == ["a.mp4", "b.mp4", "c.mp4", "e.mp4", "g.mp4"]  # d is a, f is b
    assert results[2]["duplicate_of"] == "a.mp4"
    assert results[2]["clip"] == "d.mp4"
    assert results[2]["emotion"] == results[0]["emotion"]
    assert errors[1]["error"] == errors[0]["error"]
    told = json.loads((out / "run.json").read_text())
    assert told["counts"] == {"items": 7, "done": 5, "failed": 2, "left": 0}
    assert told["source"]["num_items"] == 7
    (session,) = told["sessions"]
    assert (session["outcome"], session["num_new"], session["num_copied"]) == ("finished", 7, 2)
    assert session["versions"]["emollama"]


def test_the_tables_have_a_row_a_clip(labelling, folder, tmp_path):
    out = tmp_path / "out"
    run(labelling, folder, out, tables=("csv", "parquet"))
    with (out / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == [f"{name}.mp4" for name in "abcdefg"]
    assert rows[0]["label"] == "sadness"
    assert rows[0]["open_vocabulary"] == "grief, loss"
    assert float(rows[0]["score_sadness"]) + float(rows[0]["score_happiness"]) == pytest.approx(1)
    assert (rows[0]["abstained"], rows[0]["face"], rows[0]["arousal"], rows[0]["error"]) == ("false", "true", "", "")
    assert (rows[1]["label"], rows[1]["score_sadness"]) == ("", "")
    assert rows[1]["error"] == "UnsupportedMediaError: this looks like text"
    table = pq.read_table(out / "results.parquet").to_pylist()
    assert [row["id"] for row in table] == [row["id"] for row in rows]
    assert table[3]["duplicate_of"] == "a.mp4"
    assert table[0]["score_sadness"] == float(rows[0]["score_sadness"])
    assert (table[1]["confidence"], table[0]["abstained"]) == (None, False)


@pytest.mark.parametrize("stop_after", range(1, 7))
def test_a_run_that_was_stopped_ends_as_one_that_was_not(labelling, folder, tmp_path, stop_after):
    whole, halted = tmp_path / "whole", tmp_path / "halted"
    run(replace(labelling, timelines="srt"), folder, whole)
    Path(labelling.log).unlink()
    first = run(replace(labelling, timelines="srt"), folder, halted, stop_after=stop_after)
    assert first.ended == "interrupted"
    assert first.left == 7 - stop_after
    second = run(replace(labelling, timelines="srt"), folder, halted)
    assert second.ended == "finished"
    assert second.num_new == 7 - stop_after
    assert contents(halted) == contents(whole)
    assert len(worked_on(labelling)) == len(set(worked_on(labelling))) == 5
    assert sum("timelines/" in name for name in contents(whole)) == 5
    sessions = json.loads((halted / "run.json").read_text())["sessions"]
    assert [session["outcome"] for session in sessions] == ["interrupted", "finished"]


@pytest.mark.parametrize("cut", [1, 20, 10_000])
def test_a_line_that_was_cut_short_is_done_again(labelling, folder, tmp_path, cut):
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    run(labelling, folder, whole)
    run(labelling, folder, torn)
    path = torn / "results.jsonl"
    content = path.read_bytes()
    path.write_bytes(content[: max(0, len(content) - cut)])
    (torn / ".results.csv.partial").write_text("left behind")
    run(labelling, folder, torn)
    assert contents(torn) == contents(whole)


def test_a_finished_run_has_nothing_to_do(labelling, folder, tmp_path):
    run(labelling, folder, tmp_path / "out")
    before = contents(tmp_path / "out")
    Path(labelling.log).unlink()
    summary = run(labelling, folder, tmp_path / "out")
    assert (summary.num_new, summary.ended) == (0, "finished")
    assert worked_on(labelling) == []
    assert contents(tmp_path / "out") == before


def test_errors_are_kept_until_they_are_to_be_done_again(labelling, folder, tmp_path):
    out = tmp_path / "out"
    run(labelling, folder, out)
    (folder / "b.mp4").write_text("good now")
    assert run(labelling, folder, out).failed == 2
    summary = run(labelling, folder, out, retry_errors=True)
    assert (summary.done, summary.failed, summary.num_new) == (6, 1, 2)
    assert [line["id"] for line in lines(out / "results.jsonl")] == [f"{name}.mp4" for name in "abcdeg"]


def test_the_first_error_can_end_a_run(labelling, folder, tmp_path):
    summary = run(labelling, folder, tmp_path / "out", fail_fast=True)
    assert (summary.ended, summary.done, summary.failed, summary.left) == ("failed", 1, 1, 5)
    assert run(labelling, folder, tmp_path / "out").left == 0


def test_a_clip_that_is_not_there_is_an_error_with_a_remedy(labelling, clips, tmp_path):
    folder = clips(a="one")
    (folder / "list.txt").write_text("gone.mp4\na.mp4\n")
    summary = run(labelling, folder / "list.txt", tmp_path / "out")
    assert (summary.done, summary.failed) == (1, 1)
    (line,) = lines(tmp_path / "out" / "errors.jsonl")
    assert line["error"]["field"] == "clip"
    assert "is not there" in line["error"]["message"]
    assert line["error"]["remedy"].startswith("Correct the line")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"labels": ("a", "b")}, "labels"), ({"rationale": False}, "rationale"), ({"model": "other"}, "model"),
        ({"timelines": "csv"}, "timelines"), ({"adapter": "there"}, "adapter"), ({"language": "de"}, "language"),
    ],
)  # fmt: skip
def test_other_options_in_the_same_folder_are_refused(labelling, folder, tmp_path, change, field):
    run(labelling, folder, tmp_path / "out", stop_after=2)
    before = contents(tmp_path / "out")
    with pytest.raises(InputError, match=f"begun with another {field}.*name another folder") as caught:
        run(replace(labelling, **change), folder, tmp_path / "out")
    assert caught.value.field == field
    assert contents(tmp_path / "out") == before


def test_another_list_in_the_same_folder_is_refused(labelling, folder, tmp_path):
    run(labelling, folder, tmp_path / "out")
    (folder / "new.mp4").write_text("new")
    with pytest.raises(InputError, match=r"another source: .*7 clips.*now .*8 clips"):
        run(labelling, folder, tmp_path / "out")
    (folder / "new.mp4").unlink()
    with pytest.raises(InputError, match="another shard"):
        run(labelling, folder, tmp_path / "out", shard=Shard(number=1, count=2))


def test_a_limit_may_grow_but_not_shrink(labelling, folder, tmp_path):
    assert run(labelling, folder, tmp_path / "out", limit=3).total == 3
    with pytest.raises(InputError, match="another limit: 3, now 2"):
        run(labelling, folder, tmp_path / "out", limit=2)
    assert run(labelling, folder, tmp_path / "out", limit=5).num_new == 2
    assert run(labelling, folder, tmp_path / "out").left == 0
    run(labelling, folder, tmp_path / "whole")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_folder_that_holds_something_else_is_refused(labelling, folder, tmp_path):
    with pytest.raises(InputError, match="is not empty and holds no batch"):
        run(labelling, folder, folder)
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="cannot be made"):
        run(labelling, folder, tmp_path / "file")


def test_a_folder_is_written_by_one_process(labelling, folder, tmp_path):
    def second(*args):
        with pytest.raises(InputError, match="is being written by another process"):
            run(labelling, folder, tmp_path / "out")
        return InProcess(labelling)

    run_batch(read_source(folder), tmp_path / "out", labelling, second)
    run(labelling, folder, tmp_path / "out")


def test_lines_that_were_changed_by_hand_are_not_believed(labelling, folder, tmp_path):
    run(labelling, folder, tmp_path / "out")
    path = tmp_path / "out" / "results.jsonl"
    content = path.read_text()
    path.write_text(content + content.splitlines()[0] + "\n")
    with pytest.raises(DatasetError, match=r"'?\"a\.mp4\" stands twice"):
        run(labelling, folder, tmp_path / "out")
    path.write_text("no json\n" + content)
    with pytest.raises(DatasetError, match="line 1 is no line of this command"):
        run(labelling, folder, tmp_path / "out")


def test_shards_are_disjoint_and_complete(labelling, folder, tmp_path):
    found = []
    for number in (1, 2, 3):
        out = tmp_path / f"out{number}"
        run(labelling, folder, out, shard=Shard.parse(f"{number}/3"))
        found += [line["id"] for name in ("results.jsonl", "errors.jsonl") for line in lines(out / name)]
    assert sorted(found) == [f"{name}.mp4" for name in "abcdefg"]
    for wrong in ("0/3", "4/3", "1", "a/b", "-1/2"):
        with pytest.raises(InputError, match="allowed: 1/N to N/N"):
            Shard.parse(wrong)
    with pytest.raises(InputError, match="is empty"):
        run(labelling, folder, tmp_path / "none", shard=Shard(number=9, count=9))


def test_names_of_timelines_are_safe_and_distinct():
    ids = ["a.mp4", "x/a.mp4", "x_a.mp4", "../../etc", ".a", "ä" * 300, "a" * 200, "a" * 201]
    names = [file_name(item_id, suffix="srt") for item_id in ids]
    assert len(set(names)) == len(ids)
    assert names[0] == "a.mp4.srt"
    assert all("/" not in name and not name.startswith(".") and len(name) < 120 for name in names)


def test_only_what_stands_behind_the_last_line_is_cut(tmp_path):
    path = tmp_path / "lines"
    for content, kept in ((b"", b""), (b"torn", b""), (b"a\nb\n", b"a\nb\n"), (b"a\n" + b"x" * 200_000, b"a\n")):
        path.write_bytes(content)
        cut_torn_line(path)
        assert path.read_bytes() == kept
