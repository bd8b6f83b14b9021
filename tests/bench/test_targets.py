"""Which figures reach a target: rows, ratios and verdicts."""

from __future__ import annotations

from pathlib import Path

import pytest
from side_by_side.plot import latencies
from side_by_side.report import BEGIN, END, write_markdown
from side_by_side.results import Results, load, save
from side_by_side.targets import Row, bound_text, outcome, quartiles

FIGURES = {
    "moba/1/native": [10.0, 8.0, 100.0],
    "moba/1/ONNX Runtime": [50.0, 50.0, 250.0],
    "moba/1/ONNX Runtime (bound)": [40.0, 40.0, 200.0],
    "moba/1/eager": [80.0, 80.0, 80.0],
    "moba/32/native": [20.0, 20.0, 20.0],
    "start/native": [3.0, 9.0, 4.0],
}
ONNX = ("moba/1/ONNX Runtime", "moba/1/ONNX Runtime (bound)")


def row(relation: str, bound: float, others: tuple[str, ...] = ONNX) -> Row:
    assert relation in ("time", "speed")
    return Row("moba", "moba/1/native", "time" if relation == "time" else "speed", bound, others)


def test_a_ratio_is_that_of_the_rounds_and_not_of_the_medians() -> None:
    # The noisy round hits both sides: 10/40, 8/40, 100/200.
    found = outcome(row("time", 0.25), FIGURES, {})
    assert found.value == 0.25
    assert found.verdict == "reached"
    assert (found.own, found.other) == (10.0, 40.0)


def test_the_fastest_variant_of_a_peer_counts() -> None:
    assert outcome(row("time", 1.0), FIGURES, {}).best == "moba/1/ONNX Runtime (bound)"
    assert outcome(row("speed", 1.0, (*ONNX, "moba/1/eager")), FIGURES, {}).value == 4.0


@pytest.mark.parametrize(
    ("relation", "bound", "verdict"),
    [
        *(("time", 0.25, "reached"), ("time", 0.249, "missed")),
        *(("speed", 4.0, "reached"), ("speed", 4.001, "missed")),
    ],
)
def test_a_bound_itself_is_reached(relation: str, bound: float, verdict: str) -> None:
    assert outcome(row(relation, bound), FIGURES, {}).verdict == verdict


def test_a_figure_has_a_bound_of_its_own() -> None:
    bounded = Row("start", "start/native", "figure", 4.0, unit="ms")
    found = outcome(bounded, FIGURES, {})
    assert (found.value, found.verdict) == (4.0, "reached")
    assert bound_text(bounded) == "≤ 4 ms"


def test_what_is_missing_is_said_and_not_compared() -> None:
    others = ("moba/1/OpenVINO", "moba/1/eager")
    reasons = {"moba/1/OpenVINO": "not installed: openvino"}
    found = outcome(row("speed", 1.0, others), FIGURES, reasons)
    assert (found.verdict, found.best) == ("reached", "moba/1/eager")
    assert found.reason == "moba/1/OpenVINO: not installed: openvino"
    alone = outcome(row("speed", 1.0, others[:1]), FIGURES, reasons)
    assert (alone.verdict, alone.reason) == ("not measured", found.reason)
    own = outcome(Row("x", "x/1/native", "time", 1.0, ONNX), FIGURES, {"x/1/native": "refused"})
    assert (own.verdict, own.reason) == ("not measured", "x/1/native: refused")


def test_variants_are_one_runtime_in_the_text() -> None:
    assert bound_text(row("time", 0.2)) == "≤ 0.20 x ONNX Runtime"
    several = bound_text(row("speed", 2.0, (*ONNX, "moba/1/eager")))
    assert several == "≥ 2.00 x the best of ONNX Runtime, eager"


def test_quartiles_of_one_round_are_that_round() -> None:
    assert quartiles([3.0]) == (3.0, 3.0)
    assert quartiles([1.0, 2.0, 3.0, 4.0, 5.0]) == (2.0, 4.0)


@pytest.fixture
def results() -> Results:
    machine = {
        "processor": "Some CPU", "cores": "2", "instruction sets": "avx2", "system": "Debian",
        "compiler": "cc 12; -O3",
    }  # fmt: skip
    run = {"rounds": 3, "seconds": 0.1, "minutes": 1.0, "load before": 0.1, "load after": 1.0}
    rows = [
        row("time", 0.2),
        Row("runner: moba, batch 1", "moba/1/native", "speed", 1.0, ("moba/1/eager",)),
    ]
    return Results(machine, {"torch": "2.13.0"}, run, FIGURES, {"a/b": "refused"}, rows)


def test_a_saved_run_gives_the_same_outcomes(results: Results, tmp_path: Path) -> None:
    save(results, tmp_path / "run.json")
    again = load(tmp_path / "run.json")
    assert again.outcomes() == results.outcomes()
    assert again.unmeasured == results.unmeasured


def test_tables_replace_what_is_between_the_markers(results: Results, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write_markdown(results, page)
    first = page.read_text()
    assert "| moba | 10 µs; ONNX Runtime 40 µs | ≤ 0.20 x ONNX Runtime |" in first
    assert "| moba | 8.00 |" in first
    assert "old" not in first
    assert first.startswith("before\n") and first.endswith("after\n")
    write_markdown(results, page)
    assert page.read_text() == first


def test_a_page_without_markers_is_refused(results: Results, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("text\n")
    with pytest.raises(ValueError, match="no lines"):
        write_markdown(results, page)


def test_a_plot_has_the_faster_variant_at_each_batch_size(results: Results) -> None:
    lines = latencies(results, "moba")
    assert lines["native"] == {1: 10.0, 32: 20.0}
    assert lines["ONNX Runtime"] == {1: 40.0}
    assert set(lines) == {"native", "ONNX Runtime", "eager"}
