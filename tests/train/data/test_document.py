"""``docs/data.md`` says what the code does: its example is read, its tables name what is there."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from emollama.importers import IMPORTERS, load_importer
from emollama.importers.csv_file import SPELLINGS
from emollama.manifest import Sample, read_manifest
from train.data.codes import CODES

TEXT = (Path(__file__).resolve().parents[3] / "docs" / "data.md").read_text(encoding="utf-8")


def test_the_example_is_a_manifest(tmp_path: Path) -> None:
    (block,) = re.findall(r"```json\n(.*?)```", TEXT, flags=re.DOTALL)
    path = tmp_path / "manifest.jsonl"
    path.write_text(block, encoding="utf-8")
    manifest = read_manifest(path)
    assert manifest.labels == ("neutral", "boredom", "joy")
    assert len(manifest.samples) == 4


def test_every_field_is_described() -> None:
    described = {name for row in re.findall(r"^\| (`[a-z_]+`(?:, `[a-z_]+`)*) \|", TEXT, flags=re.MULTILINE)
                 for name in re.findall(r"`([a-z_]+)`", row)}  # fmt: skip
    assert set(Sample.model_fields) <= described
    assert set(IMPORTERS) <= described


def test_every_code_is_described_as_it_is() -> None:
    for code, about in CODES.items():
        assert f"| `{code}` | {about.severity} | {about.meaning} | {about.remedy} |" in TEXT
    assert TEXT.count("| error |") + TEXT.count("| warning |") == len(CODES)


def test_every_name_of_a_column_is_described() -> None:
    flat = " ".join(TEXT.split())
    for column, names in SPELLINGS.items():
        if names:
            assert f"`{column}` ({', '.join(names)})" in flat


def test_every_option_of_an_importer_is_described() -> None:
    for name in IMPORTERS:
        (row,) = re.findall(rf"^\| `{name}` \| .*$", TEXT, flags=re.MULTILINE)
        for option in inspect.signature(load_importer(name)).parameters:
            assert option in ("source", "media", "clips") or f"`{option}`" in row
