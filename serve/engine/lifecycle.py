"""The states of an engine, and which may follow which."""

from __future__ import annotations

from enum import Enum, auto

from torchship.serve.engine.runnable import Runnable
from torchship.serve.errors import NotReadyError, OutOfServiceError


class State(Enum):
    """Where an engine is in its life."""

    NEW = auto()
    """Nothing of the archive has run yet."""
    WARMING_UP = auto()
    """The archive is loaded, checked against its golden cases and run at every batch size."""
    READY = auto()
    """Requests are answered."""
    OUT_OF_SERVICE = auto()
    """A call took too long or ended its thread; the engine answers nobody any more."""
    CLOSED = auto()
    """No more requests are taken; a call that has begun runs to its end."""


NEXT_STATES = {
    State.NEW: {State.WARMING_UP, State.CLOSED},
    State.WARMING_UP: {State.READY, State.OUT_OF_SERVICE, State.CLOSED},
    State.READY: {State.OUT_OF_SERVICE, State.CLOSED},
    # The last call of a closed engine can hang too, and then nobody may wait for its thread.
    State.CLOSED: {State.OUT_OF_SERVICE},
    State.OUT_OF_SERVICE: set[State](),
}


class Lifecycle:
    """The state of one engine, and its program once it is READY; read by any thread.

    The state changes on the event loop, or in the main thread once the event loop has ended.
    """

    def __init__(self, model: str) -> None:
        """Begin as NEW; messages name the model."""
        self.state = State.NEW
        self._model = model
        self._reason = ""
        self._program: Runnable | None = None  # None in every state but READY

    def program(self) -> Runnable:
        """Return the program that answers requests.

        Raises:
            OutOfServiceError: the engine is OUT_OF_SERVICE.
            NotReadyError: it is in another state than READY.
        """
        program = self._program
        if program is None:
            raise self._refusal()
        return program

    def _refusal(self) -> Exception:
        if self.state is State.OUT_OF_SERVICE:
            return OutOfServiceError(self._reason)
        return NotReadyError(f"model '{self._model}' is not ready")

    def move(self, state: State) -> None:
        """Enter another state.

        Raises:
            RuntimeError: it does not follow the present one.
        """
        if state not in NEXT_STATES[self.state]:
            raise RuntimeError(
                f"the engine of model '{self._model}' cannot go from {self.state.name} to "
                f"{state.name}"
            )
        self.state = state
        self._program = None

    def start(self) -> None:
        """Go from NEW to WARMING_UP.

        Raises:
            NotReadyError: it was closed before.
        """
        if self.state is State.CLOSED:
            raise NotReadyError("the server is shutting down")
        self.move(State.WARMING_UP)

    def check_warming_up(self) -> None:
        """Return if the warm-up is to go on; any thread may ask.

        Raises:
            NotReadyError: the engine was closed meanwhile, or taken out of service.
        """
        if self.state is not State.WARMING_UP:
            raise NotReadyError("the server is shutting down")

    def finish_warm_up(self, program: Runnable) -> None:
        """Go from WARMING_UP to READY, with the program that was warmed up.

        Raises:
            NotReadyError: the engine was closed meanwhile, or taken out of service.
        """
        self.check_warming_up()
        self.move(State.READY)
        self._program = program

    def take_out(self, reason: str) -> bool:
        """Go to OUT_OF_SERVICE; return False if it was there already."""
        if self.state is State.OUT_OF_SERVICE:
            return False
        self._reason = reason  # first: another thread may ask once the state has changed
        self.move(State.OUT_OF_SERVICE)
        return True

    def close(self) -> None:
        """Go to CLOSED. An engine that is out of service stays so: it has a reason to tell."""
        if self.state not in (State.OUT_OF_SERVICE, State.CLOSED):
            self.move(State.CLOSED)
