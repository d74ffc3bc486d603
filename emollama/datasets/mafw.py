"""MAFW (Liu et al., ACM MM 2022): clips of films, series and short videos with one of eleven expressions.

``Train & Test Set/single/no_caption/set_1`` to ``set_5`` hold ``train.txt`` and ``test.txt`` without a header, a line
``00001.mp4 anger`` for each clip: five folds. The clips lie in ``data/clips`` (or ``clips``, as the authors' page
draws it). What film a clip is from is not published, so there is no group.
"""

from __future__ import annotations

from pathlib import Path

from emollama.datasets.record import Record, Source

SOURCE = Source(title="MAFW", home="https://github.com/MAFW-database/MAFW (a signed agreement is needed)")
LABELS = (
    "anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise", "contempt", "anxiety", "helplessness",
    "disappointment",
)  # fmt: skip
SPLITS = ("fold1", "fold2", "fold3", "fold4", "fold5", "all")
LISTS = Path("Train & Test Set") / "single" / "no_caption"


def read(data: Path, *, split: str = "all") -> tuple[Record, ...]:
    """Return the test clips of a fold, or of all five, which together are the whole set; raises `DatasetError`."""
    SOURCE.split(split, SPLITS)
    clips = SOURCE.first(
        (data / "data" / "clips", data / "clips"), expected="the folder of the clips, 00001.mp4 and on"
    )
    folds = [split[-1]] if split != "all" else list("12345")
    records = [record for fold in folds for record in _read_list(data / LISTS / f"set_{fold}" / "test.txt", clips)]
    return SOURCE.some(records, where=data / LISTS, expected="lines such as '00001.mp4 anger'")


def _read_list(path: Path, clips: Path) -> list[Record]:
    SOURCE.file(path, expected="the clips of the fold, a line '00001.mp4 anger' for each")
    records = []
    for line, text in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
        if not text.strip():
            continue
        name, _, label = text.strip().partition(" ")
        if label not in LABELS:
            raise SOURCE.error(f"{path}:{line}: label {label!r}; allowed: {', '.join(LABELS)}", field="label")
        file = SOURCE.file(clips / name, expected=f"the clip of {path}:{line}")
        records.append(Record(id=file.stem, file=file, label=label))
    return records
