"""One decoded FFmpeg frame -> upright 8-bit RGB with square pixels, at the size that is wanted.

Depths over 8 bits go through swscale; PQ and HLG pictures (Rec. ITU-R BT.2100) are tone-mapped, because their code
values read as 8-bit RGB would be a pale, low-contrast face. Transparent pixels are laid over white. What this does
not know: colour profiles (ICC) and gamut beyond the BT.2020 to BT.709 matrix.
"""

from __future__ import annotations

import functools
import struct
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from av import VideoFrame

_PQ, _HLG, _BT2020 = 16, 18, 9  # H.273 code points of transfer characteristics and colour primaries
# EXIF orientation 1 to 8 as (transpose, mirror x, mirror y), applied in this order.
_EXIF_TURNS = (
    (False, False, False), (False, True, False), (False, True, True), (False, False, True),
    (True, False, False), (True, True, False), (True, True, True), (True, False, True),
)  # fmt: skip
_REFERENCE_WHITE_NITS = 203.0  # Rec. ITU-R BT.2408: where an HDR picture puts diffuse white
_BT2020_TO_BT709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], dtype=np.float32
)


def upright_rgb(
    frame: VideoFrame, *, pixel_aspect: float = 1.0, max_long_side: int = 1280, exif_orientation: int | None = None
) -> np.ndarray:
    """Return ``frame`` as [H, W, 3] uint8 RGB: scaled so that the long side fits, square pixels, turned upright.

    ``exif_orientation`` (1 to 8), where a picture declares one, says how to turn it; else the display matrix does.
    """
    width, height = fitted_size(frame.width, frame.height, pixel_aspect=pixel_aspect, max_long_side=max_long_side)
    interpolation = "AREA" if width * 2 <= frame.width else "BICUBIC"
    if frame.color_trc in (_PQ, _HLG):
        deep = frame.reformat(width=width, height=height, format="rgb48le", interpolation=interpolation)
        image = _tone_map(deep.to_ndarray(), transfer=frame.color_trc, wide=frame.color_primaries == _BT2020)
    elif any(component.is_alpha for component in frame.format.components):
        rgba = frame.reformat(width=width, height=height, format="rgba", interpolation=interpolation).to_ndarray()
        image = _over_white(rgba)
    else:
        image = frame.reformat(width=width, height=height, format="rgb24", interpolation=interpolation).to_ndarray()
    if exif_orientation is not None:
        return _turn(image, *_EXIF_TURNS[exif_orientation - 1])
    return _turn(image, *_matrix_turn(frame))


def fitted_size(width: int, height: int, *, pixel_aspect: float = 1.0, max_long_side: int = 1280) -> tuple[int, int]:
    """Return the (width, height) with square pixels whose long side is at most ``max_long_side``; never enlarged."""
    shown = max(1.0, width * pixel_aspect)
    scale = min(1.0, max_long_side / max(shown, height))
    return max(1, round(shown * scale)), max(1, round(height * scale))


def _turn(image: np.ndarray, transpose: bool, mirror_x: bool, mirror_y: bool) -> np.ndarray:
    """Quarter turns and mirrors, exactly, without resampling."""
    if transpose:
        image = image.transpose(1, 0, 2)
    if mirror_x:
        image = image[:, ::-1]
    if mirror_y:
        image = image[::-1]
    return np.ascontiguousarray(image)


def _matrix_turn(frame: VideoFrame) -> tuple[bool, bool, bool]:
    """Read the display matrix (ISO/IEC 14496-12, 6.2.2) as (transpose, mirror x, mirror y)."""
    if not _has_readable_side_data(frame):
        return _EXIF_TURNS[{0: 1, 90: 8, -90: 6}.get(round(frame.rotation / 90) * 90, 3) - 1]
    matrix = next((data for data in frame.side_data if data.type.name == "DISPLAYMATRIX"), None)
    if matrix is None or matrix.buffer_size < 36:
        return False, False, False
    a, b, _, c, d = struct.unpack("<5i", bytes(matrix)[:20])
    transpose = abs(b) + abs(c) > abs(a) + abs(d)
    across, down = (c, b) if transpose else (a, d)
    return transpose, across < 0, down < 0


def _has_readable_side_data(frame: VideoFrame) -> bool:
    """PyAV raises on a frame with a kind of side data newer than its table (EXIF is one); its angle still reads."""
    try:
        return frame.side_data is not None
    except ValueError:
        return False


def _over_white(rgba: np.ndarray) -> np.ndarray:
    """[H, W, 4] uint8 -> [H, W, 3] uint8 composed over white."""
    alpha = rgba[..., 3:].astype(np.uint16)
    if alpha.min(initial=255) == 255:
        return np.ascontiguousarray(rgba[..., :3])
    composed = (rgba[..., :3].astype(np.uint16) * alpha + 255 * (255 - alpha) + 127) // 255
    return composed.astype(np.uint8)


def _tone_map(deep: np.ndarray, *, transfer: int, wide: bool) -> np.ndarray:
    """[H, W, 3] uint16 PQ or HLG code values -> uint8 sRGB; highlights above diffuse white are rolled off."""
    linear = _to_linear(transfer)[deep]  # [H, W, 3], 1.0 is diffuse white
    if wide:
        linear = np.maximum(linear @ _BT2020_TO_BT709.T, 0.0)
    rolled = linear * (1.0 + linear / 16.0) / (1.0 + 0.35 * linear)  # Reinhard's curve with its white point at 4
    encoded = np.where(rolled <= 0.0031308, 12.92 * rolled, 1.055 * np.maximum(rolled, 1e-6) ** (1 / 2.4) - 0.055)
    image: np.ndarray = (np.clip(encoded, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)
    return image


@functools.cache
def _to_linear(transfer: int) -> np.ndarray:
    """[65536] float32: code value to light relative to diffuse white (BT.2100 tables 4 and 5)."""
    code = np.arange(65536, dtype=np.float64) / 65535.0
    if transfer == _PQ:
        m1, m2, c1, c2, c3 = 0.1593017578125, 78.84375, 0.8359375, 18.8515625, 18.6875
        power = code ** (1 / m2)
        nits = 10_000.0 * (np.maximum(power - c1, 0.0) / (c2 - c3 * power)) ** (1 / m1)
        return (nits / _REFERENCE_WHITE_NITS).astype(np.float32)
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.where(code <= 0.5, code**2 / 3.0, (np.exp((code - c) / a) + b) / 12.0)
    return (1000.0 * scene**1.2 / _REFERENCE_WHITE_NITS).astype(np.float32)
