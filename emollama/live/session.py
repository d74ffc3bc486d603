"""`LiveSession`: a camera and a microphone in, readings of the last seconds out, as often as they are asked for.

Everything is read once: a picture is decoded, searched and read by the face model when it comes, sound when a stretch
of it is whole. What is kept of them are rows of numbers, for the seconds of a window; a reading is the prefill that
judges a short clip, over the rows of the window. Nothing outlives the session.

What it does not know: words (nobody writes them down here), who of several people speaks, and who anybody is.
"""

from __future__ import annotations

import time as clock
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from emollama import evidence as ev
from emollama.analyze import Analyzer, Understanding
from emollama.cores import CORES
from emollama.errors import InputError, MediaError
from emollama.glance import Eye, OwnEye
from emollama.judge import Judgement, affect_of
from emollama.labels import NANO_LABELS, adjective, parse_label_set
from emollama.live.following import FaceRow, Followed, Follower
from emollama.live.listening import Listener
from emollama.live.readings import LiveFace, LiveReading, LiveVoice, Pictures
from emollama.long_clip.pooling import joined_readings
from emollama.narrator import Narrator, Told
from emollama.prompt import DEFAULT_QUESTION, NOTHING_TO_JUDGE
from emollama.stages import Labelled, RationalePiece
from emollama.timeline import restrict
from emollama.types import Affect, Audio, Clip, Emotion, FaceReadings, Features, VoiceReadings
from emollama.understanding import cues_of
from emollama.watch import Check, unwatched

if TYPE_CHECKING:
    from emollama.types import Evidence, Modality

_SHOWN_SECONDS = 1.0  # what is told of a face beside its box is the mean of so long
NOBODY = "nobody is seen or heard"


@dataclass(frozen=True, kw_only=True)
class LiveOptions:
    """What a session reads. Seconds but for ``sample_rate`` (Hz) and ``max_faces``, the faces that are read at a time.

    ``labels`` is a closed set as `Analyzer.analyze` takes it.
    """

    labels: str | Sequence[str] | None = None
    sample_rate: int = 16_000
    window_seconds: float = 4.0
    stretch_seconds: float = 2.0
    max_faces: int = 4

    def __post_init__(self) -> None:
        for field, low, high in (("window_seconds", 1.0, 60.0), ("stretch_seconds", 0.5, 10.0), ("max_faces", 1, 8)):
            value = getattr(self, field)
            if not low <= value <= high:
                raise InputError(f"{field} is {value}; allowed: {low:g} to {high:g}", field=field)


def reads_live(analyzer: Any) -> bool:
    """Tell whether an analyzer can be asked for readings of a camera: one in this process that reads as nano does."""
    return isinstance(analyzer, Analyzer) and analyzer.parts.senses is None


