"""What people who are exposed to the service are told: who reads what of them, how, why, and their rights.

Article 50(3) of Regulation (EU) 2024/1689 wants them told; articles 13 and 14 of the GDPR say what of. The text is made
of the settings, so it says what the service does as it is set up; what the settings do not say stands in brackets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from emollama.errors import InputError
from server.trust.purposes import PURPOSES, require_allowed

if TYPE_CHECKING:
    from server.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Section:
    """A paragraph with its heading; ``name`` is the same in every language."""

    name: str
    heading: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Notice:
    """A notice in one language. ``missing`` names the settings without which it is not complete."""

    language: str
    title: str
    sections: tuple[Section, ...]
    purposes: tuple[str, ...]
    missing: tuple[str, ...]

    @property
    def text(self) -> str:
        """The whole of it, to be printed."""
        return "\n\n".join([self.title, *(f"{each.heading}. {each.text}" for each in self.sections)])


_ENGLISH: Mapping[str, Any] = {
    "title": "Expressions are read here",
    "open": {"controller": "[who is responsible]", "contact": "[how to reach them]", "purpose": "[what for]"},
    "sections": (
        (
            "what", "What is read",
            "A computer program looks at faces, listens to voices and reads the words in recordings, and notes what "
            "they appear to express: a label such as happiness with a number for how sure the program is, how "
            "pleasant and how aroused somebody appears, and what in the recording says so.",
        ),
        (
            "how", "How",
            "By statistics learned from other people's recordings that annotators had labelled. It says how somebody "
            "appears, never how somebody is or feels: people show what they do not feel and feel what they do not "
            "show. It is often wrong, and marks readings of which it is too unsure.",
        ),
        (
            "never", "What is not read",
            "Who somebody is, their sex, age, origin, health and character. Nobody is recognised again in another "
            "recording. No decision about a person may rest on a reading.",
        ),
        ("purpose", "What for", "{purposes}."),
        ("who", "Who is responsible", "{controller}. Contact: {contact}."),
        (
            "retention", "How long it is kept",
            "The program deletes a recording as soon as it has been read, and keeps its results for at most {days}; "
            "in memory, what was read of a recording that is being asked about stays for {minutes}. Recordings that "
            "are stored to be asked about again or to train on, which people are told of separately, stay {files}. "
            "{audit}",
        ),
        (
            "rights", "Your rights",
            "You may refuse to be read, and withdraw a consent. You may ask what is kept of you, have it corrected or "
            "deleted, object, and complain to a data protection authority. Ask the contact above.",
        ),
    ),
    "audit": (
        "That something was read, when, for whom and for what purpose, is written down for good, without anything of "
        "the recording.",
        "",
    ),
    "files": ("until they are deleted", "for at most {days}"),
    "day": ("{} day", "{} days"), "hour": ("{} hour", "{} hours"), "minute": ("{} minute", "{} minutes"),
    "comma": ".",
}  # fmt: skip
_GERMAN: Mapping[str, Any] = {
    "title": "Hier werden Ausdrücke gedeutet",
    "open": {"controller": "[wer verantwortlich ist]", "contact": "[wie erreichbar]", "purpose": "[wofür]"},
    "sections": (
        (
            "what", "Was gedeutet wird",
            "Ein Computerprogramm betrachtet Gesichter, hört Stimmen und liest die Worte in Aufnahmen und hält fest, "
            "was sie auszudrücken scheinen: eine Bezeichnung wie Freude mit einer Zahl dafür, wie sicher das Programm "
            "ist, wie angenehm berührt und wie erregt jemand wirkt, und woran es das in der Aufnahme erkennt.",
        ),
        (
            "how", "Wie",
            "Mit Statistik, gelernt an Aufnahmen anderer Menschen, die von Dritten bezeichnet wurden. Es sagt, wie "
            "jemand wirkt, nie, wie jemand ist oder was jemand fühlt: Menschen zeigen, was sie nicht fühlen, und "
            "fühlen, was sie nicht zeigen. Es irrt oft und kennzeichnet Deutungen, deren es zu unsicher ist.",
        ),
        (
            "never", "Was nicht gedeutet wird",
            "Wer jemand ist, Geschlecht, Alter, Herkunft, Gesundheit und Wesen. Niemand wird in einer anderen "
            "Aufnahme wiedererkannt. Keine Entscheidung über einen Menschen darf auf einer Deutung beruhen.",
        ),
        ("purpose", "Wofür", "{purposes}."),
        ("who", "Wer verantwortlich ist", "{controller}. Kontakt: {contact}."),
        (
            "retention", "Wie lange etwas bleibt",
            "Das Programm löscht eine Aufnahme, sobald sie gedeutet ist, und behält die Ergebnisse höchstens {days}; "
            "im Arbeitsspeicher bleibt, was von einer Aufnahme gelesen wurde, nach der gefragt wird, {minutes}. "
            "Aufnahmen, die für weitere Fragen oder zum Trainieren gespeichert werden, worüber gesondert unterrichtet "
            "wird, bleiben {files}. {audit}",
        ),
        (
            "rights", "Ihre Rechte",
            "Sie können ablehnen, gedeutet zu werden, und eine Einwilligung widerrufen. Sie können erfragen, was über "
            "Sie gespeichert ist, es berichtigen oder löschen lassen, widersprechen und sich bei einer "
            "Datenschutzbehörde beschweren. Wenden Sie sich an den genannten Kontakt.",
        ),
    ),
    "audit": (
        "Dass gedeutet wurde, wann, für wen und wofür, wird dauerhaft vermerkt, ohne etwas aus der Aufnahme.",
        "",
    ),
    "files": ("bis zu ihrer Löschung", "höchstens {days}"),
    "day": ("{} Tag", "{} Tage"), "hour": ("{} Stunde", "{} Stunden"), "minute": ("{} Minute", "{} Minuten"),
    "comma": ",",
}  # fmt: skip
_LANGUAGES: Mapping[str, Mapping[str, Any]] = MappingProxyType({"en": _ENGLISH, "de": _GERMAN})
LANGUAGES: tuple[str, ...] = tuple(_LANGUAGES)


def make_notice(settings: Settings, *, language: str = "en", purpose: str | None = None) -> Notice:
    """Return the notice; ``purpose`` is for one of several, or where the service declares none. Raises `InputError`."""
    if language not in _LANGUAGES:
        raise InputError(f"language is {language[:20]!r}; allowed: {', '.join(LANGUAGES)}", field="language")
    purposes = settings.purpose
    if purpose is not None:
        name = require_allowed(purpose).name
        if purposes and name not in purposes:
            raise InputError(f"purpose is {name!r}; declared: {', '.join(purposes)}", field="purpose")
        purposes = (name,)
    words = _LANGUAGES[language]
    given = {"controller": settings.controller, "contact": settings.contact}
    missing = [name for name, value in given.items() if not value] + ([] if purposes else ["purpose"])
    values = {
        "controller": settings.controller or words["open"]["controller"],
        "contact": settings.contact or words["open"]["contact"],
        "purposes": _listed(purposes, language) or words["open"]["purpose"],
        "days": _span(settings.analysis_retention_seconds, words),
        "minutes": _span(settings.chat_cache_seconds, words),
        "audit": words["audit"][0 if settings.audit else 1],
    }
    expiry = settings.file_expire_seconds
    values["files"] = words["files"][0] if expiry is None else words["files"][1].format(days=_span(expiry, words))
    sections = tuple(
        Section(name=name, heading=heading, text=text.format(**values).strip())
        for name, heading, text in words["sections"]
    )
    return Notice(language=language, title=words["title"], sections=sections, purposes=purposes, missing=tuple(missing))


def _listed(purposes: Sequence[str], language: str) -> str:
    told = [PURPOSES[name].german if language == "de" else PURPOSES[name].meaning for name in purposes]
    text = "; ".join(told)
    return text[:1].upper() + text[1:]


def _span(seconds: float, words: Mapping[str, Any]) -> str:
    """Return a time in the largest unit of which there are at least two."""
    for unit, size in (("day", 86_400), ("hour", 3600), ("minute", 60)):
        if seconds >= 2 * size or unit == "minute":
            number = f"{seconds / size:.1f}".removesuffix(".0")
            one, several = words[unit]
            return str((one if number == "1" else several).format(number.replace(".", words["comma"])))
    raise AssertionError("minutes are the smallest unit")
