"""Tables of a run: for the terminal, and as Markdown for the documentation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from side_by_side.results import Results
from side_by_side.targets import Outcome, bound_text, runtime_of

BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
RUNNER_ROWS = "runner: "


def show(results: Results, console: Console) -> None:
    """Print every row, and what could not be measured."""
    rows, beside = _split(results.outcomes())
    if rows:
        table = Table("work", "measured", "target")
        table.add_column("ratio (quartiles)", no_wrap=True)
        table.add_column("", no_wrap=True)
        for found in rows:
            table.add_row(*_cells(found), _verdict(found))
        console.print(table)
    if beside:
        console.print("speed of torchship-runner / speed of eager Python, at least 1.00:")
        table = Table("model", *(f"batch {batch}" for batch in _batches(beside)))
        for model, cells in _by_model(beside).items():
            table.add_row(model, *cells)
        console.print(table)
    for key, reason in results.unmeasured.items():
        console.print(f"not measured: {key}: {reason}", markup=False)
    missed = [found for found in results.outcomes() if found.verdict == "missed"]
    for found in missed:
        console.print(f"missed: {found.row.work}: {ratio_text(found)}, {bound_text(found.row)}")
    console.print(summary(results))


def summary(results: Results) -> str:
    """Return how many rows reached their target, and in what kind of run."""
    verdicts = [found.verdict for found in results.outcomes()]
    run = results.run
    return (
        f"{verdicts.count('reached')} of {len(verdicts)} targets reached, "
        f"{verdicts.count('missed')} missed, {verdicts.count('not measured')} not measured; "
        f"{run['rounds']} rounds, {run['minutes']} minutes, "
        f"load average {run['load before']} before and {run['load after']} after"
    )


def write_markdown(results: Results, page: Path) -> None:
    """Put the tables into a page, between its two markers.

    Raises:
        ValueError: the page has no markers.
    """
    before, begin, rest = page.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"'{page}' has no lines {BEGIN} and {END}")
    text = "\n".join(markdown(results))
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}")


def markdown(results: Results) -> Iterable[str]:
    """Yield the lines of the tables, and of what they were measured on."""
    machine, versions = results.machine, results.versions
    rows, beside = _split(results.outcomes())
    known = {name: text for name, text in versions.items() if text != "not installed"}
    yield (
        f"{machine['processor']}, {machine['cores']} cores, {machine['instruction sets']}; "
        f"{machine['system']}; {machine['compiler'].partition(';')[0]}; "
        + ", ".join(f"{name} {text}" for name, text in known.items())
        + f". {results.run['rounds']} rounds; load average {results.run['load before']} before and "
        f"{results.run['load after']} after."
    )
    yield ""
    yield "| work | measured | target | ratio | |"
    yield "|---|---|---|---|---|"
    for found in rows:
        yield f"| {' | '.join(_cells(found))} | {found.verdict} |"
    if beside:
        yield ""
        yield "The runner's speed as multiples of eager Python's:"
        yield ""
        batches = _batches(beside)
        yield f"| model | {' | '.join(f'batch {batch}' for batch in batches)} |"
        yield f"|{'---|' * (len(batches) + 1)}"
        for model, cells in _by_model(beside).items():
            yield f"| {model} | {' | '.join(cells)} |"


def ratio_text(found: Outcome) -> str:
    """Return a row's value with its quartiles; nothing for one that was not measured."""
    if found.verdict == "not measured":
        return ""
    if found.row.relation == "figure":
        return f"{found.value:.3g} {found.row.unit} ({found.low:.3g}..{found.high:.3g})"
    digits = 3 if found.value < 10 else 1
    return f"{found.value:.{digits}f} ({found.low:.{digits}f}..{found.high:.{digits}f})"


def amount(value: float, unit: str) -> str:
    """Return a figure with its unit; long times in milliseconds."""
    if unit == "µs" and value >= 1000:
        value, unit = value / 1000, "ms"
    return f"{value:.3g} {unit}" if value < 1000 else f"{value:,.0f} {unit}"


def _cells(found: Outcome) -> tuple[str, str, str, str]:
    if found.verdict == "not measured":
        return found.row.work, found.reason, bound_text(found.row), ""
    measured = amount(found.own, found.row.unit)
    if found.best:
        only = found.row.against if len(found.row.others) == 1 else ""
        name = only or runtime_of(found.best)
        measured += f"; {name} {amount(found.other, found.row.unit)}"
    return found.row.work, measured, bound_text(found.row), ratio_text(found)


def _verdict(found: Outcome) -> str:
    colour = {"reached": "green", "missed": "red", "not measured": "yellow"}[found.verdict]
    return f"[{colour}]{found.verdict}[/]"


def _split(outcomes: Sequence[Outcome]) -> tuple[list[Outcome], list[Outcome]]:
    """Return the rows of the large table, and those of the runner beside eager."""
    beside = [found for found in outcomes if found.row.work.startswith(RUNNER_ROWS)]
    return [found for found in outcomes if found not in beside], beside


def _place(found: Outcome) -> tuple[str, str]:
    model, _, batch = found.row.work.removeprefix(RUNNER_ROWS).partition(", batch ")
    return model, batch


def _batches(beside: Sequence[Outcome]) -> list[str]:
    return list(dict.fromkeys(_place(found)[1] for found in beside))


def _by_model(beside: Sequence[Outcome]) -> dict[str, list[str]]:
    cells: dict[str, list[str]] = {}
    for found in beside:
        text = "not measured" if found.verdict == "not measured" else f"{found.value:.2f}"
        cells.setdefault(_place(found)[0], []).append(
            f"{text} (missed)" if found.verdict == "missed" else text
        )
    return cells
