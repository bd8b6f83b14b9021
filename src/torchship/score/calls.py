"""Calls of the method; of rows that fail together, those that fail alone are bad."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torchship.score.rows import BAD_INPUT, Group, Rows
from torchship.score.tables import BadRow
from torchship.script.errors import InputError, OutOfMemoryError, TorchShipError
from torchship.script.format.tree import Flat

LONGEST = 300  # characters of a model's message

Run = Callable[[Flat], Flat]
"""Runs the method on the inputs of one call."""


def run_groups(rows: Rows, batched: bool, run: Run) -> Iterator[tuple[Group, Flat]]:
    """Run the good rows of a chunk, and yield the outputs of every call that succeeds.

    Rows that fail are added to `rows.bad`.

    Raises:
        Exception: what is no fault of a row.
    """
    for group in rows.groups(batched):
        yield from _run_group(rows, group, run)


def _run_group(rows: Rows, group: Group, run: Run) -> Iterator[tuple[Group, Flat]]:
    """Run a group; if it fails, its halves, so that a bad row fails alone.

    Halves are tried as often as it takes to find two bad rows. If there are more, halves do not
    help, and the rest runs row by row.
    """
    halvings = 2 * (len(group.places) - 1).bit_length()
    pending = [group]
    while pending:
        part = pending.pop()
        try:
            outputs = run(rows.inputs(part))
        except InputError as error:
            # It follows from the sizes, which are those of every row of the group.
            for place in part.places:
                _add(rows, int(place), BAD_INPUT, error)
            continue
        except TorchShipError as error:
            if len(part.places) == 1:
                _add(rows, int(part.places[0]), error.code, error)
                continue
            places = part.places
            if halvings:
                halvings -= 1
                middle = len(places) // 2
                pieces = [places[:middle], places[middle:]]
            else:
                pieces = [places[index : index + 1] for index in range(len(places))]
            pending += [Group(piece, part.batched) for piece in reversed(pieces)]
            continue
        yield part, outputs


def _add(rows: Rows, place: int, code: str, error: TorchShipError) -> None:
    text = " ".join(str(error).split())
    if isinstance(error, OutOfMemoryError):
        text = f"the row alone needs too much memory: {text}"
    text = text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
    rows.bad.append(BadRow(rows.number(place), None, code, text))
