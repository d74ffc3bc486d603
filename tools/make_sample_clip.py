"""Draw and synthesise the bundled sample clip: one command, the same bytes every time with the same FFmpeg.

    python tools/make_sample_clip.py [OUTPUT.mp4]

A drawn person speaks two short sentences: a plain one with a resting face and an even voice, then a bright one with a
smile and a higher, livelier voice. Nobody's picture or voice is in it. The face is polygons and soft shading laid out
by the usual proportions of a portrait (eyes half way down the head, one eye's width between them). The voice is
additive: harmonics of a pitch contour, weighted by vowel formants (Peterson & Barney, JASA 24, 1952), with shaped noise
for the consonants. The words of `sample.txt` are what the syllables imitate; it is not intelligible speech.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

WIDTH, HEIGHT, FPS, SECONDS = 480, 360, 15, 6.0
SCALE = 2  # drawn larger than it is shown, with anti-aliased edges
HEAD = (112, 34, 368, 310)  # left, top, right, bottom of the part of the picture that the head may cover
SAMPLE_RATE = 44_100
OUTPUT = Path(__file__).resolve().parents[1] / "emollama" / "assets" / "sample" / "sample.mp4"

SKIN = (228, 186, 158)
HAIR = (58, 40, 30)
LIP = (176, 98, 92)

# ---- the script of the clip ---------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Syllable:
    """``pitch`` in Hz at the vowel's middle; ``onset`` is "", "stop", "hiss" or "nasal"; times in seconds."""

    start: float
    seconds: float
    vowel: str
    pitch: float
    loudness: float
    onset: str = ""


# "I really did not expect that."                       "This is wonderful!"
SCRIPT = (
    Syllable(start=0.40, seconds=0.20, vowel="ai", pitch=172, loudness=0.50),
    Syllable(start=0.62, seconds=0.16, vowel="i", pitch=178, loudness=0.52, onset="nasal"),
    Syllable(start=0.79, seconds=0.14, vowel="i", pitch=172, loudness=0.45, onset="nasal"),
    Syllable(start=0.95, seconds=0.15, vowel="i", pitch=168, loudness=0.45, onset="stop"),
    Syllable(start=1.12, seconds=0.19, vowel="o", pitch=174, loudness=0.52, onset="nasal"),
    Syllable(start=1.34, seconds=0.14, vowel="e", pitch=166, loudness=0.45, onset="stop"),
    Syllable(start=1.53, seconds=0.18, vowel="e", pitch=164, loudness=0.48, onset="hiss"),
    Syllable(start=1.76, seconds=0.26, vowel="ae", pitch=152, loudness=0.42, onset="hiss"),
    Syllable(start=3.10, seconds=0.17, vowel="i", pitch=225, loudness=0.85, onset="hiss"),
    Syllable(start=3.32, seconds=0.15, vowel="i", pitch=240, loudness=0.85, onset="hiss"),
    Syllable(start=3.50, seconds=0.30, vowel="o", pitch=320, loudness=1.00, onset="nasal"),
    Syllable(start=3.83, seconds=0.16, vowel="schwa", pitch=285, loudness=0.90, onset="stop"),
    Syllable(start=4.02, seconds=0.42, vowel="u", pitch=235, loudness=0.85, onset="hiss"),
    Syllable(start=4.70, seconds=0.14, vowel="a", pitch=290, loudness=0.70, onset="hiss"),
    Syllable(start=4.90, seconds=0.14, vowel="a", pitch=270, loudness=0.65, onset="hiss"),
    Syllable(start=5.10, seconds=0.18, vowel="a", pitch=245, loudness=0.55, onset="hiss"),
)
VOWELS = {  # formants 1 to 3 in Hz
    "a": (730, 1090, 2440), "ae": (660, 1720, 2410), "e": (530, 1840, 2480), "i": (350, 2200, 2900),
    "o": (600, 950, 2420), "u": (330, 950, 2300), "schwa": (500, 1450, 2450), "ai": (640, 1500, 2500),
}  # fmt: skip
OPENNESS = {"a": 1.0, "ae": 0.85, "e": 0.6, "i": 0.35, "o": 0.75, "u": 0.35, "schwa": 0.5, "ai": 0.8}
SMILE_FROM, SMILE_UNTIL = 2.35, 2.95
BLINKS = (0.9, 2.25, 4.55)


