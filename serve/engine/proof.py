"""What an engine found when it ran its golden cases before it answered anybody."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

from torchship.script.runtime.agreement import Difference


@dataclass(frozen=True)
class Proof:
    """That an engine reproduced its golden cases, and how exactly."""

    when: datetime
    cases: int
    outputs: int
    """Of all steps of all cases."""
    worst: float
    """The largest absolute difference of any element of any output from its golden value."""

    @staticmethod
    def now(differences: Sequence[Difference]) -> Proof:
        """Return the proof of golden cases that have just agreed, with all their differences."""
        return Proof(
            when=datetime.now(timezone.utc),
            cases=len({difference.case for difference in differences}),
            outputs=len(differences),
            worst=max((difference.max_abs or 0.0 for difference in differences), default=0.0),
        )
