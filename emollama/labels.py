"""Emotion taxonomies, the maps between them, and the names people use for the same emotion.

A taxonomy is an ordered tuple of names whose index is the class index of the data set it comes from. The orders
are public facts of those data sets: FER+ (Barsoum et al., ICMI 2016), Ekman 7 and the 28 fine labels of GoEmotions
(Demszky et al., ACL 2020), MER2023/2024 (MERTools), AffectNet (Mollahosseini et al., 2017), Aff-Wild2 / ABAW.
Nothing here touches a model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from emollama.errors import InputError, UnknownNameError

# The set nano answers with unless the caller names another: Ekman's six, neutral, and contempt.
NANO_LABELS = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt")

FERPLUS_VOTES = (*NANO_LABELS, "unknown", "not-a-face")
EKMAN_7 = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")
EMODB_6 = ("anger", "disgust", "fear", "happiness", "neutral", "sadness")
MER_6 = ("neutral", "anger", "happiness", "sadness", "worry", "surprise")
AFFECTNET_8 = ("neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger", "contempt")
HSEMOTION_8 = ("anger", "contempt", "disgust", "fear", "happiness", "neutral", "sadness", "surprise")
ABAW_8 = ("neutral", "anger", "disgust", "fear", "happiness", "sadness", "surprise", "other")
# Action units of the Facial Action Coding System that Aff-Wild2 is annotated with, in its order.
ABAW_UNITS = ("AU1", "AU2", "AU4", "AU6", "AU7", "AU10", "AU12", "AU15", "AU23", "AU24", "AU25", "AU26")
PLUTCHIK_8 = ("anger", "anticipation", "disgust", "fear", "joy", "sadness", "surprise", "trust")
GOEMOTIONS_28 = (
    "admiration", "amusement", "anger", "annoyance", "approval", "caring", "confusion", "curiosity", "desire",
    "disappointment", "disapproval", "disgust", "embarrassment", "excitement", "fear", "gratitude", "grief", "joy",
    "love", "nervousness", "optimism", "pride", "realization", "relief", "remorse", "sadness", "surprise", "neutral",
)  # fmt: skip

TAXONOMIES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "nano": NANO_LABELS,
        "ekman": EKMAN_7,
        "emodb": EMODB_6,
        "mer": MER_6,
        "affectnet": AFFECTNET_8,
        "hsemotion": HSEMOTION_8,
        "abaw": ABAW_8,
        "plutchik": PLUTCHIK_8,
        "goemotions": GOEMOTIONS_28,
    }
)

# The 28 fine labels of GoEmotions grouped as its authors group them (ekman_mapping.json of the data release).
GOEMOTIONS_TO_EKMAN: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("anger", "annoyance", "disapproval"), "anger"),
        "disgust": "disgust",
        **dict.fromkeys(("fear", "nervousness"), "fear"),
        **dict.fromkeys(
            ("joy", "amusement", "approval", "excitement", "gratitude", "love", "optimism", "relief", "pride",
             "admiration", "desire", "caring"),
            "happiness",
        ),
        **dict.fromkeys(("sadness", "disappointment", "embarrassment", "grief", "remorse"), "sadness"),
        **dict.fromkeys(("surprise", "realization", "confusion", "curiosity"), "surprise"),
        "neutral": "neutral",
    }
)  # fmt: skip

# Names that mean one of nano's emotions. A caller may write any of them; the answer keeps the caller's word.
_ALIASES: Mapping[str, tuple[str, ...]] = {
    "neutral": ("calm", "no emotion", "none"),
    "happiness": ("happy", "joy", "joyful", "happily", "glad"),
    "surprise": ("surprised", "astonished", "astonishment"),
    "sadness": ("sad", "unhappy", "sorrow"),
    "anger": ("angry", "mad", "furious"),
    "disgust": ("disgusted",),
    "fear": ("afraid", "fearful", "scared", "anxiety"),
    "contempt": ("contemptuous",),
    "worry": ("worried",),
    "boredom": ("bored",),
}
ALIASES: Mapping[str, str] = MappingProxyType({alias: name for name, group in _ALIASES.items() for alias in group})

# How a rationale says it: "The person appears {adjective}".
ADJECTIVES: Mapping[str, str] = MappingProxyType(
    {
        "neutral": "neutral", "happiness": "happy", "surprise": "surprised", "sadness": "sad", "anger": "angry",
        "disgust": "disgusted", "fear": "afraid", "contempt": "contemptuous", "worry": "worried", "boredom": "bored",
        "admiration": "admiring", "amusement": "amused", "annoyance": "annoyed", "approval": "approving",
        "caring": "caring",
        "confusion": "confused", "curiosity": "curious", "desire": "full of desire", "disappointment": "disappointed",
        "disapproval": "disapproving", "embarrassment": "embarrassed", "excitement": "excited", "gratitude": "grateful",
        "grief": "grief-stricken", "love": "loving", "nervousness": "nervous", "optimism": "optimistic",
        "pride": "proud",
        "realization": "struck by a realization", "relief": "relieved", "remorse": "remorseful", "trust": "trusting",
        "anticipation": "expectant",
    }
)  # fmt: skip

# Valence and arousal in [-1, 1] of each expression: our reading of where the emotion lies on Russell's circumplex
# (Russell, J. Pers. Soc. Psychol. 39, 1980, fig. 4); used where a data set has classes but no measured affect.
CIRCUMPLEX: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "neutral": (0.0, 0.0), "happiness": (0.80, 0.35), "surprise": (0.15, 0.75), "sadness": (-0.70, -0.35),
        "anger": (-0.60, 0.65), "disgust": (-0.65, 0.30), "fear": (-0.60, 0.70), "contempt": (-0.50, 0.15),
    }
)  # fmt: skip


def canonical(name: str) -> str:
    """Return the project's noun for an emotion name: ``"Happy" -> "happiness"``; others are only lower-cased."""
    key = " ".join(name.strip().lower().split())
    return ALIASES.get(key, key)


def adjective(name: str) -> str:
    """Return the word that completes "the person appears ..." for a label; a label without one is returned as it is."""
    return ADJECTIVES.get(canonical(name), name)


def taxonomy(name: str) -> tuple[str, ...]:
    """Return the labels of a named taxonomy; an unknown name raises `UnknownNameError` with the list."""
    if name not in TAXONOMIES:
        raise UnknownNameError("taxonomy", name, TAXONOMIES)
    return TAXONOMIES[name]


def parse_label_set(labels: str | Sequence[str]) -> tuple[str, ...]:
    """Read a closed label set: a taxonomy's name, a comma-separated string, or a sequence of names.

    Raises `InputError` (field ``labels``) for fewer than two names, more than 64, a name over 40 characters, a name
    with control characters, or two names for the same emotion.
    """
    if isinstance(labels, str):
        if labels.strip() in TAXONOMIES:
            return TAXONOMIES[labels.strip()]
        names = [part.strip() for part in labels.split(",")]
    else:
        names = [part.strip() for part in labels]
    names = [name for name in names if name]
    if not 2 <= len(names) <= 64:
        raise InputError(f"labels holds {len(names)} names; allowed: 2 to 64", field="labels")
    for name in names:
        if len(name) > 40 or not name.isprintable():
            raise InputError(f"label {name[:60]!r} is not allowed; at most 40 printable characters", field="labels")
    seen: dict[str, str] = {}
    for name in names:
        key = canonical(name)
        if key in seen:
            raise InputError(f"labels {seen[key]!r} and {name!r} name the same emotion; keep one", field="labels")
        seen[key] = name
    return tuple(names)
