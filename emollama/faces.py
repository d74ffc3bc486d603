"""Faces over time: detect, follow, choose the one that the analysis is about, cut out.

Crops are what HSEmotion's and nano's face models were trained on: the detector's tight square box without margin or
alignment, squashed to a square RGB picture. A still picture of at most 96 pixels is taken whole when no smaller face
is found in it: a picture of that size can only be a cropped face (FER2013's are 48 x 48). What this does not know: who
anybody is. Track ids count the faces of one clip and mean nothing outside it.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import cv2
import numpy as np

from emollama.errors import InputError
from emollama.face_detectors import Detection, FaceDetector, default_detector, overlap
from emollama.types import Audio, Box, FaceTrack, Frames
from emollama.watch import Check, unwatched

CROP_SIZE = 96
WHOLE_PICTURE_LONG_SIDE = 96
_SEARCH_EVERY_SECONDS = 1.0  # between searches of the whole picture while faces are being followed
_BRIDGE_SECONDS = 1.2  # a face that is not seen for this long is still the same face, and is interpolated
_FORGET_SECONDS = 3.0  # a face that comes back later than this, or elsewhere, is a new one
_PROBABLE, _CERTAIN = 0.5, 0.8
_SAME_AFTER_CUT = 0.6  # correlation of two 16 x 16 faces above which a cut did not change the person


def track_faces(
    frames: Frames,
    *,
    detector: FaceDetector | None = None,
    audio: Audio | None = None,
    crop_size: int = CROP_SIZE,
    max_faces: int = 8,
    check: Check = unwatched,
) -> tuple[FaceTrack, ...]:
    """Return the faces of a clip in the order of their ids, exactly one of them ``is_main``; an empty tuple for none.

    The main face is the large, central, lasting one; with several faces and a voice in ``audio``, the one whose mouth
    moves with the voice counts more. In a video a face must be seen twice to be believed. ``check`` is asked at every
    frame.
    """
    if crop_size < 16 or max_faces < 1:
        raise InputError(
            f"crop_size is {crop_size} and max_faces {max_faces}; allowed: from 16 and from 1",
            field="crop_size" if crop_size < 16 else "max_faces",
        )
    detector = detector or default_detector()
    if frames.is_still or len(frames.times) == 1:
        return _still_faces(frames, detector, crop_size=crop_size, max_faces=max_faces)
    paths = _believable(_follow(frames, detector, check), num_frames=len(frames.times))
    paths = sorted(paths, key=lambda path: -len(path.boxes) * path.size())[:max_faces]
    paths.sort(key=lambda path: path.first())
    tracks = []
    for index, path in enumerate(paths):
        check()
        tracks.append(_finish(path, frames, track_id=index, crop_size=crop_size))
    return _choose(tracks, frames, audio)


# ---- following ----------------------------------------------------------------------------------------------------


@dataclass
class _Path:
    """A face while it is being followed; ``boxes`` maps frame index to box, ``hits`` the confidence where detected."""

    boxes: dict[int, Box] = field(default_factory=dict)
    hits: dict[int, float] = field(default_factory=dict)
    look: np.ndarray | None = None  # [16, 16] normalised grey of the last detection
    last_time: float = 0.0
    closed: bool = False

    def add(self, index: int, time: float, detection: Detection, image: np.ndarray) -> None:
        self.boxes[index], self.hits[index] = detection.box, detection.confidence
        self.look, self.last_time = _look(image, detection.box), time

    def box(self) -> Box:
        return self.boxes[max(self.boxes)]

    def first(self) -> int:
        return min(self.boxes)

    def size(self) -> float:
        return float(np.median([box.width for box in self.boxes.values()]))


def _follow(frames: Frames, detector: FaceDetector, check: Check) -> list[_Path]:
    paths: list[_Path] = []
    last_search, last_thorough, last_thumb = -np.inf, -np.inf, None
    for index, (image, time) in enumerate(zip(frames.images, frames.times, strict=True)):
        check()
        thumb = _thumbnail(image)
        is_cut = last_thumb is not None and _is_cut(last_thumb, thumb)
        last_thumb = thumb
        active = [path for path in paths if not path.closed and time - path.last_time <= _FORGET_SECONDS]
        taken: list[Box] = []
        lost = False
        for path in sorted(active, key=lambda path: -path.last_time):
            hit = _continue(path, image, time, detector, taken, is_cut=is_cut)
            if hit is None:
                lost = lost or time - path.last_time <= _BRIDGE_SECONDS
                path.closed = is_cut
                continue
            path.add(index, float(time), hit, image)
            taken.append(hit.box)
        due = time - last_search >= _SEARCH_EVERY_SECONDS - 1e-6
        if not (due or lost or is_cut or not taken):
            continue
        thorough = not taken and (is_cut or time - last_thorough >= _SEARCH_EVERY_SECONDS - 1e-6)
        last_search, last_thorough = float(time), float(time) if thorough else last_thorough
        for hit in detector.detect(image, thorough=thorough, known=taken):
            if any(overlap(hit.box, box) > 0.25 for box in taken) or hit.confidence < 0.3:
                continue
            old = [path for path in active if index not in path.boxes and not path.closed and _fits(path, hit, image)]
            path = max(old, key=lambda path: path.last_time, default=None) or _Path()
            if not path.boxes:
                paths.append(path)
            path.add(index, float(time), hit, image)
            taken.append(hit.box)
    return paths


def _continue(
    path: _Path, image: np.ndarray, time: float, detector: FaceDetector, taken: list[Box], *, is_cut: bool
) -> Detection | None:
    """Look for a followed face near where it was; None when it is not there, or is somebody else's by now."""
    if time - path.last_time > _BRIDGE_SECONDS:
        return None
    for hit in detector.detect(image, near=path.box()):
        if any(overlap(hit.box, box) > 0.25 for box in taken):
            continue
        if is_cut and (path.look is None or _likeness(path.look, _look(image, hit.box)) < _SAME_AFTER_CUT):
            continue
        if overlap(hit.box, path.box()) > 0.15:
            return hit
    return None


