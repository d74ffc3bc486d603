"""Clips of an hour and more: read window by window in bounded memory, judged in each, and as a whole."""

from emollama.long_clip.analysis import Chapter, LongAnalysis, TurningPoint, WindowAnalysis
from emollama.long_clip.kept import KeptWindow
from emollama.long_clip.walk import analyze_long, reads_long_clips

__all__ = [
    "Chapter",
    "KeptWindow",
    "LongAnalysis",
    "TurningPoint",
    "WindowAnalysis",
    "analyze_long",
    "reads_long_clips",
]
