"""What can be said of the clips: are they there, inside, media, decodable, within limits; how long are they.

Each clip is opened once and decoded once at a low rate, in a few threads; limits hold as everywhere
(`emollama.media`). A failure is a problem with a line, never an exception.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from emollama.errors import EmoLlamaError, MediaLimitError, UnsupportedMediaError
from emollama.media import MediaLimits
from train.data.report import Findings
from train.data.row_checks import Facts, path_problem

Progress = Callable[[int, int], None]
_SLACK_SECONDS = 0.25  # between what a person reads off a player and what the file holds


@dataclass(frozen=True, kw_only=True)
class ClipFacts:
    """What was found in one clip's file. ``problem`` is (code, what is wrong) when it cannot be used."""

    seconds: float = 0.0
    sha256: str | None = None
    has_picture: bool = False
    has_sound: bool = False
    is_silent: bool = False
    warnings: tuple[str, ...] = ()
    problem: tuple[str, str] | None = None


Probe = Callable[[Path, MediaLimits], ClipFacts]


def probe_clip(path: Path, limits: MediaLimits) -> ClipFacts:
    """Decode a clip thinly and say what is in it; whatever is wrong becomes a ``problem``."""
    from av.error import FFmpegError

    from emollama.media import read_clip

    try:
        if path.stat().st_size == 0:
            return ClipFacts(problem=("empty_clip", "the file holds no bytes"))
        clip = read_clip(path, fps=0.5, max_samples=2, max_long_side=64, limits=limits, threads=1)
    except UnsupportedMediaError as error:
        return ClipFacts(problem=("not_media", str(error)))
    except MediaLimitError as error:
        return ClipFacts(problem=("clip_over_limit", str(error)))
    except EmoLlamaError as error:
        return ClipFacts(problem=("undecodable_clip", str(error)))
    except (FFmpegError, ValueError, ArithmeticError, LookupError, AttributeError, RuntimeError, MemoryError) as error:
        return ClipFacts(problem=("undecodable_clip", f"the file is damaged ({error})"))
    except OSError as error:
        return ClipFacts(problem=("unreadable_clip", error.strerror or str(error)))
    return ClipFacts(
        seconds=clip.seconds,
        sha256=clip.sha256,
        has_picture=clip.frames is not None,
        has_sound=clip.audio is not None,
        is_silent=clip.audio is not None and not clip.audio.samples.any(),
        warnings=clip.warnings,
    )


def probe_clips(
    clips: Iterable[str],
    folder: Path,
    *,
    limits: MediaLimits,
    probe: Probe = probe_clip,
    workers: int = 2,
    progress: Progress | None = None,
) -> dict[str, ClipFacts]:
    """Return what is in each clip, by its path in the manifest; ``progress`` hears (done, total) in this thread."""
    root = folder.resolve()
    wanted = list(dict.fromkeys(clips))
    found = {clip: _place(clip, folder, root) for clip in wanted}
    facts = {clip: place for clip, place in found.items() if isinstance(place, ClipFacts)}
    files: dict[Path, list[str]] = {}
    for clip, place in found.items():
        if isinstance(place, Path):
            files.setdefault(place, []).append(clip)
    done, total = len(facts), len(wanted)
    if progress is not None:
        progress(done, total)
    with ThreadPoolExecutor(max_workers=max(1, workers)) as pool:
        try:
            running = {pool.submit(probe, file, limits): file for file in files}
            for future in as_completed(running):
                names = files[running[future]]
                facts.update(dict.fromkeys(names, future.result()))
                done += len(names)
                if progress is not None:
                    progress(done, total)
        except BaseException:  # stopped from outside: what was not begun is not begun
            pool.shutdown(cancel_futures=True)
            raise
    return facts


def _place(clip: str, folder: Path, root: Path) -> Path | ClipFacts:
    """Return the file that a path means, or why it means none."""
    wrong = path_problem(clip)
    if wrong is not None:
        return ClipFacts(problem=("clip_outside", wrong))
    path = folder / clip
    try:
        resolved = path.resolve()
        if not resolved.is_relative_to(root):
            return ClipFacts(problem=("clip_outside", "leads out of the folder through a link"))
        if not os.path.lexists(path):
            return ClipFacts(problem=("missing_clip", "there is no such file"))
        if not resolved.is_file():
            what = "a folder" if resolved.is_dir() else "no regular file"
            return ClipFacts(problem=("missing_clip", f"is {what}"))
    except (OSError, ValueError, RuntimeError) as error:  # too long a name, a NUL, links in a circle
        return ClipFacts(problem=("missing_clip", f"is no path that can be followed ({error})"))
    return resolved


def check_clips(rows: Iterable[Facts], clips: Mapping[str, ClipFacts], findings: Findings) -> None:
    """Note the problems of each row's clip, and of its stretch within it."""
    warned: set[str] = set()
    for row in rows:
        if row.clip is None:
            continue
        facts = clips[row.clip]
        if facts.problem is not None:
            code, message = facts.problem
            findings.add(code, message, line=row.line, field="clip", value=row.clip)
            continue
        if row.clip not in warned:
            warned.add(row.clip)
            for warning in facts.warnings:
                findings.add("damaged_clip", warning, line=row.line, field="clip", value=row.clip)
        if facts.is_silent:
            if not facts.has_picture and not row.words:
                message = "the clip is digital silence without a picture, and there is no transcript"
                findings.add("no_modality", message, line=row.line, field="clip", value=row.clip)
            elif not facts.has_picture:
                message = "the sound is digital silence; only the words are left"
                findings.add("silent_clip", message, line=row.line, field="clip", value=row.clip)
        length = f"0 to {facts.seconds:.3g} s, the clip's length"
        if row.start is not None and row.start >= facts.seconds:
            message = f"is {row.start:g} s, but the clip ends at {facts.seconds:.3g} s"
            findings.add("start_past_end", message, line=row.line, field="start", value=row.start, allowed=length)
        elif row.end is not None and row.end > facts.seconds + _SLACK_SECONDS:
            message = f"is {row.end:g} s, but the clip ends at {facts.seconds:.3g} s"
            findings.add("end_past_end", message, line=row.line, field="end", value=row.end, allowed=length)