def _fits(path: _Path, hit: Detection, image: np.ndarray) -> bool:
    """Tell whether a face found in the whole picture is one that was lost: near, of like size, and looking alike."""
    box = path.box()
    distance = np.hypot(hit.box.x - box.x, hit.box.y - box.y) / box.width
    ratio = hit.box.width / box.width
    likeness = _likeness(path.look, _look(image, hit.box)) if path.look is not None else 0.0
    return bool(0.6 < ratio < 1.7 and (distance < 0.6 or (distance < 2.0 and likeness > 0.5)))


def _believable(paths: list[_Path], *, num_frames: int) -> list[_Path]:
    """Drop what the detector saw only once or never surely: false hits do not stay where they are."""
    needed = 1 if num_frames < 3 else 2
    return [
        path
        for path in paths
        if len(path.hits) >= needed
        and max(path.hits.values()) >= (_CERTAIN if len(path.hits) < 3 else _PROBABLE)
        and float(np.mean(list(path.hits.values()))) >= 0.4
    ]


def _thumbnail(image: np.ndarray) -> np.ndarray:
    """[18, 32, 3] float32 of a picture, from few of its pixels: enough to tell two shots apart."""
    step = max(1, min(image.shape[0] // 72, image.shape[1] // 128))
    few = np.ascontiguousarray(image[::step, ::step])
    return cv2.resize(few, (32, 18), interpolation=cv2.INTER_AREA).astype(np.float32)


def _is_cut(before: np.ndarray, after: np.ndarray) -> bool:
    """Tell whether two [18, 32, 3] thumbnails are of different shots: neither alike in place nor in colours."""
    if np.abs(after - before).mean() < 25:
        return False
    edges = np.linspace(0, 256, 17)
    histograms = [np.concatenate([np.histogram(t[..., c], edges)[0] for c in range(3)]) for t in (before, after)]
    shared = np.minimum(histograms[0], histograms[1]).sum() / histograms[0].sum()
    return bool(shared < 0.6)


def _look(image: np.ndarray, box: Box) -> np.ndarray:
    """[16, 16] float32: the face's grey picture with mean 0 and norm 1, for telling whether two are alike."""
    small = cv2.resize(_cut(image, box), (16, 16), interpolation=cv2.INTER_AREA).astype(np.float32).mean(axis=2)
    small -= small.mean()
    return np.asarray(small / max(float(np.linalg.norm(small)), 1e-6))


def _likeness(first: np.ndarray, second: np.ndarray) -> float:
    return float((first * second).sum())


# ---- finishing ----------------------------------------------------------------------------------------------------


def _finish(path: _Path, frames: Frames, *, track_id: int, crop_size: int) -> FaceTrack:
    """Bridge short gaps, smooth the boxes over time, cut out the crops."""
    seen = np.array(sorted(path.boxes))
    known = np.array(
        [(b.x + b.width / 2, b.y + b.height / 2, np.log(b.width)) for b in (path.boxes[int(i)] for i in seen)]
    )  # [T, 3]: centre and logarithm of the size
    indices = [int(seen[0])]
    for before, after in itertools.pairwise(seen):
        bridged = frames.times[after] - frames.times[before] <= _BRIDGE_SECONDS
        indices.extend(range(int(before) + 1, int(after) + 1) if bridged else [int(after)])
    times = frames.times[indices]
    smooth = np.stack([np.interp(indices, seen, known[:, axis]) for axis in range(3)], axis=1)
    if len(smooth) >= 3:
        padded = np.concatenate([2 * smooth[:1] - smooth[1:2], smooth, 2 * smooth[-1:] - smooth[-2:-1]])
        smooth = (padded[:-2] + 2 * padded[1:-1] + padded[2:]) / 4
    boxes = tuple(_square(x, y, float(np.exp(log_size))) for x, y, log_size in smooth)
    crops = np.stack([_crop(frames.images[i], box, crop_size) for i, box in zip(indices, boxes, strict=True)])
    height, width = frames.images.shape[1:3]
    return FaceTrack(
        track_id=track_id,
        times=times,
        boxes=tuple(_inside(box, width, height) for box in boxes),
        crops=crops,
        share=len(indices) / len(frames.times),
    )


def _square(center_x: float, center_y: float, side: float) -> Box:
    return Box(x=float(center_x - side / 2), y=float(center_y - side / 2), width=side, height=side)


def _inside(box: Box, width: int, height: int) -> Box:
    left, top = min(max(0.0, box.x), width - 1.0), min(max(0.0, box.y), height - 1.0)
    right, bottom = min(width, box.x + box.width), min(height, box.y + box.height)
    return Box(x=left, y=top, width=max(1.0, right - left), height=max(1.0, bottom - top))


def _cut(image: np.ndarray, box: Box) -> np.ndarray:
    inner = _inside(box, image.shape[1], image.shape[0])
    left, top = int(inner.x), int(inner.y)
    right, bottom = max(left + 1, round(inner.x + inner.width)), max(top + 1, round(inner.y + inner.height))
    return image[top:bottom, left:right]


def _crop(image: np.ndarray, box: Box, size: int) -> np.ndarray:
    """[size, size, 3] uint8: the box, clamped to the picture, squashed to a square."""
    face = _cut(image, box)
    interpolation = cv2.INTER_AREA if face.shape[0] > size else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(face, (size, size), interpolation=interpolation))


# ---- stills -------------------------------------------------------------------------------------------------------


def _still_faces(frames: Frames, detector: FaceDetector, *, crop_size: int, max_faces: int) -> tuple[FaceTrack, ...]:
    image = frames.images[0]
    height, width = image.shape[:2]
    found = [hit for hit in _detect_in_still(image, detector) if hit.confidence >= _PROBABLE]
    if max(height, width) <= WHOLE_PICTURE_LONG_SIDE and not any(_is_part(hit.box, width, height) for hit in found):
        if min(height, width) < 20 or max(height, width) > 2 * min(height, width) or image.std() < 5:
            return ()
        whole = Box(x=0.0, y=0.0, width=float(width), height=float(height))
        reason = f"the picture has only {width} x {height} pixels, so it is taken as a cropped face and used whole" + (
            "" if found else "; no face was found in it"
        )
        return (_still_track(whole, frames, 0, crop_size, is_main=True, reason=reason),)
    found = sorted(found, key=lambda hit: -hit.box.width)[:max_faces]
    found.sort(key=lambda hit: hit.box.x)
    tracks = [_still_track(hit.box, frames, index, crop_size) for index, hit in enumerate(found)]
    return _choose(tracks, frames, None)


def _still_track(
    box: Box, frames: Frames, track_id: int, crop_size: int, *, is_main: bool = False, reason: str = ""
) -> FaceTrack:
    image = frames.images[0]
    return FaceTrack(
        track_id=track_id,
        times=np.asarray(frames.times[:1], dtype=np.float64),
        boxes=(_inside(box, image.shape[1], image.shape[0]),),
        crops=_crop(image, box, crop_size)[None],
        share=1.0,
        is_main=is_main,
        chosen_because=reason,
    )


def _is_part(box: Box, width: int, height: int) -> bool:
    """A face clearly smaller than the picture: then the picture is not a crop of that face."""
    return max(box.width / width, box.height / height) < 0.6


def _detect_in_still(image: np.ndarray, detector: FaceDetector) -> tuple[Detection, ...]:
    """Detect in one picture; a small one is enlarged and gets a border of its own edge, which the detector needs."""
    height, width = image.shape[:2]
    if max(height, width) >= 200:
        return detector.detect(image, thorough=True)
    scale = 200 / max(height, width)
    border = round(0.25 * max(height, width) * scale)
    larger = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    larger = cv2.copyMakeBorder(larger, border, border, border, border, cv2.BORDER_REPLICATE)
    return tuple(
        Detection(
            box=Box(
                x=(hit.box.x - border) / scale,
                y=(hit.box.y - border) / scale,
                width=hit.box.width / scale,
                height=hit.box.height / scale,
            ),
            confidence=hit.confidence,
        )
        for hit in detector.detect(larger, thorough=True)
    )


# ---- choosing -----------------------------------------------------------------------------------------------------


def _choose(tracks: list[FaceTrack], frames: Frames, audio: Audio | None) -> tuple[FaceTrack, ...]:
    """Mark the main track and say why. Size, place and duration count, and a mouth that moves with the voice."""
    if not tracks:
        return ()
    if len(tracks) == 1:
        seen = "" if frames.is_still else f", seen in {tracks[0].share:.0%} of the sampled frames"
        return (_marked(tracks[0], f"it is the only face{seen}"),)
    height, width = frames.images.shape[1:3]
    sizes = np.array([float(np.median([box.width for box in track.boxes])) for track in tracks])
    places = np.array([_centrality(track, width, height) for track in tracks])
    shares = np.array([track.share for track in tracks])
    speech = _speech_evidence(tracks, audio)
    score = 0.45 * sizes / sizes.max() + 0.15 * places + 0.4 * shares
    if speech is not None:
        score = score + 0.6 * speech
    best = int(np.argmax(score))
    reasons = []
    if speech is not None and speech[best] >= 0.3 and best == int(np.argmax(speech)):
        reasons.append("its mouth moves with the voice more than the others'")
    if best == int(np.argmax(sizes)):
        reasons.append("it is the largest")
    if best == int(np.argmax(shares)) and not frames.is_still:
        reasons.append(f"it is seen in {shares[best]:.0%} of the sampled frames")
    if best == int(np.argmax(places)) and len(reasons) < 2:
        reasons.append("it is nearest to the middle")
    words = " and ".join(reasons) or "it is large, central and lasting taken together"
    return tuple(
        _marked(track, f"of {len(tracks)} faces, {words}") if index == best else track
        for index, track in enumerate(tracks)
    )


def _marked(track: FaceTrack, reason: str) -> FaceTrack:
    return FaceTrack(
        track_id=track.track_id,
        times=track.times,
        boxes=track.boxes,
        crops=track.crops,
        share=track.share,
        is_main=True,
        chosen_because=reason,
    )


def _centrality(track: FaceTrack, width: int, height: int) -> float:
    """1 in the middle of the picture, 0 at its corners."""
    x = np.median([box.x + box.width / 2 for box in track.boxes]) / width - 0.5
    y = np.median([box.y + box.height / 2 for box in track.boxes]) / height - 0.5
    return float(1.0 - min(1.0, np.hypot(x, y) / np.hypot(0.5, 0.5)))


def _speech_evidence(tracks: list[FaceTrack], audio: Audio | None) -> np.ndarray | None:
    """Return [len(tracks)] in [0, 1]: how much each mouth moves, and moves with the sound; None without a voice.

    A mouth's motion is the change of the lower third of the crop beyond that of the upper half, so that a turning head
    or a pan does not count.
    """
    if audio is None or len(audio.samples) < audio.sample_rate // 2:
        return None
    moving, together = np.zeros(len(tracks)), np.zeros(len(tracks))
    heard = False
    for index, track in enumerate(tracks):
        if len(track.times) < 4:
            continue
        motion = _mouth_motion(track)  # [T - 1]
        level = np.array([_level(audio, a, b) for a, b in itertools.pairwise(track.times)])
        loud = level > max(-50.0, float(np.percentile(level, 10)) + 6.0)
        if not loud.any():
            continue
        heard = True
        moving[index] = max(0.0, float(motion[loud].mean()))
        if loud.all() or motion.std() < 1e-6:
            continue
        together[index] = max(0.0, float(np.corrcoef(motion, np.clip(level, -60.0, 0.0))[0, 1]))
    if not heard or moving.max() <= 0.5:
        return None
    evidence: np.ndarray = 0.5 * moving / moving.max() + 0.5 * together
    return evidence


def _mouth_motion(track: FaceTrack) -> np.ndarray:
    """[T - 1]: mean grey change of the mouth region beyond that of the eye region, in grey levels."""
    grey = np.stack([cv2.resize(crop, (32, 32), interpolation=cv2.INTER_AREA).mean(axis=2) for crop in track.crops])
    change = np.abs(np.diff(grey, axis=0))  # [T - 1, 32, 32]
    return np.asarray(change[:, 20:30, 8:24].mean(axis=(1, 2)) - change[:, 4:16, 6:26].mean(axis=(1, 2)))


def _level(audio: Audio, start: float, end: float) -> float:
    """Root mean square in dBFS between two times of the clip."""
    first, last = (round((time - audio.start) * audio.sample_rate) for time in (start, end))
    piece = audio.samples[max(0, first) : max(0, last)]
    return float(20 * np.log10(max(1e-6, float(np.sqrt(np.mean(np.square(piece)))) if len(piece) else 0.0)))