class LiveSession:
    """One person before one camera, or several. Not for several threads at once, but for `explain`'s answers.

    ``eye`` decodes and searches the pictures; another than `OwnEye` does it elsewhere. All times are seconds from the
    start of the session, as the caller counts them, and never go back.
    """

    def __init__(self, analyzer: Analyzer, options: LiveOptions = LiveOptions(), *, eye: Eye | None = None) -> None:
        if not reads_live(analyzer):
            raise InputError(
                "this model cannot be read live; allowed: one that reads faces as nano does", field="model"
            )
        self._analyzer, self._options = analyzer, options
        self._asked = None if options.labels is None else parse_label_set(options.labels)
        self._eye = eye or OwnEye()
        self._narrator = Narrator(analyzer.parts)
        self._follower = Follower(window_seconds=options.window_seconds, max_faces=options.max_faces)
        self._listener = Listener(
            self._hear, sample_rate=options.sample_rate, stretch_seconds=options.stretch_seconds,
            window_seconds=options.window_seconds,
        )  # fmt: skip
        self._time = 0.0
        self._seen_at: float | None = None
        self._num_readings = self._received = self._read_pictures = self._refused = 0
        self._spent: dict[str, float] = {}
        self._judged: tuple[Any, Judgement] | None = None  # of what, and how

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that the readings choose among."""
        return self._asked or self._analyzer.labels

    @property
    def options(self) -> LiveOptions:
        """What the session reads."""
        return self._options

    @property
    def time(self) -> float:
        """The latest time that something came for."""
        return self._time

    # ---- what comes in -------------------------------------------------------------------------------------------

    def see(self, picture: bytes, *, time: float) -> None:
        """Look at a picture (JPEG, PNG, WebP) of a time and read the faces that are followed.

        Raises `MediaError` for a picture that cannot be read, after which the session goes on, and `InputError`.
        """
        if not np.isfinite(time) or time < (self._seen_at or 0.0):
            raise InputError(f"time is {time:g}; allowed: from {self._seen_at or 0.0:.3f} on", field="time")
        self._received += 1
        self._time, self._seen_at = max(self._time, time), time
        began = clock.perf_counter()
        try:
            glance = self._eye.look(picture, self._follower.look(time))
        except MediaError:
            self._refused += 1
            raise
        began = self._count("look", began)
        self._read(self._follower.take(glance, time))
        self._read_pictures += 1
        self._count("face", began)

    def hear(self, samples: np.ndarray, *, time: float) -> None:
        """Take a chunk of mono sound [S], int16 or float32 in [-1, 1], whose first sample is of ``time``."""
        if not np.isfinite(time) or time < 0:
            raise InputError(f"time is {time:g}; allowed: seconds from 0 on", field="time")
        began = clock.perf_counter()
        self._listener.take(samples, time)
        self._time = max(self._time, self._listener.end or 0.0)
        self._count("voice", began)

    # ---- what comes out ------------------------------------------------------------------------------------------

    def read(self, time: float | None = None, *, dropped: int = 0) -> LiveReading:
        """Return what the window before ``time`` (by default, the latest) appears to say.

        ``dropped`` are pictures that the caller did not hand in, because newer ones were there.
        """
        now = self._time = max(self._time, time or 0.0)
        self._follower.forget(now)
        main = self._follower.main(now)
        voice = self._listener.voice(now)
        began = clock.perf_counter()
        judged = self._judge(main, voice)
        self._count("judge", began)
        self._num_readings += 1
        face = None if main is None else _joined(main)
        emotion = self._nothing() if judged is None else judged.emotion
        spent, self._spent = self._spent, {}
        return LiveReading(
            number=self._num_readings,
            time=round(now, 3),
            window_start=round(max(0.0, now - self._options.window_seconds), 3),
            size=self._follower.size,
            faces=tuple(self._face(each, is_main=each is main) for each in self._follower.present(now)),
            voice=None if voice is None else _voice(voice[1]),
            emotion=emotion,
            affect=Affect(valence=None, arousal=None, source=None) if judged is None else affect_of(face, judged),
            used=tuple(name for name, part in (("face", main), ("voice", voice)) if part is not None),
            appears=_appears(emotion),
            pictures=Pictures(
                received=self._received + dropped, read=self._read_pictures, dropped=dropped, refused=self._refused
            ),
            timings_ms={name: round(spent_ms, 1) for name, spent_ms in spent.items()},
        )

    def understand(self) -> Understanding:
        """Return what the last reading rests on, for `explain`: a snapshot that does not change any more."""
        now = self._time
        main = self._follower.main(now)
        voice = self._listener.voice(now)
        judged = self._judge(main, voice)
        face = None if main is None else _joined(main)
        heard = None if voice is None else voice[1]
        items: dict[Modality, tuple[Evidence, ...]] = {"visual": (), "audio": (), "text": ()}
        cues = None
        if judged is not None:
            segments = () if face is None else ev.segments_of(face, until=now)
            items["visual"] = () if face is None else ev.face_evidence(face, segments)
            items["audio"] = () if heard is None else ev.voice_evidence(heard)
            cues = cues_of(
                judged, face=ev.face_cues(segments), voice=None if heard is None else ev.voice_cue(heard), words=None,
                confidence=self._analyzer.parts.calibration.band(judged.emotion.confidence), still=False,
            )  # fmt: skip
        return Understanding(
            clip=Clip(name="live", seconds=now), tracks=(), readings=() if face is None else (face,), voice=heard,
            transcript=None, emotion=self._nothing() if judged is None else judged.emotion, cues=cues,
            prefix=None if judged is None else judged.prefix, features={},
            open_vocabulary=() if judged is None else judged.open_vocabulary,
            affect=Affect(valence=None, arousal=None, source=None) if judged is None else affect_of(face, judged),
            evidence=items, asked=self._asked, warnings=(), timings_ms={},
        )  # fmt: skip

    def explain(
        self, seen: Understanding, *, check: Check = unwatched
    ) -> Generator[Labelled | RationalePiece, None, Told]:
        """Yield the label of a snapshot with its evidence, then the rationale in pieces, which is returned whole.

        The pieces are those of `Analyzer.stages`. Any thread may do this while the session goes on in its own.
        """
        yield Labelled(
            emotion=seen.emotion, open_vocabulary=seen.open_vocabulary, affect=seen.affect, evidence=seen.evidence,
            transcript=None,
        )  # fmt: skip
        if seen.cues is None:
            yield RationalePiece(text=NOTHING_TO_JUDGE)
            return Told(text=NOTHING_TO_JUDGE)
        with CORES.working(), closing(self._narrator.say(seen, DEFAULT_QUESTION, check)) as saying:
            while True:
                try:
                    piece = next(saying)
                except StopIteration as end:
                    told: Told = end.value
                    return told
                yield RationalePiece(text=piece)

    # ---- reading -------------------------------------------------------------------------------------------------

    def _read(self, faces: Sequence[Followed]) -> None:
        """Read the crops that wait; each is read once."""
        for face in faces:
            waiting, face.waiting = face.waiting, []
            for time, sighting in waiting:
                readings, features = self._analyzer.parts.face.read(
                    sighting.crop[None], np.array([time]), face.track_id
                )
                face.rows.append(
                    FaceRow(time=time, readings=readings, token=features.tokens[0], width=sighting.box.width)
                )

    def _hear(self, audio: Audio) -> tuple[VoiceReadings | None, Features | None]:
        parts = self._analyzer.parts
        measured = parts.measure_voice(audio)
        if not measured.segments:
            return measured, None
        return parts.voice.read(audio, measured)

    def _judge(self, main: Followed | None, voice: tuple[np.ndarray, VoiceReadings] | None) -> Judgement | None:
        """Judge the window; what is as it was at the last time is not judged again."""
        from emollama.encoders.face import pool_over_time

        used: dict[Any, Any] = {}
        if main is not None:
            times = np.array([row.time for row in main.rows])
            used["face"] = pool_over_time(np.stack([row.token for row in main.rows]), times)
        if voice is not None:
            used["voice"] = voice[0]
        if not used:
            return None
        of = {name: tokens.tobytes() for name, tokens in used.items()}
        if self._judged is None or self._judged[0] != of:
            self._judged = (of, self._analyzer.judge(used, self.labels))
        return self._judged[1]

    def _nothing(self) -> Emotion:
        even = 1.0 / len(self.labels)
        return Emotion(label=None, confidence=even, abstained=True, scores=dict.fromkeys(self.labels, even))

    def _face(self, face: Followed, *, is_main: bool) -> LiveFace:
        rows = [row for row in face.rows if row.time >= face.rows[-1].time - _SHOWN_SECONDS]
        mean = np.mean([row.readings.probabilities[0] for row in rows], axis=0)
        shares, names = restrict(mean, rows[0].readings.labels, self._asked)
        label = names[int(shares.argmax())]
        valence, arousal = (
            float(np.mean([getattr(row.readings, name)[0] for row in rows])) for name in ("valence", "arousal")
        )
        scores = {name: round(float(p), 4) for name, p in zip(names, shares, strict=True)}
        return LiveFace(
            track=face.track_id, is_main=is_main, box=face.box, seen_at=round(face.last_seen, 3), label=label,
            appears=f"appears {_word(label)}", scores=scores,
            valence=None if np.isnan(valence) else round(valence, 4),
            arousal=None if np.isnan(arousal) else round(arousal, 4),
        )  # fmt: skip

    def _count(self, stage: str, began: float) -> float:
        now = clock.perf_counter()
        self._spent[stage] = self._spent.get(stage, 0.0) + 1000 * (now - began)
        return now


def _joined(face: Followed) -> FaceReadings:
    return joined_readings([row.readings for row in face.rows], track_id=face.track_id)


def _voice(readings: VoiceReadings) -> LiveVoice | None:
    if readings.probabilities is None:
        return None
    scores = {name: round(float(p), 4) for name, p in zip(readings.labels, readings.probabilities, strict=True)}
    return LiveVoice(
        label=readings.labels[int(readings.probabilities.argmax())], scores=scores,
        voiced_seconds=round(readings.voiced_seconds, 2), heard_until=round(readings.segments[-1].end, 2),
    )  # fmt: skip


def _word(label: str) -> str:
    return adjective(label) if label in NANO_LABELS else label


def _appears(emotion: Emotion) -> str:
    if emotion.label is None:
        return NOBODY
    if emotion.abstained:
        return f"may appear {_word(emotion.label)}, which is too unsure to claim"
    return f"appears {_word(emotion.label)}"
