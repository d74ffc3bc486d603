"""What the service may be used for and what it may not: the one list of purposes, each with its words and its ground.

The law is Regulation (EU) 2024/1689 (the AI Act), article 5; two grounds are this project's own (``docs/ethics.md``).
Article 5(1)(f) forbids to infer emotions of people at work and in education but for medical or safety reasons. Such an
exception is the operator's to declare, with its reason, for a key or the whole service; a request cannot claim it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from emollama.errors import InputError

HEADER = "EmoLLaMA-Purpose"
_AT_WORK_OR_SCHOOL = "Regulation (EU) 2024/1689, article 5(1)(f)"
_OWN_RULE = "a rule of this project (docs/ethics.md)"


@dataclass(frozen=True, kw_only=True)
class Purpose:
    """What emotions are read for, as it stands in a notice: ``meaning`` in English, ``german`` in German.

    ``ground`` is what prohibits it; None: it is allowed. ``is_exception``: allowed only where the operator declared it
    with a reason.
    """

    name: str
    meaning: str
    german: str
    ground: str | None = None
    is_exception: bool = False


def _by_name(*purposes: Purpose) -> Mapping[str, Purpose]:
    return MappingProxyType({purpose.name: purpose for purpose in purposes})


PURPOSES: Mapping[str, Purpose] = _by_name(
    Purpose(name="personal", meaning="reading one's own recordings", german="Deuten eigener Aufnahmen"),
    Purpose(
        name="research", meaning="scientific research with people who take part in it",
        german="wissenschaftliche Forschung mit Menschen, die daran teilnehmen",
    ),
    Purpose(
        name="evaluation", meaning="testing and measuring this program", german="Prüfen und Messen dieses Programms"
    ),
    Purpose(
        name="usability", meaning="trying out products with people who agreed to it",
        german="Erproben von Produkten mit Menschen, die dem zugestimmt haben",
    ),
    Purpose(
        name="media", meaning="describing films, broadcasts and other published recordings",
        german="Beschreiben von Filmen, Sendungen und anderen veröffentlichten Aufnahmen",
    ),
    Purpose(
        name="accessibility", meaning="helping people to make out what others express",
        german="Hilfe für Menschen, die den Ausdruck anderer schwer erkennen",
    ),
    Purpose(name="creative", meaning="games, art and animation", german="Spiele, Kunst und Animation"),
    Purpose(name="medical", meaning="medical care and therapy", german="medizinische Behandlung und Therapie"),
    Purpose(
        name="safety", meaning="averting danger to life and health, not at work or in education",
        german="Abwehr von Gefahren für Leib und Leben, nicht bei der Arbeit oder in der Bildung",
    ),
    Purpose(
        name="workplace_medical", meaning="medical reasons at work", german="medizinische Gründe bei der Arbeit",
        is_exception=True,
    ),
    Purpose(
        name="workplace_safety", meaning="safety reasons at work", german="Gründe der Sicherheit bei der Arbeit",
        is_exception=True,
    ),
    Purpose(
        name="education_medical", meaning="medical reasons in education",
        german="medizinische Gründe in der Bildung", is_exception=True,
    ),
    Purpose(
        name="education_safety", meaning="safety reasons in education",
        german="Gründe der Sicherheit in der Bildung", is_exception=True,
    ),
    Purpose(
        name="workplace", meaning="inferring emotions of people at work", ground=_AT_WORK_OR_SCHOOL,
        german="Ableiten von Emotionen bei der Arbeit",
    ),
    Purpose(
        name="recruitment", meaning="inferring emotions of people who apply for work", ground=_AT_WORK_OR_SCHOOL,
        german="Ableiten von Emotionen bei Bewerbungen",
    ),
    Purpose(
        name="education", meaning="inferring emotions of people in education, in exams as well",
        ground=_AT_WORK_OR_SCHOOL, german="Ableiten von Emotionen in der Bildung, auch in Prüfungen",
    ),
    Purpose(
        name="manipulation", meaning="influencing people without their knowing",
        ground="Regulation (EU) 2024/1689, article 5(1)(a)", german="unbemerktes Beeinflussen von Menschen",
    ),
    Purpose(
        name="social_scoring", meaning="rating people by how they behave or are",
        ground="Regulation (EU) 2024/1689, article 5(1)(c)", german="Bewerten von Menschen nach Verhalten oder Wesen",
    ),
    Purpose(
        name="crime_prediction", meaning="foretelling crimes from what people are like",
        ground="Regulation (EU) 2024/1689, article 5(1)(d)", german="Vorhersagen von Straftaten aus Eigenschaften",
    ),
    Purpose(
        name="biometric_categorisation", meaning="deducing origin, opinions, faith or sexual life from bodies",
        ground="Regulation (EU) 2024/1689, article 5(1)(g)",
        german="Ableiten von Herkunft, Ansichten, Glauben oder Sexualleben aus Körpermerkmalen",
    ),
    Purpose(
        name="decisions", meaning="deciding about people: work, insurance, credit, policing, borders, care",
        ground=_OWN_RULE,
        german="Entscheiden über Menschen: Arbeit, Versicherung, Kredit, Polizei, Grenzen, Pflege",
    ),
    Purpose(
        name="covert", meaning="reading people who do not know of it", ground=_OWN_RULE,
        german="Deuten von Menschen, die nichts davon wissen",
    ),
)  # fmt: skip

ALLOWED: tuple[str, ...] = tuple(name for name, purpose in PURPOSES.items() if purpose.ground is None)


def as_name(text: str) -> str:
    """Return how a purpose is written: small letters, underscores."""
    return text.strip().lower().replace("-", "_").replace(" ", "_")


def require_allowed(text: str, *, field: str = "purpose") -> Purpose:
    """Return the purpose of that name; raises `InputError` when it is prohibited or not known."""
    purpose = PURPOSES.get(as_name(text))
    if purpose is None:
        raise InputError(f"{field} is {text[:60]!r}; allowed: {', '.join(ALLOWED)}", field=field)
    if purpose.ground is not None:
        raise InputError(
            f"{field} is {purpose.name!r}, which is prohibited by {purpose.ground}; allowed: {', '.join(ALLOWED)}",
            field=field,
        )
    return purpose


def require_reason(names: Sequence[str], reason: str, *, field: str) -> None:
    """Raise `InputError` when an exception of article 5(1)(f) is declared without saying what it rests on."""
    for name in names:
        if PURPOSES[name].is_exception and not reason.strip():
            raise InputError(
                f"{field} is empty; purpose {name!r} is an exception of Regulation (EU) 2024/1689, article 5(1)(f): "
                "say what it rests on",
                field=field,
            )
