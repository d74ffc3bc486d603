import json
from pathlib import Path

import numpy as np
import pytest

from emollama.errors import DatasetError, InputError
from emollama.fusion.utterances import Utterances, read_folders


def clips(**changes: object) -> Utterances:
    face = np.arange(8, dtype=np.float32).reshape(4, 2)
    face[1] = np.nan
    given = {
        "names": ("a", "b", "c", "d"),
        "features": {"face": face, "voice": np.ones((4, 3), np.float32)},
        "labels": ("sad", "happy", None, "sad"),
        "groups": ("s1", "s1", "s2", "s2"),
    }
    return Utterances(**{**given, **changes})  # type: ignore[arg-type]


def test_a_table_comes_back_from_its_file_with_absent_modalities_absent(tmp_path: Path) -> None:
    clips().save(tmp_path / "t.safetensors")
    back = Utterances.load(tmp_path / "t.safetensors")
    assert back.labels == ("sad", "happy", None, "sad")
    assert back.groups == ("s1", "s1", "s2", "s2")
    assert back.widths == {"face": 2, "voice": 3}
    assert back.present.tolist() == [[True, True], [False, True], [True, True], [True, True]]
    assert [path.name for path in tmp_path.iterdir()] == ["t.safetensors"]


def test_without_a_modality_nothing_of_it_is_left() -> None:
    spared = clips().without("voice")
    assert np.isnan(spared.features["voice"]).all()
    assert spared.present[:, 0].tolist() == [True, False, True, True]
    with pytest.raises(InputError, match="face, voice"):
        clips().without("words")


def test_what_cannot_be_a_table_is_told_by_name() -> None:
    half = np.array([[1.0, np.nan]] * 4, np.float32)
    with pytest.raises(InputError, match="face of 'a'"):
        clips(features={"face": half})
    with pytest.raises(InputError, match="twice"):
        clips(names=("a", "a", "c", "d"))
    with pytest.raises(InputError, match="labels has 1"):
        clips(labels=("sad",))
    with pytest.raises(InputError, match="widths"):
        clips().joined(clips(names=("e", "f", "g", "h"), features={"face": np.zeros((4, 2), np.float32)}))


def test_a_damaged_or_foreign_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    with pytest.raises(DatasetError, match="is missing"):
        Utterances.load(path)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(DatasetError, match="no table"):
        Utterances.load(path)


def test_merbench_folders_become_a_table(tmp_path: Path) -> None:
    for name, shape in (("a", (3,)), ("b", (1, 3))):
        (tmp_path / "hubert-UTT").mkdir(exist_ok=True)
        np.save(tmp_path / "hubert-UTT" / f"{name}.npy", np.full(shape, 2.0, np.float32))
    (tmp_path / "clip-UTT").mkdir()
    np.save(tmp_path / "clip-UTT" / "a.npy", np.ones(5, np.float64))
    folders = {"audio": tmp_path / "hubert-UTT", "face": tmp_path / "clip-UTT"}
    table = read_folders(folders, ["a", "b"], labels={"a": "sad"}, groups={"a": "s1"})
    assert table.widths == {"audio": 3, "face": 5}
    assert table.present.tolist() == [[True, True], [True, False]]
    assert table.labels == ("sad", None)
    assert table.groups == ("s1", "b")
    np.save(tmp_path / "clip-UTT" / "b.npy", np.ones(4))
    with pytest.raises(DatasetError, match=r"\[4, 5\]"):
        read_folders(folders, ["a", "b"])
    with pytest.raises(DatasetError, match="none of the 1 clips"):
        read_folders(folders, ["z"])


def test_an_array_of_objects_is_never_opened(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{"run": "me"}], dtype=object), allow_pickle=True)
    with pytest.raises(DatasetError, match="plain array"):
        read_folders({"face": tmp_path}, ["a"])
    np.save(tmp_path / "a.npy", np.array([1.0, np.inf]))
    with pytest.raises(DatasetError, match="finite"):
        read_folders({"face": tmp_path}, ["a"])


def test_the_header_is_json_for_others_to_read(tmp_path: Path) -> None:
    from safetensors import safe_open

    clips().save(tmp_path / "t.safetensors")
    with safe_open(tmp_path / "t.safetensors", framework="np") as file:
        assert json.loads(file.metadata()["utterances"])["names"] == ["a", "b", "c", "d"]