def smile_at(time: float) -> float:
    return float(_ease((time - SMILE_FROM) / (SMILE_UNTIL - SMILE_FROM)))


def mouth_open_at(time: float) -> float:
    """0 closed, 1 wide open: the vowel that is being spoken."""
    opening = 0.0
    for syllable in SCRIPT:
        x = (time - syllable.start) / syllable.seconds
        if -0.25 < x < 1.25:
            opening = max(
                opening, OPENNESS[syllable.vowel] * float(np.cos((np.clip(x, -0.25, 1.25) - 0.5) * np.pi / 1.5))
            )
    return opening


def blink_at(time: float) -> float:
    return float(max(np.exp(-(((time - blink) / 0.06) ** 2)) for blink in BLINKS))


def _ease(x: float | np.ndarray) -> float | np.ndarray:
    x = np.clip(x, 0.0, 1.0)
    return x * x * (3 - 2 * x)


# ---- drawing ------------------------------------------------------------------------------------------------------


class Canvas:
    """A part of the RGB float picture in clip coordinates (480 x 360), kept at `SCALE` times that size."""

    def __init__(self, image: np.ndarray, origin: tuple[int, int] = (0, 0)) -> None:
        self.image, self.origin = image, np.array(origin, float)

    def polygon(
        self, points: np.ndarray, color: tuple[float, float, float], *, opacity: float = 1.0, blur: float = 0.0
    ) -> None:
        """Fill ``points`` [N, 2]; ``blur`` is the softness of the edge in clip pixels."""
        if opacity <= 0:
            return
        points = points - self.origin
        margin = 3 * blur + 2
        low = np.maximum(0, np.floor((points.min(axis=0) - margin) * SCALE)).astype(int)
        high = np.minimum(
            (self.image.shape[1], self.image.shape[0]), np.ceil((points.max(axis=0) + margin) * SCALE)
        ).astype(int)
        if np.any(high <= low):
            return
        mask = np.zeros((high[1] - low[1], high[0] - low[0]), np.uint8)
        cv2.fillPoly(mask, [np.round((points * SCALE - low) * 16).astype(np.int32)], 255, cv2.LINE_AA, shift=4)
        cover = mask.astype(np.float32) * (opacity / 255.0)
        if blur > 0:
            cover = cv2.GaussianBlur(cover, (0, 0), blur * SCALE)
        region = self.image[low[1] : high[1], low[0] : high[0]]
        region += cover[..., None] * (np.array(color, np.float32) - region)

    def ellipse(
        self, x: float, y: float, rx: float, ry: float, color: tuple[float, float, float], **style: float
    ) -> None:
        angles = np.linspace(0, 2 * np.pi, 72, endpoint=False)
        self.polygon(np.stack([x + rx * np.cos(angles), y + ry * np.sin(angles)], axis=1), color, **style)

    def stroke(self, points: np.ndarray, widths: np.ndarray, color: tuple[float, float, float], **style: float) -> None:
        """A tapering line through ``points`` [N, 2] with a width at each of them."""
        tangent = np.gradient(points, axis=0)
        normal = np.stack([-tangent[:, 1], tangent[:, 0]], axis=1) / np.maximum(1e-6, np.hypot(*tangent.T))[:, None]
        half = widths[:, None] / 2
        self.polygon(np.concatenate([points + normal * half, (points - normal * half)[::-1]]), color, **style)


def curve(*points: tuple[float, float], num: int = 40) -> np.ndarray:
    """A smooth [num, 2] curve through the points (quadratic or cubic polynomial in its parameter)."""
    knots = np.array(points, float)
    along = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(knots, axis=0).T))])
    degree = min(3, len(knots) - 1)
    fine = np.linspace(0, along[-1], num)
    return np.stack([np.polyval(np.polyfit(along, knots[:, axis], degree), fine) for axis in range(2)], axis=1)


