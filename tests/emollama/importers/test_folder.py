"""A folder for each label."""

from __future__ import annotations

import pytest

from emollama.errors import DatasetError
from emollama.importers import load_importer

import_folder = load_importer("folder")


def test_labels_speakers_and_words_come_from_the_folders(tmp_path, clip, round_trip) -> None:
    clip(tmp_path, "boredom/03/a.wav")
    clip(tmp_path, "boredom/08/a.wav")
    clip(tmp_path, "mild_joy/b.MP4").with_suffix(".txt").write_text("Well,\n well.", encoding="utf-8")
    clip(tmp_path, ".cache/c.wav")
    (tmp_path / "mild_joy" / "notes.pdf").write_bytes(b"%PDF")
    samples = round_trip(tmp_path, import_folder(tmp_path))
    assert [(s.id, s.clip, s.label, s.speaker, s.transcript) for s in samples] == [
        ("boredom/03/a.wav", "boredom/03/a.wav", "boredom", "03", None),
        ("boredom/08/a.wav", "boredom/08/a.wav", "boredom", "08", None),
        ("mild_joy/b.MP4", "mild_joy/b.MP4", "mild joy", None, "Well, well."),
    ]


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (["a.wav"], r"a\.wav: the clip lies in no label's folder; allowed: label/clip"),
        (["joy/s/t/a.wav"], r"the clip lies 3 folders deep"),
        (["joy/a.wav", "anger/notes.pdf"], r"the folder of label 'anger' holds no media file"),
        (["joy/notes.pdf"], r"holds no media file"),
        (["x" * 50 + "/a.wav"], r"label: .*at most 40"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, clip, names, wanted) -> None:
    for name in names:
        clip(tmp_path, name)
    with pytest.raises(DatasetError, match=wanted):
        list(import_folder(tmp_path))


def test_a_source_that_is_no_folder(tmp_path) -> None:
    with pytest.raises(DatasetError, match="is not a folder; give the folder"):
        list(import_folder(tmp_path / "nowhere"))
