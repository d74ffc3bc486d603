"""One picture of a clip, marked: faces made unrecognisable, boxes with what they appear to express."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from emollama.reports.charts import colour
from emollama.reports.content import word
from emollama.types import Box

_GAP_SECONDS = 1.0  # a face that was not seen for longer has no box in between
_BLOCKS = 4  # a covered face keeps so many blocks across: with six of them, a detector still saw a face now and then
_MARGIN = 0.3  # of the box, on every side: hair, chin and what a moving face reaches until the next picture


class Marks:
    """What to draw at which time, from the wire form of an analysis."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._faces = [
            (
                face["track"],
                np.array(face["times"], dtype=np.float64),
                np.array([[b["x"], b["y"], b["width"], b["height"]] for b in face["boxes"]], dtype=np.float64),
            )
            for face in document["faces"]
        ]
        self._segments = list(document["timeline"])
        self._labels = list(document["emotion"]["scores"])

    def boxes(self, time: float) -> list[tuple[int, Box]]:
        """Return each face that is in the picture at ``time`` seconds: its track and its box."""
        found = []
        for track, times, boxes in self._faces:
            at = int(np.searchsorted(times, time))
            before, after = max(at - 1, 0), min(at, len(times) - 1)
            nearest = min(abs(time - times[before]), abs(times[after] - time)) if len(times) else np.inf
            if nearest <= _GAP_SECONDS / 2 and times[after] - times[before] <= _GAP_SECONDS:
                x, y, width, height = (float(np.interp(time, times, boxes[:, column])) for column in range(4))
                found.append((track, Box(x=x, y=y, width=width, height=height)))
        return found

    def caption(self, track: int, time: float) -> tuple[str, str] | None:
        """Return what a face appears to express at ``time``, in words and as a colour, or ``None``."""
        for row in self._segments:
            if row["track"] == track and row["start"] <= time < max(row["end"], row["start"] + 0.04):
                share = row["scores"].get(row["label"], 0.0)
                return f"appears {word(row['label'])} {share:.0%}", colour(row["label"], self._labels)
        return None

    def draw(self, image: np.ndarray, time: float) -> None:
        """Draw the boxes and captions of ``time`` into ``image`` [H, W, 3] uint8 RGB."""
        thick = max(2, round(image.shape[1] / 480))
        for track, box in self.boxes(time):
            said = self.caption(track, time)
            shade = _rgb("#9aa0a6" if said is None else said[1])
            left, top = round(box.x), round(box.y)
            corner = (round(box.x + box.width), round(box.y + box.height))
            cv2.rectangle(image, (left, top), corner, shade, thick)
            if said is not None:
                _paste(image, _label(said[0], shade, max(12, image.shape[1] // 40)), left, top)


def blur(image: np.ndarray, boxes: Sequence[Box]) -> None:
    """Make the faces in ``boxes``, with a margin, unrecognisable in ``image`` [H, W, 3] uint8 RGB.

    A face becomes a few coarse blocks of its mean colours: unlike a Gaussian blur, whose kernel can be divided out,
    averaging throws away what it covers.
    """
    height, width = image.shape[:2]
    for box in boxes:
        left, top = max(0, int(box.x - _MARGIN * box.width)), max(0, int(box.y - _MARGIN * box.height))
        right = min(width, int(np.ceil(box.x + (1 + _MARGIN) * box.width)))
        bottom = min(height, int(np.ceil(box.y + (1 + _MARGIN) * box.height)))
        if right > left and bottom > top:
            face = image[top:bottom, left:right]
            few = cv2.resize(
                face, (min(_BLOCKS, right - left), min(_BLOCKS, bottom - top)), interpolation=cv2.INTER_AREA
            )
            image[top:bottom, left:right] = cv2.resize(
                few, (right - left, bottom - top), interpolation=cv2.INTER_NEAREST
            )


def _rgb(shade: str) -> tuple[int, int, int]:
    return int(shade[1:3], 16), int(shade[3:5], 16), int(shade[5:7], 16)


@functools.lru_cache(maxsize=256)
def _label(text: str, shade: tuple[int, int, int], size: int) -> np.ndarray:
    """[h, w, 3]: the words on a plate of the face's colour; the font has more letters than OpenCV's."""
    import matplotlib as mpl
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.truetype(str(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans-Bold.ttf"), size)
    left, top, right, bottom = font.getbbox(text)
    pad = size // 3
    plate = Image.new("RGB", (int(right - left) + 2 * pad, int(bottom - top) + 2 * pad), shade)
    ink = "black" if 0.299 * shade[0] + 0.587 * shade[1] + 0.114 * shade[2] > 128 else "white"
    ImageDraw.Draw(plate).text((pad - left, pad - top), text, font=font, fill=ink)
    return np.asarray(plate)


def _paste(image: np.ndarray, plate: np.ndarray, left: int, bottom: int) -> None:
    """Put a plate above the point, or as near to that as the picture allows."""
    height, width = image.shape[:2]
    tall, wide = min(plate.shape[0], height), min(plate.shape[1], width)
    x, y = max(0, min(left, width - wide)), max(0, min(bottom - tall, height - tall))
    image[y : y + tall, x : x + wide] = plate[:tall, :wide]