def background() -> np.ndarray:
    """The room and the shoulders, [HEIGHT * SCALE, WIDTH * SCALE, 3] float32."""
    y, x = np.mgrid[0 : HEIGHT * SCALE, 0 : WIDTH * SCALE].astype(np.float32) / SCALE
    light = 1.0 - 0.35 * np.hypot((x - 170) / 480, (y - 110) / 360)
    canvas = Canvas((light[..., None] * np.array([168, 184, 192], np.float32)).astype(np.float32))
    canvas.polygon(
        np.array([(60, 380), (78, 326), (130, 298), (196, 282), (284, 282), (350, 298), (402, 326), (420, 380)], float),
        (62, 84, 112), blur=1.0,
    )  # fmt: skip
    canvas.polygon(np.array([(200, 284), (240, 330), (280, 284), (276, 380), (204, 380)], float), (52, 72, 98), blur=3)
    canvas.polygon(curve((206, 250), (204, 290), (240, 312), (276, 290), (274, 250)), SKIN, blur=1)
    canvas.polygon(
        curve((204, 246), (206, 272), (240, 292), (274, 272), (276, 246)), (150, 108, 88), opacity=0.75, blur=6
    )
    return canvas.image


def face_outline(smile: float, opening: float) -> np.ndarray:
    """[N, 2]: round above, narrowing to the chin; the jaw drops as the mouth opens, the cheeks widen in a smile."""
    angles = np.linspace(0, 2 * np.pi, 160, endpoint=False)
    x, y = np.cos(angles), np.sin(angles)
    lower = np.maximum(0.0, y)
    rx = 72 * (1 - 0.20 * lower**2.2) + 2.5 * smile * np.exp(-(((y - 0.35) / 0.25) ** 2))
    ry = np.where(y > 0, 92 + 5 * opening, 92)
    return np.stack([240 + rx * np.sign(x) * np.abs(x) ** 0.94, 172 + ry * y], axis=1)


def draw_head(canvas: Canvas, *, smile: float, opening: float, blink: float, brow: float) -> None:
    """Draw the head in its resting place; all parameters are in [0, 1]."""
    x0, y0 = 240.0, 172.0
    canvas.ellipse(x0, y0 - 18, 88, 98, HAIR, blur=1.2)
    for side in (-1, 1):
        canvas.ellipse(x0 + side * 74, y0 + 8, 9, 19, (206, 158, 132), blur=0.8)
        canvas.ellipse(x0 + side * 75, y0 + 8, 4, 11, (170, 118, 98), opacity=0.7, blur=2)
    outline = face_outline(smile, opening)
    canvas.polygon(outline, SKIN, blur=0.6)
    shade_face(canvas, outline, smile)
    draw_brows_and_eyes(canvas, x0, y0, smile=smile, blink=blink, brow=brow)
    draw_nose(canvas, x0, y0, smile=smile)
    draw_mouth(canvas, x0, y0 + 53, smile=smile, opening=opening)
    draw_hair(canvas, x0, y0)


def shade_face(canvas: Canvas, outline: np.ndarray, smile: float) -> None:
    """Light from the upper left: darker edges and right side, soft shadows where a face has hollows."""
    x0, y0 = 240.0, 172.0
    height, width = canvas.image.shape[:2]
    mask = inside_of(canvas, outline)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32) / SCALE
    x, y = x + canvas.origin[0], y + canvas.origin[1]
    u, v = (x - x0) / 74, (y - y0) / 95
    round_off = 1.05 - 0.30 * np.clip(u * u + 0.8 * v * v, 0, 1.3) ** 2.2 - 0.05 * u
    canvas.image *= 1 + mask * (round_off[..., None] - 1)
    shadow, light, blush = (142, 96, 78), (255, 226, 202), (222, 134, 118)
    for side in (-1, 1):
        canvas.ellipse(x0 + side * 31, y0 - 17, 21, 11, shadow, opacity=0.42, blur=5)  # eye sockets
        canvas.ellipse(x0 + side * 13, y0 - 14, 4, 10, shadow, opacity=0.32, blur=3)  # beside the bridge of the nose
        canvas.ellipse(
            x0 + side * 40, y0 + 23 - 5 * smile, 19, 13 + 2 * smile, light, opacity=0.45 + 0.2 * smile, blur=7
        )
        canvas.ellipse(x0 + side * 43, y0 + 27 - 5 * smile, 15, 9, blush, opacity=0.10 + 0.22 * smile, blur=6)
        canvas.ellipse(x0 + side * 56, y0 + 50, 8, 24, shadow, opacity=0.22, blur=8)  # below the cheek bones
    canvas.ellipse(x0, y0 - 56, 40, 17, light, opacity=0.40, blur=12)
    canvas.ellipse(x0, y0 + 83, 14, 7, light, opacity=0.35, blur=5)


