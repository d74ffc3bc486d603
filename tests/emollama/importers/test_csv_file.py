"""Tables: columns under many names, delimiters, byte order marks, and what is wrong with a line."""

from __future__ import annotations

import json

import pytest

from emollama.errors import DatasetError
from emollama.importers import load_importer
from emollama.importers.clips import ClipFolder

import_csv = load_importer("csv")


def table(folder, text: str, *, encoding: str = "utf-8"):
    path = folder / "list.csv"
    path.write_bytes(text.encode(encoding))
    return path


def test_the_manifests_own_columns(tmp_path, clip, round_trip) -> None:
    clip(tmp_path, "a.mp4")
    messages = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "A smile, briefly."}]
    quoted = json.dumps(messages).replace('"', '""')
    path = table(
        tmp_path,
        "id,clip,start,end,transcript,language,label,open_vocabulary,valence,arousal,messages,split,speaker,take\n"
        f'1,a.mp4,0.5,2,"Well, ""fine"".",en,joy,"[\'glad\', \'at ease\']",0.4,-0.1,"{quoted}",dev,03,7\n',
    )
    (sample,) = round_trip(tmp_path, import_csv(path))
    assert sample.to_json_dict() == {
        "id": "1", "clip": "a.mp4", "start": 0.5, "end": 2.0, "transcript": 'Well, "fine".', "language": "en",
        "label": "joy", "open_vocabulary": ["glad", "at ease"], "valence": 0.4, "arousal": -0.1, "messages": messages,
        "split": "valid", "speaker": "03", "meta": {"take": "7"},
    }  # fmt: skip


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_synonyms_delimiters_and_a_byte_order_mark(tmp_path, clip, round_trip, delimiter, encoding) -> None:
    clip(tmp_path, "video/dia0_utt1.mp4")
    text = "Video;Emotion;Sentence;Actor\r\ndia0_utt1;anger;Grüß dich!;7\r\n\r\n".replace(";", delimiter)
    (sample,) = round_trip(tmp_path, import_csv(table(tmp_path, text, encoding=encoding)))
    assert (sample.id, sample.clip, sample.label) == ("dia0_utt1", "video/dia0_utt1.mp4", "anger")
    assert (sample.transcript, sample.speaker) == ("Grüß dich!", "7")


def test_votes_become_shares_and_scales_are_brought_to_one(tmp_path, clip, round_trip) -> None:
    clip(tmp_path, "a.wav")
    path = table(tmp_path, "file,p_joy,p_mild_anger,p_fear,val\na.wav,3,1,0,-2.5\n")
    (sample,) = round_trip(tmp_path, import_csv(path, valence_limit=5))
    assert sample.distribution == {"joy": 0.75, "mild anger": 0.25}
    assert sample.valence == -0.5


def test_words_alone_and_stretches_of_one_clip(tmp_path, clip, round_trip) -> None:
    clip(tmp_path, "long.mp4")
    path = table(tmp_path, "path,start,end,text,label\nlong.mp4,0,1.5,,joy\nlong.mp4,1.5,3,,fear\n,,,Oh no.,fear\n")
    samples = round_trip(tmp_path, import_csv(path))
    assert [s.id for s in samples] == ["long#0-1.5", "long#1.5-3", "line 4"]
    assert [s.clip for s in samples] == ["long.mp4", "long.mp4", None]


def test_a_row_without_votes_keeps_its_label(tmp_path, clip, round_trip) -> None:
    clip(tmp_path, "a.wav")
    clip(tmp_path, "b.wav")
    path = table(tmp_path, "file,label,p_joy,p_fear\na.wav,joy,,\nb.wav,joy,3,1\n")
    samples = round_trip(tmp_path, import_csv(path))
    assert [s.distribution for s in samples] == [None, {"joy": 0.75, "fear": 0.25}]
    assert samples[0].label == "joy"


def test_clips_that_are_not_there_stop_the_import_or_are_counted(tmp_path, clip, round_trip) -> None:
    clip(tmp_path, "a.wav")
    path = table(tmp_path, "file,label\na.wav,joy\nb.wav,joy\n")
    with pytest.raises(DatasetError, match=r"list\.csv:3: clip: no file 'b\.wav' below .*skip missing"):
        list(import_csv(path))
    clips = ClipFolder(root=tmp_path, skip_missing=True)
    assert [s.id for s in round_trip(tmp_path, import_csv(path, clips=clips))] == ["a"]
    assert clips.num_skipped == 1


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("file,label\na.wav,joy,7\n", r"list\.csv:2: 3 cells where the header has 2; put a cell"),
        ("file,valence\na.wav,\na.wav,much\n", r"list\.csv:3: valence: 'much' is not a finite number"),
        ("file,valence\na.wav,nan\n", r"list\.csv:2: valence: 'nan'"),
        ("file,valence\na.wav,1.5\n", r"list\.csv:2: valence: .*less than or equal to 1.*1\.5"),
        ("file,start,end\na.wav,2,1\n", r"list\.csv:2: row: end is 1 and start 2"),
        ("file,split\na.wav,holdout\n", r"list\.csv:2: split: .*'train', 'valid' or 'test'.*'holdout'"),
        ("file,messages\na.wav,Why?\n", r"list\.csv:2: messages: 'Why\?' is not JSON"),
        ("file,p_joy,p_fear\na.wav,0,0\n", r"list\.csv:2: distribution: all shares are 0"),
        ("file,p_joy,p_fear\na.wav,2,-1\n", r"list\.csv:2: p_fear: is below 0"),
        ("id,file\n1,a.wav\n1,a.wav\n", r"list\.csv:3: id: '1' stands already in line 2"),
        ("file,path\na.wav,a.wav\n", r"list\.csv:1: columns 'file' and 'path' are both read as clip; keep one"),
        ("label,label\njoy,joy\n", r"list\.csv:1: the header names column 'label' twice"),
        ("label,valence\njoy,1\n", r"list\.csv:1: no column says which clip"),
        ("file,label\n", r"a header and no rows"),
        ("", r"is empty; a header line is wanted"),
        ('file,label\n"a.wav,joy\n', r"is not a table: .*check its double quotes"),
        ("file,label\n../a.wav,joy\n", r"does not lie below the manifest's folder|no file"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_file_and_line(tmp_path, clip, text, wanted) -> None:
    clip(tmp_path, "data/a.wav")
    clip(tmp_path, "a.wav")
    with pytest.raises(DatasetError, match=wanted):
        list(import_csv(table(tmp_path / "data", text)))


def test_a_file_that_is_not_utf8_or_not_there(tmp_path) -> None:
    with pytest.raises(DatasetError, match=r"is not text in UTF-8 .*save it as UTF-8"):
        list(import_csv(table(tmp_path, "file,label\nä.wav,joy\n", encoding="latin-1")))
    with pytest.raises(DatasetError, match="does not exist"):
        list(import_csv(tmp_path / "nowhere.csv"))
