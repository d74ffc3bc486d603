"""What a large preset looks at: its encoders over the clip and the main face, and the voice as it is measured.

The tokens are those that it was trained on (`emollama.presets.encode`). Beside them stands what can be measured and
cited: where there is a voice, its pitch, loudness and rate; and expressions over time where one of the encoders is an
expression model. Sound without a voice is not used, as with nano: nothing may then be claimed of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from emollama.config import ModelConfig
from emollama.parts import Sensed, VoiceMeter
from emollama.peak_frame import PeakFrame
from emollama.presets import Part, Seen
from emollama.prompt import SOURCES, Source
from emollama.types import Clip, FaceReadings, FaceTrack
from emollama.watch import Check, unwatched

_SOURCE_OF: Mapping[str, Source] = {"frames": "face", "face": "face", "audio": "voice"}


def sources_of(config: ModelConfig) -> dict[str, Source]:
    """Return to which modality each stream belongs: all that is seen counts as the face."""
    return {stream: _SOURCE_OF[encoder.reads] for encoder in config.encoders for stream in encoder.streams}


class PresetSenses:
    """Reads a clip with a preset's encoders; may be asked by several threads at once."""

    def __init__(
        self,
        parts: Sequence[Part],
        config: ModelConfig,
        *,
        measure_voice: VoiceMeter,
        peak: PeakFrame | None = None,
    ) -> None:
        """With ``peak`` the one picture of a preset that looks at one is that where the face shows most."""
        self.parts, self.config, self.measure_voice = tuple(parts), config, measure_voice
        self.peak = peak
        self.sources = sources_of(config)

    def read(self, clip: Clip, main: FaceTrack | None, *, check: Check = unwatched) -> Sensed:
        """Run every encoder that has something to look at; ``check`` is asked before each."""
        voice = None
        if clip.audio is not None:
            check()
            voice = self.measure_voice(clip.audio, check=check)
        at = None if self.peak is None else self.peak.time(main, check=check)
        seen = Seen(clip=clip, track=main, num_frames=self.config.num_frames, at=at)
        face: FaceReadings | None = None
        tokens: dict[str, np.ndarray] = {}
        for part in self.parts:
            check()
            if part.config.reads == "audio" and (voice is None or not voice.segments):
                continue
            if part.config.kind == "face":
                if main is not None and len(main.crops):
                    face, features = part.encoder.read(main.crops, main.times, main.track_id, check=check)
                    tokens[part.config.streams[0]] = features.tokens
                continue
            tokens |= part.encode(seen)
        tokens = {name: tokens[name] for name in self.sources if len(tokens.get(name, ()))}
        present = tuple(source for source in SOURCES if any(self.sources[name] == source for name in tokens))
        return Sensed(face=face, voice=voice, tokens=tokens, present=present)