def inside_of(canvas: Canvas, outline: np.ndarray) -> np.ndarray:
    """[H, W, 1] float32: 1 inside the outline, with a soft edge."""
    mask = np.zeros(canvas.image.shape[:2], np.uint8)
    points = np.round((outline - canvas.origin) * SCALE * 16).astype(np.int32)
    cv2.fillPoly(mask, [points], 255, cv2.LINE_AA, shift=4)
    return (mask[..., None] / 255.0).astype(np.float32)


def draw_brows_and_eyes(canvas: Canvas, x0: float, y0: float, *, smile: float, blink: float, brow: float) -> None:
    lift = 3.5 * brow + 1.0 * smile - 1.0
    half_height = (6.8 + 1.2 * brow) * (1 - 0.30 * smile) * (1 - 0.92 * blink)
    for side in (-1, 1):
        x, y = x0 + side * 31, y0 - 13
        line = curve(
            (x - side * 18, y - 18 - lift), (x - side * 4, y - 23 - 1.2 * lift), (x + side * 8, y - 23 - lift),
            (x + side * 21, y - 16 - 0.7 * lift),
        )  # fmt: skip
        canvas.stroke(
            line,
            np.interp(np.linspace(0, 1, len(line)), [0, 0.25, 0.7, 1], [5.5, 6.5, 5.0, 1.5]),
            HAIR,
            opacity=0.92,
            blur=0.7,
        )
        t = np.linspace(-1, 1, 30)
        lower_lid = 0.62 * half_height * (1 - 0.45 * smile)
        upper = np.stack([x + 15.5 * t, y - half_height * (1 - np.abs(t) ** 2.2) - side * 0.8 * t], axis=1)
        lower = np.stack([x + 15.5 * t, y + lower_lid * (1 - np.abs(t) ** 2.4) - side * 0.8 * t], axis=1)
        eye = np.concatenate([upper, lower[::-1]])
        under = Canvas(canvas.image.copy(), (int(canvas.origin[0]), int(canvas.origin[1])))
        under.polygon(eye, (238, 232, 226))
        under.polygon(np.concatenate([upper, upper[::-1] + (0, 3)]), (120, 100, 96), opacity=0.55, blur=1.2)
        under.ellipse(x, y - 0.8, 7.4, 7.4, (74, 52, 38))
        under.ellipse(x, y - 0.2, 5.6, 5.6, (112, 80, 54), opacity=0.8, blur=1)
        under.ellipse(x, y - 0.8, 3.4, 3.4, (18, 14, 14))
        under.ellipse(x - 2.4, y - 3.2, 1.5, 1.5, (255, 255, 255))
        canvas.image += inside_of(canvas, eye) * (under.image - canvas.image)
        canvas.stroke(upper, np.interp(t * side, [-1, 0, 1], [1.4, 2.6, 3.0]), (44, 28, 24), blur=0.35)
        canvas.stroke(lower, np.full(len(t), 0.9), (120, 78, 66), opacity=0.75, blur=0.4)
        crease = upper - (0, 4.6 - 1.5 * blink)
        canvas.stroke(crease, np.full(len(t), 1.3), (150, 100, 82), opacity=0.65, blur=0.6)
        bag = lower[4:-4] + (0, 5.5 - 1.5 * smile)
        canvas.stroke(bag, np.full(len(bag), 1.4), (160, 108, 90), opacity=0.25 + 0.35 * smile, blur=0.9)
        for angle in (-0.35, 0.0, 0.35):  # crow's feet
            start = np.array([x + side * 18.5, y + 0.5])
            end = start + 6.5 * np.array([side * np.cos(angle), np.sin(angle)])
            canvas.stroke(
                np.linspace(start, end, 6), np.linspace(1.2, 0.4, 6), (160, 108, 88), opacity=0.5 * smile, blur=0.6
            )


