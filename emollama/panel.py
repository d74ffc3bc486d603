"""An `Analysis` as a rich renderable for a terminal: verdict, scores as bars, timeline strip, evidence, rationale.

Everything a caller named (labels, words, file names) is shown as plain text, never as markup.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from emollama.labels import NANO_LABELS, adjective, canonical
from emollama.long_clip.analysis import LongAnalysis
from emollama.long_clip.clock import clock
from emollama.types import Analysis, Segment

_COLOURS = {
    "neutral": "grey70", "happiness": "yellow", "surprise": "cyan", "sadness": "blue", "anger": "red",
    "disgust": "green", "fear": "magenta", "contempt": "dark_orange",
}  # fmt: skip
_OTHER_COLOURS = ("spring_green3", "orchid", "deep_sky_blue1", "salmon1", "khaki1")
_BAR, _STRIP = 28, 60
_TITLES = {"visual": "face", "audio": "voice", "text": "words"}


def colour(label: str, labels: Sequence[str] = ()) -> str:
    """Return the terminal colour of a label; labels of a caller's own set get one by their place in it."""
    known = _COLOURS.get(canonical(label))
    return known or _OTHER_COLOURS[(list(labels).index(label) if label in labels else 0) % len(_OTHER_COLOURS)]


def render(analysis: Analysis) -> Panel:
    """Return the panel that `emollama analyze` prints for one clip."""
    parts: list[RenderableType] = [_verdict(analysis), Text(), _scores(analysis)]
    if analysis.timeline:
        parts += [Text(), strip(analysis.timeline, seconds=analysis.seconds)]
    parts += [Text(), Text(analysis.rationale)]
    if any(analysis.evidence.values()):
        parts += [Text(), _evidence(analysis)]
    return _panel(analysis, parts)


def render_long(answer: LongAnalysis) -> Panel:
    """Return the panel for a long clip: the whole as for a short one, with its course in place of single segments."""
    whole = answer.whole
    parts: list[RenderableType] = [_verdict(whole), Text(), _scores(whole)]
    if answer.chapters:
        parts += [Text(), _course(answer)]
    parts += [Text(), Text(whole.rationale)]
    if any(whole.evidence.values()):
        parts += [Text(), _evidence(whole, in_clock_times=True)]
    return _panel(whole, parts)


def _course(answer: LongAnalysis) -> Group:
    """A strip of the windows' labels over the clip's time, then the chapters and the seconds of each label."""
    length = max(answer.whole.seconds, 1e-6)
    labels = list(answer.whole.emotion.scores)
    cells = [("·", "dim")] * _STRIP
    for window in answer.windows:
        if window.emotion.label is not None:
            first = min(int(window.start / length * _STRIP), _STRIP - 1)
            last = max(first + 1, round(window.end / length * _STRIP))
            shade = ("▒" if window.emotion.abstained else "█", colour(window.emotion.label, labels))
            cells[first : min(last, _STRIP)] = [shade] * (min(last, _STRIP) - first)
    line = Text()
    for character, style in cells:
        line.append(character, style=style)
    table = Table.grid(padding=(0, 2))
    for chapter in answer.chapters:
        table.add_row(
            Text(f"{clock(chapter.start)}-{clock(chapter.end)}", style="dim"),
            Text(chapter.label, style=colour(chapter.label, labels)),
            Text(f"{chapter.scores[chapter.label]:.0%}", style="dim"),
        )
    spent = " · ".join(f"{label} {clock(seconds)}" for label, seconds in answer.time_by_label.items())
    below = f"{len(answer.windows)} windows of {answer.window_seconds:g} s: {spent}"
    return Group(line, table, Text(below, style="dim"))


def _panel(analysis: Analysis, parts: list[RenderableType]) -> Panel:
    parts += [Text(), _used(analysis)]
    parts += [Text(f"! {warning}", style="dark_orange") for warning in analysis.warnings]
    total = analysis.timings_ms.get("total")
    model = analysis.model if analysis.adapter is None else f"{analysis.model} + {analysis.adapter}"
    below = model if total is None else f"{model} · {total / 1000:.2f} s"
    return Panel(Group(*parts), title=Text(analysis.clip), subtitle=Text(below), title_align="left", padding=(1, 2))


