"""The emotion-wheel metric on miniature word lists, with the traps of the real ones, worked by hand."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from emollama import metrics
from emollama.errors import DatasetError, InputError
from emollama.metrics import EmotionWheels, load_wheels, wheel_hit, wheel_score

openpyxl = pytest.importorskip("openpyxl")
REAL = Path(__file__).resolve().parents[4] / "shared" / "data" / "emotion_wheel"

# A sector that comes back (sad), spaces and capitals, blank cells, and "lost", which stands in two sectors.
WHEEL = [
    (" Happy ", "Joyful", "Glad"),
    (None, None, "Delighted"),
    (None, "Content", "Calm"),
    ("Sad", "Lonely", "Lost"),
    (None, "Down", "Blue"),
    ("Mad", "Angry", "Lost"),
    (None, "Bitter", "Furious"),
    ("Sad", "Down", "Grey"),
]
OTHER = [("Good", "Pleased", "Glad"), ("Bad", "Upset", "Furious")]
SYNONYMS = [
    ("Glad", "cheerful, merry"),
    ("blue", "cheerful , gloomy"),
    ("lost", ""),
    ("furious", "irate"),
    ("calm", None),
]
FORMS = [
    ("cheerful", "cheerfully,cheer"),
    ("merry", "cheer"),
    ("gloomy", "gloom"),
    ("glad", "gladly, gladness"),
    ("lost", ""),
    ("irate", "irately"),
    ("calm", "at ease"),
]


def write_sheet(path: Path, header: Sequence[str], rows: Sequence[Sequence[str | None]]) -> None:
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.append(list(header))
    for row in rows:
        sheet.append(list(row))
    book.save(path)


def write_lists(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for number in range(1, 6):
        rows = WHEEL if number == 1 else OTHER
        write_sheet(folder / f"wheel{number}.xlsx", ("level1", "level2", "level3"), rows)
    header = [f"{kind}_run{run}" for run in range(1, 9) for kind in ("word", "synonym")]
    write_sheet(folder / "synonym.xlsx", header, [[*row] * 8 for row in SYNONYMS])
    lines = ["name,format", *(f'{name},"{forms}"' for name, forms in FORMS)]
    (folder / "format.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> EmotionWheels:
    return load_wheels(write_lists(tmp_path_factory.mktemp("lists") / "wheel"))


def test_a_blank_cell_inherits_the_row_above(wheels: EmotionWheels) -> None:
    level1, level2 = wheels.sectors[1, 1], wheels.sectors[1, 2]
    assert (level1["delighted"], level2["delighted"]) == ("happy", "joyful")
    assert (level1["blue"], level2["blue"]) == ("sad", "down")


def test_in_two_sectors_the_last_written_wins(wheels: EmotionWheels) -> None:
    assert wheels.sectors[1, 1]["lost"] == "mad"
    assert wheels.sectors[1, 2]["lost"] == "angry"


def test_a_sector_that_comes_back_keeps_its_place(wheels: EmotionWheels) -> None:
    """The second run of sad rows joins the first, so mad is still written after it."""
    assert list(dict.fromkeys(wheels.sectors[1, 1].values())) == ["happy", "sad", "mad"]
    assert wheels.sectors[1, 2]["grey"] == "down"


def test_a_sector_name_maps_to_its_first_word_at_level_2(wheels: EmotionWheels) -> None:
    assert wheels.sectors[1, 2]["happy"] == "content"  # alphabetically before joyful
    assert wheels.sectors[1, 2]["joyful"] == "joyful"


def test_the_first_candidate_in_sorted_order_is_taken(wheels: EmotionWheels) -> None:
    # cheerful -> {glad, blue}; blue sorts first and is sad on wheel 1, but is not on wheel 2, where glad is good
    assert wheels.sector("Cheerfully ", wheel=1, level=1) == "sad"
    assert wheels.sector("cheerful", wheel=2, level=1) == "good"
    # the form "cheer" belongs to cheerful and to merry
    assert wheels.forms["cheer"] == ("cheerful", "merry")
    assert wheels.raw_word("cheer") == "cheerful"
    assert wheels.wheel_word("cheer") == "blue"


def test_words_outside_the_lists_are_dropped(wheels: EmotionWheels) -> None:
    assert wheels.sector("happy", wheel=1, level=1) is None  # stands on the wheel, but no form leads to it
    assert wheels.raw_word("xyzzy") is None
    assert wheels.wheel_word("xyzzy") is None
    assert wheels.is_known(" Gloom")
    assert not wheels.is_known("xyzzy")
    with pytest.raises(InputError, match="wheel 6"):
        wheels.sector("glad", wheel=6, level=1)


def test_a_score_by_hand(wheels: EmotionWheels) -> None:
    gold = [["glad", "gloom"], ["irate"], ["xyzzy"], ["at ease"], ["lost"]]
    predicted = [["gladness", "merry", "nonsense"], [], ["glad"], ["calm", "irately"], ["lost", "glad"]]
    found = wheel_score(gold, predicted, wheels, level=1)
    # wheel 1: {happy, sad} / {happy}; {mad} / {}; skipped; {happy} / {happy, mad}; {mad} / {mad, happy}
    assert found.precisions[[0, 1, 3, 4], 0].tolist() == [1.0, 0.0, 0.5, 0.5]
    assert found.recalls[[0, 1, 3, 4], 0].tolist() == [0.5, 0.0, 1.0, 1.0]
    assert np.isnan(found.recalls[2]).all()
    # wheels 2 to 5: {good} / {good}; {bad} / {}; skipped; skipped (calm is not on them); skipped (nor is lost)
    assert found.num_kept.tolist() == [4, 2, 2, 2, 2]
    f1 = [2 * 0.5 * 0.625 / 1.125, 0.5, 0.5, 0.5, 0.5]
    assert found.f1.tolist() == pytest.approx(f1, abs=1e-12)
    assert found.score == pytest.approx(np.mean(f1), abs=1e-12)
    level2 = wheel_score(gold, predicted, wheels, level=2)
    # wheel 1: {joyful, down} / {joyful}; {bitter} / {}; {content} / {content, bitter}; {angry} / {angry, joyful}
    assert level2.f1[0] == pytest.approx(f1[0])


def test_nonsense_costs_nothing_and_nothing_right_is_zero(wheels: EmotionWheels) -> None:
    plain = wheel_score([["glad"]], [["glad"]], wheels, level=1)
    padded = wheel_score([["glad"]], [["glad", "q1", "q2"]], wheels, level=1)
    assert plain.score == padded.score == 1.0
    assert wheel_score([["glad"]], [["irate"]], wheels, level=1).score == 0.0


def test_hits_ignore_false_positives_and_skip_unmapped_gold(wheels: EmotionWheels) -> None:
    hits = wheel_hit(["glad", "irate", "xyzzy"], [["glad", "irate", "lost"], ["glad"], ["glad"]], wheels)
    assert hits[0].tolist() == [1.0] * 5
    assert hits[1].tolist() == [0.0] * 5
    assert np.isnan(hits[2]).all()


def test_a_wheel_that_no_gold_is_on_has_no_score(wheels: EmotionWheels) -> None:
    with pytest.raises(InputError, match="no clip's gold words are on wheel 2"):
        wheel_score([["calm"]], [["calm"]], wheels, level=1)
    with pytest.raises(InputError, match="one each is wanted"):
        wheel_score([["calm"]], [], wheels, level=1)


@pytest.mark.parametrize("missing", ["format.csv", "synonym.xlsx", "wheel3.xlsx"])
def test_a_missing_list_is_named(tmp_path: Path, missing: str) -> None:
    (write_lists(tmp_path / "wheel") / missing).unlink()
    with pytest.raises(DatasetError, match=rf"{missing} does not exist; a wheel folder holds format\.csv"):
        load_wheels(tmp_path / "wheel")


def test_lists_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    folder = write_lists(tmp_path / "wheel")
    (folder / "format.csv").write_text("name,format\nabsent,absently\n", encoding="utf-8")
    with pytest.raises(DatasetError, match=r"format\.csv, line 2: 'absent' is not in synonym\.xlsx"):
        load_wheels(folder)
    (folder / "format.csv").write_text("word,format\nglad,gladly\n", encoding="utf-8")
    with pytest.raises(DatasetError, match="no columns name and format"):
        load_wheels(folder)
    header = [f"{kind}_run{run}" for run in range(1, 9) for kind in ("word", "synonym")]
    write_sheet(folder / "synonym.xlsx", header, [["elsewhere", "far"] * 8])
    with pytest.raises(DatasetError, match=r"row 2: 'elsewhere' is on none of the five wheels"):
        load_wheels(folder)
    write_sheet(folder / "synonym.xlsx", header, [[None, "far"] * 8])
    with pytest.raises(DatasetError, match="column word_run1 is blank"):
        load_wheels(folder)
    write_sheet(folder / "synonym.xlsx", header[:4], [])
    with pytest.raises(DatasetError, match="no column 'word_run3'"):
        load_wheels(folder)
    write_sheet(folder / "wheel2.xlsx", ("level1", "level2", "level3"), [(None, "a", "b")])
    with pytest.raises(DatasetError, match=r"wheel2\.xlsx, row 2: a cell is blank"):
        load_wheels(folder)
    (folder / "wheel1.xlsx").write_text("not a workbook", encoding="utf-8")
    with pytest.raises(DatasetError, match="not an Excel workbook"):
        load_wheels(folder)


@pytest.fixture(scope="module")
def real() -> EmotionWheels:
    if not REAL.is_dir():
        pytest.skip("wants ../shared/data/emotion_wheel")
    return load_wheels(REAL)


@pytest.mark.shared_data
def test_the_real_lists_have_the_published_counts(real: EmotionWheels) -> None:
    num_forms = len(real.forms)
    assert num_forms in (7356, 7386)  # MER2026, MER2025
    assert len(real.synonyms) == 1255
    assert sum(len(words) > 1 for words in real.synonyms.values()) == 431
    if num_forms == 7356:
        assert sum(len(raws) > 1 for raws in real.forms.values()) == 861
    words = {wheel: set(real.sectors[wheel, 1]) for wheel in metrics.wheel.WHEELS}
    assert [len(words[wheel]) for wheel in metrics.wheel.WHEELS] == [114, 126, 78, 102, 77]
    assert len(set.union(*words.values())) == 253
    assert [len(set(real.sectors[wheel, 2].values())) for wheel in metrics.wheel.WHEELS] == [36, 41, 36, 48, 36]
    assert set(real.sectors[1, 1].values()) == {"mad", "disgusted", "sad", "happy", "surprised", "scared"}
    assert set(real.sectors[4, 1].values()) == {"joy", "genius", "anger", "sad", "fear", "disgust"}


@pytest.mark.shared_data
def test_the_four_words_in_two_sectors_of_wheel_2(real: EmotionWheels) -> None:
    sectors = real.sectors[2, 1]
    assert [sectors[word] for word in ("overwhelmed", "inferior", "embarrassed", "disappointed")] == [
        "bad", "sad", "sad", "sad",
    ]  # fmt: skip


@pytest.mark.shared_data
def test_real_words_find_their_sector(real: EmotionWheels) -> None:
    assert real.sector("Happiness", wheel=1, level=1) == "happy"
    assert real.sector("angry", wheel=1, level=1) == "mad"
    same = [["happy", "at ease"], ["worried"]]
    for level in metrics.wheel.LEVELS:
        assert wheel_score(same, same, real, level=level).score == 1.0


@pytest.mark.shared_data
def test_the_other_generation_is_whichever_file_lies_there(real: EmotionWheels, tmp_path: Path) -> None:
    folder = tmp_path / "older"
    shutil.copytree(REAL, folder)
    path = folder / "format.csv"
    path.chmod(0o644)
    path.write_text(path.read_text(encoding="utf-8").replace('fear,"', 'fear,"fearless,', 1), encoding="utf-8")
    assert "fear" in load_wheels(folder).forms["fearless"]
    assert "fear" not in real.forms.get("fearless", ())
