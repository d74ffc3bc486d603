"""The review sheet: one HTML file with a random sample of a run, to be read and corrected in any browser, off line.

It asks for nothing from anywhere: pictures and curves are inside it, and its content security policy forbids any
request. Decisions and edited texts are exported as JSON by its script and applied by
`train.builders.merr.corrections`. Everything that comes from clips or models is escaped.
"""

from __future__ import annotations

import base64
import hashlib
import html
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from emollama.errors import DatasetError, InputError
from emollama.manifest import Manifest
from train.builders.merr.corrections import texts_sha256
from train.builders.merr.observation import Curve, Observation
from train.builders.merr.state import Record, RunFolder

TEMPLATE = Path(__file__).with_name("sheet.html")
_WIDTH, _HEIGHT, _LEFT, _TOP = 340, 46, 34, 20


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """Where the sheet is and how many samples of how many it shows."""

    path: Path
    shown: int
    of: int


def write_sheet(path: Path, manifest: Manifest, run: RunFolder, *, count: int = 50, seed: int = 0) -> Sheet:
    """Write a sheet of at most ``count`` finished samples, drawn by ``seed``, those not yet reviewed first.

    Raises `DatasetError` when the run has no finished sample.
    """
    if not 1 <= count <= 2000:
        raise InputError(f"sample is {count}; allowed: 1 to 2000", field="sample")
    records = [record for sample in manifest.samples if (record := run.load(sample)) is not None]
    done = [record for record in records if record.stage == "done"]
    if not done:
        raise DatasetError(f"{run.path} has no finished sample yet; run the builder first", field="run")
    order = {id(record): Random(f"{seed}:{record.id}").random() for record in done}
    chosen = sorted(done, key=lambda record: (record.review is not None, order[id(record)]))[:count]
    cards = "\n".join(_card(record, run, number) for number, record in enumerate(chosen, start=1))
    version = hashlib.sha256("".join(record.id + texts_sha256(record) for record in chosen).encode()).hexdigest()[:16]
    parts = {
        "%%TITLE%%": _escape(f"Review of {manifest.path.stem}"),
        "%%SUMMARY%%": f"{len(chosen)} of {len(done)} finished samples, drawn at random",
        "%%RUN%%": version,
        "%%CARDS%%": cards,
    }
    # one pass over the template: a placeholder's text is never searched for placeholders
    page = TEMPLATE.read_text(encoding="utf-8")
    for name in ("%%TITLE%%", "%%SUMMARY%%", "%%RUN%%", "%%CARDS%%"):
        page = page.replace(name, parts[name])
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(page, encoding="utf-8")
    os.replace(partial, path)
    return Sheet(path=path, shown=len(chosen), of=len(done))


def _card(record: Record, run: RunFolder, number: int) -> str:
    seen = record.observation
    assert seen is not None
    decided = None if record.review is None else record.review["decision"]
    checked = {name: " checked" if decided == name else "" for name in ("accept", "reject")}
    source = {"manifest": "given", "distribution": "largest share", "pseudo": f"pseudo-label of {seen.model}"}
    note = "" if record.review is None else _escape(record.review.get("note", ""))
    missing = "" if "fine" in record.fields else f' placeholder="{_escape(f"No draft: {record.reason}")}"'
    label = f"{source[seen.label_source]}, {seen.label_confidence:.0%}"
    if seen.seconds:
        label += f" · {seen.seconds:.1f} s"
    return f"""<article data-id="{_escape(record.id)}" data-sha256="{texts_sha256(record)}" aria-labelledby="h{number}">
<div class="head"><h2 id="h{number}">{_escape(record.id)}</h2><span class="label">{_escape(seen.label)}</span>
<span class="dim">{_escape(label)}</span></div>
<div>{_figure(record, run, seen)}{_plots(seen)}{_readings(record, seen)}</div>
<div>
<label for="c{number}">Coarse description</label><p class="question">{_escape(record.fields["coarse_question"])}</p>
<textarea id="c{number}" name="coarse" spellcheck="true">{_escape(record.fields["coarse"])}</textarea>
<label for="f{number}">Fine explanation</label><p class="question">{_escape(record.fields["fine_question"])}</p>
<textarea id="f{number}" name="fine" spellcheck="true"{missing}>{_escape(record.fields.get("fine", ""))}</textarea>
<fieldset><legend>Decision</legend>
<label><input type="radio" name="d{number}" value="accept"{checked["accept"]}> accept</label>
<label><input type="radio" name="d{number}" value="reject"{checked["reject"]}> reject</label></fieldset>
<label for="n{number}">Note</label>
<input type="text" id="n{number}" name="note" maxlength="2000" value="{note}">
</div>
</article>"""


def _figure(record: Record, run: RunFolder, seen: Observation) -> str:
    picture = run.picture(record)
    if picture is None:
        return '<p class="dim">No face, so no peak frame.</p>'
    at = "the picture" if seen.peak is None else f"peak frame at {seen.peak.time:.1f} s"
    what = "" if seen.peak is None else f", by {seen.peak.what}"
    encoded = base64.b64encode(picture).decode()
    return (
        f'<figure><img alt="{_escape(at.capitalize())} of {_escape(record.id)}" src="data:image/jpeg;base64,{encoded}">'
        f"<figcaption>{_escape(at[:1].upper() + at[1:] + what)}</figcaption></figure>"
    )


