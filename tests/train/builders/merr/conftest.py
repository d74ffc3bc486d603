"""Stand-ins: OpenFace files with a known peak, observations without a clip."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emollama.prompt import Cues, FaceCue, VoiceCue, WordsCue
from train.builders.merr.observation import FaceReading, Observation, PeakFrame, UnitReading, VoiceReading
from train.builders.merr.rules import RulesFile, load_rules

REGRESSIONS = ("01", "02", "04", "05", "06", "07", "09", "10", "12", "14", "15", "17", "20", "23", "25", "26", "45")


@pytest.fixture(scope="session")
def rules() -> RulesFile:
    return load_rules()


def write_openface(
    path: Path,
    *,
    active: dict[str, float],
    seconds: float = 3.0,
    peak: float = 1.5,
    fps: int = 30,
    more: dict[str, np.ndarray] | None = None,
) -> Path:
    """Write an OpenFace CSV in which the ``active`` units rise to their intensity at ``peak`` and fall again."""
    names = [f"AU{code}_r" for code in REGRESSIONS] + [f"AU{code}_c" for code in sorted((*REGRESSIONS, "28"))]
    lines = ["frame, face_id, timestamp, confidence, success, " + ", ".join(names)]
    for index in range(round(seconds * fps)):
        time = index / fps
        bump = float(np.exp(-(((time - peak) / 0.3) ** 2)))
        level = {code: round(min(5.0, active.get(code, 0.0) * bump), 2) for code in (*REGRESSIONS, "28")}
        for code, values in (more or {}).items():
            level[code] = float(values[index])
        cells = [
            f"{level[name[2:4]]:.2f}" if name.endswith("r") else str(int(level[name[2:4]] >= 0.8)) for name in names
        ]
        lines.append(", ".join([str(index + 1), "0", f"{time:.3f}", "0.98", "1", *cells]))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


def observe(
    *,
    label: str = "sad",
    face: str | None = "sadness",
    p: float = 0.9,
    voice: str | None = None,
    words: tuple[str, str] | None = None,
    units: dict[str, tuple[float | None, bool]] | None = None,
    source: str = "manifest",
    confidence: float = 1.0,
    peak_reached: bool = True,
    **more: Any,
) -> Observation:
    """An observation: ``face`` and ``voice`` are verdicts, ``words`` is (transcript, verdict)."""
    there = {"face": face is not None, "voice": voice is not None, "words": words is not None}
    voice_cue = None
    if voice is not None:
        voice_cue = VoiceCue(start=0.5, end=3.0, label=voice, pitch="low", loudness="low", rate="low")
    cues = Cues(
        label=label,
        confidence="high",
        face=() if face is None else (FaceCue(start=0.0, end=4.0, label=face, strength="high"),),
        voice=voice_cue,
        words=None if words is None else WordsCue(label=words[1], quote=words[0][:12].strip()),
        absent=tuple(name for name in ("face", "voice", "words") if not there[name]),  # type: ignore[arg-type]
    )
    reading = None
    if face is not None:
        rest = {"neutral": 1 - p} if face != "neutral" else {"sadness": 1 - p}
        reading = FaceReading(at_peak={face: p, **rest}, mean={face: p, **rest}, valence=-0.5, arousal=-0.2)
    seen: dict[str, Any] = {
        "seconds": 4.0,
        "label": label,
        "label_source": source,
        "label_confidence": confidence,
        "abstained": False,
        "cues": cues,
        "peak": None
        if face is None and not units
        else PeakFrame(time=1.2, value=p, basis="expression", what="x", reached=peak_reached, peaks=(1.2,)),
        "units": tuple(UnitReading(code=c, intensity=i, present=on) for c, (i, on) in (units or {}).items()),
        "units_source": "openface:x.csv" if units else None,
        "units_sha256": "0" * 64 if units else None,
        "face": reading,
        "voice": None
        if voice is None
        else VoiceReading(start=0.5, end=3.0, pitch="low", loudness="low", rate="low", melody="low", verdict=voice),
        "transcript": None if words is None else words[0],
        "transcript_source": None if words is None else "given",
        "curves": {},
        "model": "nano",
        "clip_sha256": "1" * 64,
        "warnings": (),
    }
    return Observation(**{**seen, **more})


GOOD = (
    "The person appears sad. At 1.2 s, its clearest moment, the face looks plainly sorrowful, and nothing in the rest "
    "of the clip speaks against it. There was no voice to listen to and no words to read, so this rests on the face "
    "alone."
)


@pytest.fixture
def openface() -> Callable[..., Path]:
    return write_openface


@pytest.fixture
def seen() -> Callable[..., Observation]:
    return observe


@pytest.fixture
def good() -> str:
    """An explanation of `observe`'s clip that passes every check."""
    return GOOD
