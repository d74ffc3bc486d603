"""A camera and a microphone, read while they run: what was seen and heard lately, and what it appears to say."""

from emollama.glance import Eye, Glance, Look, OwnEye, PictureLimits, Sighting
from emollama.live.readings import LiveFace, LiveReading, LiveVoice, Pictures
from emollama.live.session import LiveOptions, LiveSession, reads_live

__all__ = [
    "Eye",
    "Glance",
    "LiveFace",
    "LiveOptions",
    "LiveReading",
    "LiveSession",
    "LiveVoice",
    "Look",
    "OwnEye",
    "PictureLimits",
    "Pictures",
    "Sighting",
    "reads_live",
]