def _plots(seen: Observation) -> str:
    rows = [
        (name, title, unit, seen.curves[name])
        for name, title, unit in (("face", "face", ""), ("pitch", "pitch", "Hz"), ("loudness", "loudness", "dBFS"))
        if name in seen.curves
    ]
    if not rows:
        return ""
    end = max(max(curve.times) for *_, curve in rows) or 1.0
    height = len(rows) * (_HEIGHT + _TOP) + 16
    drawn = []
    for index, (name, title, unit, curve) in enumerate(rows):
        top = index * (_HEIGHT + _TOP) + _TOP
        drawn.append(_plot(name, f"{title} {unit}".strip(), curve, top=top, end=end))
    bottom = len(rows) * (_HEIGHT + _TOP)
    if seen.peak is not None:
        x = _x(seen.peak.time, end)
        drawn.append(f'<line class="peak" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{bottom}"/>')
    drawn.append(f'<text x="{_LEFT}" y="{bottom + 13}">0 s</text>')
    drawn.append(f'<text x="{_WIDTH}" y="{bottom + 13}" text-anchor="end">{end:.1f} s</text>')
    names = ", ".join(title for _, title, _, _ in rows)
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="Over time: {names}">' + "".join(drawn) + "</svg>"
    )


def _plot(name: str, title: str, curve: Curve, *, top: float, end: float) -> str:
    shown = [value for value in curve.values if value is not None]
    if not shown:
        return ""
    # a probability or a sum begins at 0; pitch and loudness are shown over the range they take
    low, high = (0.0, max(1.0, *shown)) if name == "face" else (min(shown), max(shown))
    span = high - low or 1.0
    steps, pen_up = [], True
    for time, value in zip(curve.times, curve.values, strict=True):
        if value is None:
            pen_up = True
            continue
        y = top + _HEIGHT - (value - low) / span * _HEIGHT
        steps.append(f"{'M' if pen_up else 'L'}{_x(time, end):.1f} {y:.1f}")
        if pen_up:  # a lone voiced frame is a dot
            steps.append("h.1")
        pen_up = False
    digits = 1 if name == "face" else 0
    return (
        f'<path class="axis" d="M{_LEFT} {top}v{_HEIGHT}H{_WIDTH}"/>'
        f'<text x="{_LEFT + 4}" y="{top - 5}">{title}</text>'
        f'<text x="{_LEFT - 4}" y="{top + 8}" text-anchor="end">{high:.{digits}f}</text>'
        f'<text x="{_LEFT - 4}" y="{top + _HEIGHT}" text-anchor="end">{low:.{digits}f}</text>'
        f'<path class="{name}" d="{"".join(steps)}"/>'
    )


def _x(time: float, end: float) -> float:
    return _LEFT + time / end * (_WIDTH - _LEFT)


def _readings(record: Record, seen: Observation) -> str:
    rows: list[tuple[str, str]] = []
    if seen.units:
        present = [unit for unit in seen.units if unit.present or (unit.intensity or 0.0) >= 0.8]
        rows.append(("action units", ", ".join(_unit(unit.code, unit.intensity) for unit in present) or "none"))
    elif seen.face is not None:
        top = sorted(seen.face.at_peak.items(), key=lambda item: -item[1])[:3]
        bars = "<br>".join(
            f'{_escape(name)} {p:.2f}<span class="bar" style="width:{6 * p:.2f}rem"></span>' for name, p in top
        )
        rows.append(("face at its peak", bars))
        rows.append(("valence, arousal", f"{seen.face.valence:+.2f}, {seen.face.arousal:+.2f}"))
    if seen.voice is not None:
        voice = seen.voice
        said = "" if voice.verdict is None else f"; sounds like {voice.verdict}"
        levels = f"pitch {voice.pitch}, loudness {voice.loudness}, rate {voice.rate}, melody {voice.melody}"
        rows.append(("voice", _escape(levels + said)))
    if seen.transcript:
        rows.append(("words", _escape(f"“{seen.transcript}” ({seen.transcript_source})")))
    if record.match is not None:
        rows.append(("kept because", _escape(record.match["reason"])))
    if "fine" in record.provenance:
        rows.append(("written by", _escape(_writer(record))))
    return "<dl>" + "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in rows) + "</dl>"


def _unit(code: str, intensity: float | None) -> str:
    return code if intensity is None else f"{code} {intensity:.1f}"


def _writer(record: Record) -> str:
    by = record.provenance.get("fine", {})
    names: Sequence[object] = (by.get("writer") or by.get("by"), by.get("model"))
    name = " ".join(dict.fromkeys(str(part) for part in names if part))
    attempt = by.get("attempt")
    return f"{name}, attempt {attempt}" if isinstance(attempt, int) else name


def _escape(text: str) -> str:
    return html.escape(text, quote=True)