def draw_nose(canvas: Canvas, x0: float, y0: float, *, smile: float) -> None:
    shadow = (146, 98, 80)
    wide = 1 + 0.12 * smile
    canvas.polygon(
        curve((x0 - 3, y0 - 22), (x0 - 2.5, y0 + 5), (x0, y0 + 24), (x0 + 3, y0 + 4), (x0 + 3, y0 - 22)),
        (255, 230, 206),
        opacity=0.55,
        blur=2.5,
    )
    canvas.polygon(
        curve((x0 + 5, y0 - 16), (x0 + 8, y0 + 10), (x0 + 14 * wide, y0 + 27), (x0 + 8, y0 + 24), (x0 + 5, y0 - 10)),
        shadow,
        opacity=0.38,
        blur=3,
    )
    canvas.ellipse(x0, y0 + 24, 8.5, 6.5, (250, 214, 188), opacity=0.7, blur=2.5)
    canvas.ellipse(x0, y0 + 36, 13 * wide, 3.5, shadow, opacity=0.50, blur=2.5)
    for side in (-1, 1):
        canvas.ellipse(x0 + side * 6.5 * wide, y0 + 32.5, 3.6 * wide, 1.9, (92, 52, 44), opacity=0.9, blur=0.7)
        wing = curve(
            (x0 + side * 12 * wide, y0 + 21), (x0 + side * 15.5 * wide, y0 + 27), (x0 + side * 12.5 * wide, y0 + 33.5)
        )
        canvas.stroke(wing, np.full(len(wing), 1.6), shadow, opacity=0.55, blur=0.8)


def draw_mouth(canvas: Canvas, x0: float, y0: float, *, smile: float, opening: float) -> None:
    """Lips, and between them teeth and the dark of the mouth; in a smile the corners go out and up."""
    half = 24 + 15 * smile - 3 * opening * (1 - smile)
    corner = -9.5 * smile - 0.3
    gap = 9.0 * opening + 10.0 * smile
    shadow = (150, 96, 82)
    for side in (-1, 1):  # folds from the nose to the corners of the mouth
        fold = curve(
            (x0 + side * 17, y0 - 27), (x0 + side * (29 + 8 * smile), y0 - 14 - 2 * smile),
            (x0 + side * (half + 6), y0 + 1 + 0.5 * corner),
        )  # fmt: skip
        canvas.stroke(fold, np.linspace(2.6, 1.2, len(fold)), shadow, opacity=0.07 + 0.62 * smile, blur=1.4)
        canvas.ellipse(x0 + side * (half + 3), y0 + corner, 4, 3.5, shadow, opacity=0.35 + 0.2 * smile, blur=2)
    t = np.linspace(-1, 1, 48)
    bow = 1 - np.abs(t) ** 2
    dip = 1.6 * np.exp(-((t / 0.16) ** 2))
    line = corner * (1 - bow)  # height of the line between the lips
    inner_top = line + (1.5 * smile - 0.25 * gap) * bow
    inner_low = line + 0.75 * gap * bow**0.8 + 1.5 * smile * bow
    lip_top = inner_top - (5.6 - 2.0 * smile) * bow**0.7 + dip * (1 - 0.5 * smile)
    lip_low = inner_low + (8.0 - 2.2 * smile) * bow**0.75
    xs = x0 + half * t
    ring = lambda upper, lower: np.concatenate([np.stack([xs, y0 + upper], 1), np.stack([xs, y0 + lower], 1)[::-1]])  # noqa: E731
    canvas.polygon(ring(lip_top, inner_top + 0.3), LIP, blur=0.6)
    canvas.polygon(ring(inner_low - 0.3, lip_low), (200, 120, 112), blur=0.6)
    canvas.ellipse(x0 - 3, y0 + float(inner_low[24]) + 3.2, half * 0.4, 1.6, (235, 170, 160), opacity=0.55, blur=1.4)
    if gap > 0.8:
        canvas.polygon(ring(inner_top, inner_low), (64, 24, 26), blur=0.4)
        edge = np.minimum(
            inner_top + 0.72 * smile * (inner_low - inner_top) + 0.25 * (1 - smile) * gap * bow, inner_low
        )
        teeth = ring(inner_top, edge)
        canvas.polygon(x_shrunk(teeth, x0, 0.93), (246, 242, 234), opacity=min(1.0, 0.25 + 0.9 * smile), blur=0.4)
        for k in range(-3, 4):
            x = x0 + 7.0 * k + 3.5
            at = int(np.argmin(np.abs(xs - x)))
            if edge[at] - inner_top[at] > 2 and smile > 0.3:
                ends = np.array([(x, y0 + inner_top[at] + 0.5), (x, y0 + edge[at] - 0.5)])
                canvas.stroke(np.linspace(ends[0], ends[1], 5), np.full(5, 0.5), (190, 176, 166), opacity=0.6, blur=0.3)
        canvas.polygon(ring(inner_top, inner_top + 1.6 * bow), (90, 40, 40), opacity=0.35, blur=0.8)
    else:
        canvas.stroke(np.stack([xs, y0 + line + 0.3 * bow], 1), 0.6 + 1.2 * bow, (104, 48, 46), blur=0.4)
    canvas.ellipse(x0, y0 + float(lip_low[24]) + 5, 15, 3.2, shadow, opacity=0.38, blur=2.6)


