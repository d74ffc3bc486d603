"""The benchmark's arithmetic and its processes; no figure is asserted, only that it is told truly."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from emollama.errors import InputError
from eval.bench import ProcessRun, WarmRuns, sample_clip, start_process, summarise, warm_runs


class Counting:
    """An analyzer that says how often it was asked, as its time."""

    def __init__(self) -> None:
        self.calls = 0

    def analyze(self, source: Path) -> SimpleNamespace:
        self.calls += 1
        return SimpleNamespace(timings_ms={"decode": 10.0 * self.calls, "faces": 1.0})


def test_warm_runs_leave_out_the_first_analysis_and_report_medians() -> None:
    analyzer = Counting()
    warm = warm_runs(analyzer, Path("clip.mp4"), runs=3)  # type: ignore[arg-type]
    assert analyzer.calls == 4
    assert len(warm.total_ms) == 3
    assert warm.parts_ms == {"decode": 30.0, "faces": 1.0}


def test_summary_takes_medians_of_times_and_the_worst_of_memory() -> None:
    colds = [ProcessRun(seconds=seconds, peak_mib=peak) for seconds, peak in ((5.0, 900.0), (3.0, 950.0), (4.0, None))]
    helps = [ProcessRun(seconds=0.25, peak_mib=40.0)]
    warm = WarmRuns(total_ms=(10.0, 30.0, 20.0), parts_ms={"decode": 5.0})
    figures = summarise(Path("a/clip.mp4"), helps=helps, colds=colds, warm=warm, load_seconds=1.0)
    assert figures["cold_start_to_answer_seconds"] == 4.0
    assert figures["cold_peak_memory_mib"] == 950.0
    assert figures["warm_median_ms"] == 20.0
    assert figures["warm_slowest_ms"] == 30.0
    assert figures["clip"] == "clip.mp4"


def test_a_started_process_is_measured() -> None:
    run = start_process(["--help"])
    assert run.seconds > 0
    assert run.peak_mib is None or run.peak_mib > 5


def test_a_failing_process_is_an_error_with_its_words() -> None:
    with pytest.raises(InputError, match="ended with"):
        start_process(["no-such-command"])


def test_the_sample_is_bundled() -> None:
    assert sample_clip().stat().st_size > 1000
