import struct
import sys
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from torchship.models import journal as jr
from torchship.models.errors import CheckpointError, ExtraMissingError, NonFiniteError
from torchship.models.journal import Identity, Journal

IDENTITY: Identity = {"name": "tiny", "seed": 1, "steps": 100, "lr": 0.5, "batch": 4}


def logged(folder: Path, tag: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder / "tiny-logs"))  # type: ignore[no-untyped-call]
    events.Reload()  # type: ignore[no-untyped-call]
    return [(e.step, e.value) for e in events.Scalars(tag)]  # type: ignore[no-untyped-call]


def test_every_value_is_in_the_tensorboard_logs(tmp_path: Path) -> None:
    with Journal(IDENTITY, tmp_path) as journal:
        journal.log(10, {"train loss": 2.5, "gradient norm": 7.0})
        journal.log(20, {"train loss": 1.5})
        journal.log(20, {"train loss": 0.5}, phase="second")
    assert logged(tmp_path, "train loss") == [(10, 2.5), (20, 1.5)]
    assert logged(tmp_path, "gradient norm") == [(10, 7.0)]
    assert logged(tmp_path, "second/train loss") == [(20, 0.5)]


def test_the_plot_is_a_png_with_a_line_for_each_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.axes import Axes

    drawn = []

    def watched(axes: Axes, steps: object, values: object, label: str) -> list[object]:
        drawn.append((label, steps, values))
        return real(axes, steps, values, label=label)  # type: ignore[return-value, arg-type]

    real = Axes.plot
    monkeypatch.setattr(Axes, "plot", watched)
    png = jr.plot(
        "tiny",
        {
            "train loss": [(1, 4.0), (2, float("inf")), (3, 2.0)],
            "validation loss": [(3, 3.0)],
            "accuracy": [(3, 0.5)],
            "other: train loss": [(1, float("nan"))],
        },
    )
    assert drawn == [("train loss", (1, 3), (4.0, 2.0)), ("validation loss", (3,), (3.0,))]
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", png[16:24]) == (960, 600)


@pytest.mark.parametrize(
    "history",
    [{"loss": [(1, -2.0), (2, 0.0)]}, {"loss": [(1, float("nan"))]}, {"reward": [(1, 2.0)]}],
)
def test_any_history_can_be_drawn(history: jr.History) -> None:
    assert jr.plot("tiny", history)[:4] == b"\x89PNG"


def test_a_failed_training_leaves_its_plot_and_logs_and_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError), Journal(IDENTITY, tmp_path) as journal:
        journal.log(10, {"train loss": 2.5})
        journal.checkpoint({"step": 10})
        raise NonFiniteError("the loss is inf")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny-logs", "tiny.png"]


def test_an_interrupted_training_is_gone_on_with(tmp_path: Path) -> None:
    state = {"step": 20, "weights": {"a": torch.arange(3.0)}, "losses": [0.5]}
    with pytest.raises(KeyboardInterrupt), Journal(IDENTITY, tmp_path) as journal:
        assert journal.resume() is None
        journal.log(20, {"train loss": 2.5})
        journal.checkpoint(state)
        journal.checkpoint({"step": 7}, phase="second")
        journal.log(30, {"train loss": 9.9})  # lost with what came after the checkpoint
        raise KeyboardInterrupt
    with Journal(IDENTITY, tmp_path, resume=True) as journal:
        resumed = journal.resume()
        assert resumed is not None
        assert torch.equal(resumed.pop("weights")["a"], torch.arange(3.0))
        assert resumed == {"step": 20, "losses": [0.5]}
        assert journal.resume("second") == {"step": 7}
        assert journal.resume("third") is None
        journal.log(30, {"train loss": 1.5})
        journal.finish()
    assert journal.history == {"train loss": [(20, 2.5), (30, 1.5)]}
    assert logged(tmp_path, "train loss") == [(20, 2.5), (30, 1.5)]
    assert not (tmp_path / "tiny.checkpoint").exists()


def test_a_checkpoint_in_the_way_is_neither_used_nor_lost(tmp_path: Path) -> None:
    with Journal(IDENTITY, tmp_path) as journal:
        journal.checkpoint({"step": 1})
    file = tmp_path / "tiny.checkpoint"
    before = file.read_bytes()
    with pytest.raises(CheckpointError, match=r"tiny\.checkpoint .*--resume, .*--restart"):
        Journal(IDENTITY, tmp_path)
    assert file.read_bytes() == before
    with Journal(IDENTITY, tmp_path, restart=True) as journal:
        assert journal.resume() is None
    assert not file.exists()


def test_what_cannot_be_resumed_is_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"tiny\.checkpoint is not there"):
        Journal(IDENTITY, tmp_path, resume=True)
    with Journal(IDENTITY, tmp_path) as journal:
        journal.checkpoint({"step": 1})
    with pytest.raises(CheckpointError, match=r"lr 0\.5, batch 4, expected .*lr 0\.25, batch 4"):
        Journal({**IDENTITY, "lr": 0.25}, tmp_path, resume=True)
    file = tmp_path / "tiny.checkpoint"
    for damaged in (b"", b"x" * 99, file.read_bytes()[:-40]):
        file.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"tiny\.checkpoint is not a checkpoint"):
            Journal(IDENTITY, tmp_path, resume=True)
    torch.save([1, 2], file)
    with pytest.raises(CheckpointError, match=r"tiny\.checkpoint is not a checkpoint"):
        Journal(IDENTITY, tmp_path, resume=True)


@pytest.mark.parametrize("package", ["tensorboard", "matplotlib"])
def test_a_missing_extra_is_told_before_anything_is_trained(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [n for n in sys.modules if n.startswith((package, "torch.utils.tensorboard"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ExtraMissingError, match=r'pip install "torchship\[train\]"'):
        Journal(IDENTITY, tmp_path)