def x_shrunk(points: np.ndarray, x0: float, share: float) -> np.ndarray:
    return np.stack([x0 + (points[:, 0] - x0) * share, points[:, 1]], axis=1)


def draw_hair(canvas: Canvas, x0: float, y0: float) -> None:
    fringe = np.concatenate(
        [
            curve((x0 - 80, y0 + 6), (x0 - 92, y0 - 50), (x0 - 50, y0 - 114), (x0 + 4, y0 - 118)),
            curve((x0 + 4, y0 - 118), (x0 + 56, y0 - 112), (x0 + 92, y0 - 50), (x0 + 80, y0 + 6)),
            curve((x0 + 72, y0 - 6), (x0 + 68, y0 - 46), (x0 + 40, y0 - 66), (x0 + 10, y0 - 74)),
            curve((x0 + 10, y0 - 74), (x0 - 26, y0 - 70), (x0 - 62, y0 - 50), (x0 - 72, y0 - 6)),
        ]
    )
    canvas.polygon(fringe + (0, 4), (120, 82, 66), opacity=0.45, blur=3)
    canvas.polygon(fringe, HAIR, blur=0.8)
    for k in range(14):
        x = x0 - 62 + 9.5 * k
        strand = curve((x0 + (x - x0) * 0.6, y0 - 112), (x, y0 - 96), (x0 + (x - x0) * 1.08, y0 - 74))
        canvas.stroke(strand, np.full(len(strand), 1.2), (92, 66, 50), opacity=0.45, blur=0.8)