def _verdict(analysis: Analysis) -> Text:
    emotion = analysis.emotion
    if emotion.label is None:
        text = Text("nothing to judge", style="bold")
    else:
        word = adjective(emotion.label) if emotion.label in NANO_LABELS else emotion.label
        text = Text(f"appears {word}", style=f"bold {colour(emotion.label, list(emotion.scores))}")
        text.append(f"  {emotion.confidence:.0%}", style="bold")
    if emotion.abstained and emotion.label is not None:
        text.append("  abstained: too unsure to claim", style="dark_orange")
    if analysis.affect.valence is not None and analysis.affect.arousal is not None:
        text.append(f"\nvalence {analysis.affect.valence:+.2f}  arousal {analysis.affect.arousal:+.2f}", style="dim")
        text.append(f"  ({analysis.affect.source})", style="dim")
    if analysis.open_vocabulary:
        text.append(f"\nalso: {', '.join(analysis.open_vocabulary)}", style="dim")
    return text


def _scores(analysis: Analysis) -> Table:
    table = Table.grid(padding=(0, 1))
    scores = analysis.emotion.scores
    for name, score in sorted(scores.items(), key=lambda item: -item[1]):
        filled = round(score * _BAR)
        bar = Text("█" * filled, style=colour(name, list(scores)))
        bar.append("░" * (_BAR - filled), style="dim")
        table.add_row(Text(name), bar, Text(f"{score:6.1%}"))
    return table


def strip(timeline: Sequence[Segment], *, seconds: float, width: int = _STRIP) -> Group:
    """Return one coloured strip a track over the clip's time, and a legend with spans."""
    length = max(seconds, max(segment.end for segment in timeline), 1e-6)
    lines: list[RenderableType] = []
    for track in dict.fromkeys(segment.track for segment in timeline):
        cells = [("·", "dim")] * width
        own = [segment for segment in timeline if segment.track == track]
        for segment in own:
            first = min(int(segment.start / length * width), width - 1)
            last = max(first + 1, round(segment.end / length * width))
            cells[first : min(last, width)] = [("█", colour(segment.label))] * (min(last, width) - first)
        line = Text(f"face {track} ")
        for character, style in cells:
            line.append(character, style=style)
        lines.append(line)
        legend = Text(" " * len(f"face {track} "))
        for segment in own:
            legend.append(f"{segment.label} {segment.start:.1f}-{segment.end:.1f} s  ", style=colour(segment.label))
        lines.append(legend)
    return Group(*lines)


def _evidence(analysis: Analysis, *, in_clock_times: bool = False) -> Table:
    table = Table.grid(padding=(0, 2))
    for modality, items in analysis.evidence.items():
        for item in items:
            value = f"{item.value:.2f}" if isinstance(item.value, float) else str(item.value)
            span = f"{clock(item.start)}-{clock(item.end)}" if in_clock_times else f"{item.start:5.1f}-{item.end:.1f} s"
            table.add_row(
                Text(_TITLES[modality], style="dim"),
                Text(span, style="dim"),
                Text(item.cue),
                Text(value, style="dim"),
            )
    return table


def _used(analysis: Analysis) -> Text:
    use = analysis.modalities
    faces = f"{use.visual.faces} face{'' if use.visual.faces == 1 else 's'} in {use.visual.frames} frames"
    parts = [
        f"face {'used' if use.visual.used else 'not used'} ({faces})",
        f"voice {'used' if use.audio.used else 'not used'} ({use.audio.voiced_seconds:.1f} s voiced)",
        f"words {'used' if use.text.used else 'not used'}" + (f" ({use.text.source})" if use.text.source else ""),
    ]
    return Text(" · ".join(parts), style="dim")
