"""EmoLLaMA: what a person in a clip seems to feel, and what in the picture, the voice and the words says so."""

from emollama._version import __version__

__all__ = ["__version__"]