def picture(time: float, room: np.ndarray) -> np.ndarray:
    """[HEIGHT, WIDTH, 3] uint8: the clip at ``time`` seconds."""
    smile, opening = smile_at(time), mouth_open_at(time)
    left, top, right, bottom = HEAD
    area = (slice(top * SCALE, bottom * SCALE), slice(left * SCALE, right * SCALE))
    head = Canvas(np.full_like(room[area], -1000.0), (left, top))
    draw_head(head, smile=smile, opening=opening, blink=blink_at(time), brow=0.15 + 0.35 * smile)
    cover = cv2.GaussianBlur((head.image.min(axis=2) > -40).astype(np.float32), (0, 0), 0.5 * SCALE)
    roll = 1.6 * np.sin(2 * np.pi * 0.23 * time) + 2.0 * smile
    move = (2.5 * np.sin(2 * np.pi * 0.31 * time), 1.8 * np.sin(2 * np.pi * 0.4 * time + 1) - 2.0 * smile)
    turn = cv2.getRotationMatrix2D(((240 - left) * SCALE, (262 - top) * SCALE), -roll, 1.0)
    turn[:, 2] += np.array(move) * SCALE
    size = (cover.shape[1], cover.shape[0])
    moved = cv2.warpAffine(np.clip(head.image, 0, 255), turn, size, flags=cv2.INTER_LINEAR)
    cover = cv2.warpAffine(cover, turn, size, flags=cv2.INTER_LINEAR)[..., None]
    composed = room.copy()
    composed[area] += cover * (moved - composed[area])
    small = cv2.resize(np.clip(composed, 0, 255), (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
    grain = np.random.default_rng(round(time * 1000)).normal(0, 1.2, small.shape)
    return np.clip(small + grain + 0.5, 0, 255).astype(np.uint8)


# ---- voice --------------------------------------------------------------------------------------------------------


def voice() -> np.ndarray:
    """[S] float32: the syllables of `SCRIPT`, a room tone under them."""
    generator = np.random.default_rng(5)
    num = round(SECONDS * SAMPLE_RATE)
    sound = generator.normal(0, 0.0006, num)
    for index, syllable in enumerate(SCRIPT):
        following = SCRIPT[min(index + 1, len(SCRIPT) - 1)].pitch
        glide = (
            following
            if index + 1 < len(SCRIPT) and SCRIPT[index + 1].start - syllable.start < 0.5
            else 0.88 * syllable.pitch
        )
        add(sound, syllable.start, vowel(syllable, glide, generator))
        add(sound, syllable.start, onset(syllable, generator))
    return (0.32 * sound / np.abs(sound).max()).astype(np.float32)


def add(sound: np.ndarray, start: float, piece: np.ndarray) -> None:
    first = round(start * SAMPLE_RATE)
    sound[first : first + len(piece)] += piece[: len(sound) - first]


def vowel(syllable: Syllable, glide: float, generator: np.random.Generator) -> np.ndarray:
    """Harmonics of the pitch under the vowel's formants; brighter (flatter) when louder, as voices are."""
    num = round(syllable.seconds * SAMPLE_RATE)
    x = np.linspace(0, 1, num)
    pitch = np.interp(x, [0, 0.5, 1], [0.94 * syllable.pitch, syllable.pitch, (syllable.pitch + glide) / 2])
    pitch = pitch * (1 + 0.006 * np.sin(2 * np.pi * 5.2 * x * syllable.seconds))
    pitch *= 1 + 0.004 * np.interp(x, np.linspace(0, 1, 24), generator.normal(0, 1, 24))
    phase = 2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE
    tilt = 1.9 - 0.7 * syllable.loudness
    formants = VOWELS[syllable.vowel]
    sound = np.zeros(num)
    for k in range(1, int(5500 / pitch.max()) + 1):
        frequency = k * pitch
        gain = sum(
            strength / (1 + ((frequency - center) / width) ** 2)
            for center, width, strength in zip(formants, (70, 95, 140), (1.0, 0.55, 0.3), strict=True)
        )
        sound += (gain + 0.02) * k ** (-tilt * 0.5) * np.sin(k * phase + 0.3 * k * k)
    envelope = np.minimum(1, np.minimum(x * syllable.seconds / 0.025, (1 - x) * syllable.seconds / 0.05)) ** 0.8
    return sound * envelope * syllable.loudness


def onset(syllable: Syllable, generator: np.random.Generator) -> np.ndarray:
    """The consonant before a vowel: a hiss, a burst, or a hum."""
    seconds = {"hiss": 0.07, "stop": 0.02, "nasal": 0.06, "": 0.0}[syllable.onset]
    num = round(seconds * SAMPLE_RATE)
    if num == 0:
        return np.zeros(0)
    window = np.hanning(num)
    if syllable.onset == "nasal":
        return 0.4 * syllable.loudness * window * np.sin(2 * np.pi * syllable.pitch * np.arange(num) / SAMPLE_RATE)
    spectrum = np.fft.rfft(generator.normal(0, 1, num))
    frequencies = np.fft.rfftfreq(num, 1 / SAMPLE_RATE)
    spectrum *= np.exp(-(((frequencies - 4500) / 2200) ** 2))
    return 0.5 * syllable.loudness * window * np.fft.irfft(spectrum, num)


# ---- writing ------------------------------------------------------------------------------------------------------


def write(path: Path) -> None:
    room = background()
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="mp4", options={"movflags": "faststart", "fflags": "bitexact"}) as container:
        video = container.add_stream("libx264", rate=FPS, options={"crf": "23", "preset": "slow", "threads": "1"})
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        audio = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        audio.bit_rate = 64_000
        for index in range(round(SECONDS * FPS)):
            frame = av.VideoFrame.from_ndarray(picture(index / FPS, room), "rgb24")
            frame.pts, frame.time_base = index, Fraction(1, FPS)
            container.mux(video.encode(frame))
        container.mux(video.encode())
        samples = av.AudioFrame.from_ndarray(voice()[None], "fltp", "mono")
        samples.sample_rate, samples.pts, samples.time_base = SAMPLE_RATE, 0, Fraction(1, SAMPLE_RATE)
        resampler = av.AudioResampler("fltp", "mono", SAMPLE_RATE, audio.codec_context.frame_size)
        for piece in [*resampler.resample(samples), *resampler.resample(None)]:
            container.mux(audio.encode(piece))
        container.mux(audio.encode())


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else OUTPUT)
