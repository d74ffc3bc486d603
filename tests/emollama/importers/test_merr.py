"""MERR: a list, a JSON keyed by name, a table of words; coarse and fine."""

from __future__ import annotations

import json

import pytest

from emollama.errors import DatasetError
from emollama.importers import load_importer

import_merr = load_importer("merr")

NOTE = {
    "AU_list": ["AU04", "AU12"],
    "peak_AU_list": ["AU12"],
    "visual_prior_list": ["Lip corner pull", "brow lowered"],
    "audio_prior_list": "The tone is bright.",
    "peak_index": "17",
    "pseu_emotion": "happy",
}


def release(folder, clip, *, fine: bool):
    for number in (1, 2):
        clip(folder, f"video/sample_0000000{number}.mp4")
    name = "MERR_fine_grained" if fine else "MERR_coarse_grained"
    rows = ["sample_00000001 52 happy 2.5", "sample_00000002 40 doubt -10"] if fine else [
        "sample_00000001 52 happy", "", "sample_00000002 40 sad"
    ]  # fmt: skip
    (folder / f"{name}.txt").write_text("\n".join(rows) + "\n")
    extra = (
        {"text": "We won!", "smp_reason_caption": "The mouth corners rise."} if fine else {"caption": "A bright tone."}
    )
    (folder / f"{name}.json").write_text(json.dumps({"sample_00000001": {**NOTE, **extra}}))
    (folder / "transcription_en_all.csv").write_text("name,sentence\nsample_00000001,Other.\nsample_00000002,Hm.\n")
    return folder


def test_coarse(tmp_path, clip, round_trip) -> None:
    folder = release(tmp_path, clip, fine=False)
    first, second = round_trip(tmp_path, import_merr(folder))
    assert first.to_json_dict() == {
        "id": "sample_00000001", "clip": "video/sample_00000001.mp4", "label": "happy",
        "messages": [
            {"role": "user", "content": "Describe the expression and the tone of the person in this clip."},
            {"role": "assistant", "content": "A bright tone."},
        ],
        "meta": {
            "frames": 52, "action_units": "AU04, AU12", "peak_action_units": "AU12",
            "visual_prior": "Lip corner pull, brow lowered", "audio_prior": "The tone is bright.", "peak_index": "17",
        },
    }  # fmt: skip
    assert (second.label, second.messages, second.transcript, second.meta) == ("sad", None, None, {"frames": 40})


def test_fine_with_valence_on_our_scale_and_words(tmp_path, clip, round_trip) -> None:
    folder = release(tmp_path, clip, fine=True)
    transcripts = folder / "transcription_en_all.csv"
    first, second = round_trip(tmp_path, import_merr(folder / "MERR_fine_grained.txt", transcripts=transcripts))
    assert first.valence == 0.5
    assert first.transcript == "We won!"  # the JSON's own words go before the table's
    assert [m.content for m in first.messages or ()][1] == "The mouth corners rise."
    assert (second.valence, second.transcript, second.label) == (None, "Hm.", "doubt")


def test_a_label_that_the_json_disputes_is_kept_in_meta(tmp_path, clip, round_trip) -> None:
    folder = release(tmp_path, clip, fine=False)
    (folder / "MERR_coarse_grained.json").write_text(json.dumps({"sample_00000002": {"pseu_emotion": "angry"}}))
    _, second = round_trip(tmp_path, import_merr(folder))
    assert second.label == "sad"
    assert second.meta == {"frames": 40, "pseudo_label": "angry"}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("sample_00000001 52\n", r"grained\.txt:1: 'sample_00000001 52'; allowed: name frames emotion \[valence\]"),
        ("sample_00000001 many happy\n", r"grained\.txt:1: .*allowed: name frames"),
        ("\nsample_00000001 52 happy 7\n", r"grained\.txt:2: valence: 7 is outside -5 to 5"),
        ("sample_00000001 52 happy nan\n", r"grained\.txt:1: valence: 'nan' is not a finite number"),
        ("sample_7 52 happy\n", r"grained\.txt:1: name: no clip called 'sample_7' below"),
        ("sample_00000001 5 sad\nsample_00000001 5 sad\n", r"grained\.txt:2: id: .*already in line 1"),
    ],
)
def test_what_is_wrong_is_said_with_file_and_line(tmp_path, clip, text, wanted) -> None:
    folder = release(tmp_path, clip, fine=True)
    (folder / "MERR_fine_grained.txt").write_text(text)
    with pytest.raises(DatasetError, match=wanted):
        list(import_merr(folder))


def test_which_part_and_which_files(tmp_path, clip) -> None:
    with pytest.raises(DatasetError, match=r"holds no MERR_coarse_grained\.txt or MERR_fine_grained\.txt"):
        list(import_merr(tmp_path))
    release(tmp_path, clip, fine=True)
    release(tmp_path, clip, fine=False)
    with pytest.raises(DatasetError, match="holds both lists; choose one by part"):
        list(import_merr(tmp_path))
    assert len(list(import_merr(tmp_path, part="fine"))) == 2
    with pytest.raises(DatasetError, match="part is 'medium'"):
        list(import_merr(tmp_path / "MERR_fine_grained.txt", part="medium"))
    (tmp_path / "MERR_fine_grained.json").write_text("[]")
    with pytest.raises(DatasetError, match="an object that holds an object for each name"):
        list(import_merr(tmp_path, part="fine"))
