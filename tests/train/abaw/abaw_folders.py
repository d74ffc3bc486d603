"""Folders in the layout of Aff-Wild2, C-EXPR-DB and Vidmimic2, small and drawn, whose labels show in the pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from emollama.datasets.aff_wild2 import HEADERS
from emollama.datasets.vidmimic import INTENSITIES

FRAMES = 30
TRAIN = ("1-30-1280x720", "7-60_left", "7-60_right", "120", "33-24", "9-15", "48")
VALIDATION = ("5-60-1920x1080-1", "67-24", "dark")
COMPOUND = ("01", "02")
TRAIN_CLIPS = tuple(f"{number:05d}" for number in range(8))
VALID_CLIPS = ("00100", "00101", "00102")
FACELESS = {7, 8, 9, 22}  # frames in which no face was found


def classes_of(video: str) -> np.ndarray:
    """Expressions [FRAMES]; they change every five frames, by an order of the video's own; -1 where not annotated."""
    rng = np.random.default_rng(sum(video.encode()))
    classes = np.repeat(rng.permutation(8)[: FRAMES // 5], 5)
    classes[[3, 17]] = -1
    return classes


def make_affwild2(data: Path, *, annotated: tuple[str, ...] = ("train", "validation")) -> Path:
    """Write annotations of the three challenges and ``cropped_aligned``, in which some frames are missing."""
    for split, folder, videos in (("train", "Train_Set", TRAIN), ("validation", "Validation_Set", VALIDATION)):
        if split not in annotated:
            continue
        for video in videos:
            classes = classes_of(video)
            rows = {"expr": [], "va": [], "au": []}
            for label in classes:
                rows["expr"].append(str(label))
                rows["va"].append("-5,-5" if label < 0 else f"{label / 4 - 0.9:.3f},{0.8 - label / 5:.3f}")
                flags = [int(unit % 8 == label or unit % 8 == (label + 1) % 8) for unit in range(12)]
                rows["au"].append(",".join("-1" if label < 0 else str(flag) for flag in flags))
            for challenge, name in (("expr", "EXPR_Recognition"), ("va", "VA_Estimation"), ("au", "AU_Detection")):
                place = data / "6th_ABAW_Annotations" / f"{name}_Challenge" / folder
                place.mkdir(parents=True, exist_ok=True)
                lines = [",".join(HEADERS[challenge]), *rows[challenge]]
                (place / f"{video}.txt").write_text("\n".join(lines) + "\n")
    for video in (*TRAIN, *VALIDATION):
        if video != "dark":
            make_crops(data / "cropped_aligned" / video, classes_of(video))
    (data / "cropped_aligned" / "dark").mkdir(parents=True, exist_ok=True)
    return data


def make_crops(folder: Path, classes: np.ndarray) -> None:
    """Write ``00001.jpg`` and on; where the bright bar stands says the class."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(classes))
    for number, label in enumerate(classes, start=1):
        if number in FACELESS:
            continue
        picture = rng.integers(0, 60, (32, 32, 3), dtype=np.uint8)
        picture[:, 4 * max(label, 0) : 4 * max(label, 0) + 4] = 220
        Image.fromarray(picture).save(folder / f"{number:05d}.jpg", quality=90)


def make_cexpr(data: Path) -> Path:
    """Write crops of two videos in C-EXPR-DB's layout."""
    for video in COMPOUND:
        make_crops(data / "cropped_aligned" / video, classes_of(video))
    return data


def make_vidmimic(data: Path) -> Path:
    """Write the two tables and a folder of crops for each clip; one clip has no face."""
    for name, clips in (("train_split.csv", TRAIN_CLIPS), ("valid_split.csv", VALID_CLIPS)):
        lines = [",".join(("Filename", *INTENSITIES))]
        for clip in clips:
            label = sum(clip.encode()) % 8
            lines.append(",".join([clip, *(f"{((label + k) % 8) / 8:.3f}" for k in range(6))]))
        data.mkdir(parents=True, exist_ok=True)
        (data / name).write_text("\n".join(lines) + "\n")
    for clip in (*TRAIN_CLIPS, *VALID_CLIPS):
        folder = data / "crops" / clip
        folder.mkdir(parents=True, exist_ok=True)
        if clip != VALID_CLIPS[-1]:
            make_crops(folder, np.full(12, sum(clip.encode()) % 8))
    return data


def write_list(path: Path, videos: tuple[str, ...], *, frames: int = FRAMES + 1) -> Path:
    """Write the list of frames that a challenge wants: all of them, with a face or not, one past the annotations."""
    rows = [f"{video}/{number:05d}.jpg" for video in videos for number in range(1, frames + 1)]
    path.write_text("\n".join(["image_location", *rows]) + "\n")
    return path
