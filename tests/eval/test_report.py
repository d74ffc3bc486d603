"""Reports: what is shown, what is written, where it says it comes from."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from emollama.cores import usable_cores
from eval.report import flatten, git_revision, package_versions, provenance, write_json


def test_flatten_names_nested_values_and_leaves_lists_to_the_file() -> None:
    rows = flatten({"a": 0.123456, "b": {"c": 3, "d": {"e": "x"}}, "matrix": [[1]]})
    assert rows == {"a": "0.1235", "b.c": "3", "b.d.e": "x"}


def test_write_json_leaves_no_partial_file(tmp_path: Path) -> None:
    write_json(tmp_path / "new" / "r.json", {"word": "é"})
    assert json.loads((tmp_path / "new" / "r.json").read_text(encoding="utf-8")) == {"word": "é"}
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["r.json"]


def test_revision_says_when_files_differ_from_the_commit(tmp_path: Path) -> None:
    assert git_revision(tmp_path) is None

    def git(*arguments: str) -> None:
        identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True)

    git("init")
    (tmp_path / "file").write_text("one")
    git("add", "file")
    git("commit", "-m", "first")
    clean = git_revision(tmp_path)
    assert clean is not None
    assert len(clean) == 40
    (tmp_path / "file").write_text("two")
    assert git_revision(tmp_path) == f"{clean}+changes"


def test_origin_is_plain_json() -> None:
    assert "torch" in package_versions()
    assert usable_cores() >= 1
    assert json.loads(json.dumps(provenance()))["date"].endswith("+00:00")
