"""How many replicas there should be: as many as keep the rows that wait for each below a limit.

Ray's own policy counts requests. A request has any number of rows, and an engine runs the rows of
many requests as one call: what a client waits for is the depth of the engines' queues.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingContext

QUEUE_ROWS = "queue_rows"
"""The name under which each replica reports the rows that wait for its engines."""


class QueueDepth:
    """The policy; the controller of Ray Serve makes one for each deployment."""

    def __init__(self, target_rows: int) -> None:
        """Want one replica for each `target_rows` rows that wait."""
        self._target_rows = target_rows

    def __call__(self, context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
        """Return how many replicas should run, before Ray applies its bounds and delays.

        Requests that wait for a replica at the proxies count as a row each. Those that are being
        answered keep their replicas too, since they would wait if there were fewer.
        """
        reported = (context.aggregated_metrics or {}).get(QUEUE_ROWS, {})
        rows = sum(reported.values()) + context.total_queued_requests
        return max(1, math.ceil(max(rows, context.total_num_requests) / self._target_rows)), {}
