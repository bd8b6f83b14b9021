import struct
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from torchship.models.errors import (
    CheckpointError,
    ExtraMissingError,
    NonFiniteError,
    OutputError,
)
from torchship.models.training import journal as jr
from torchship.models.training.journal import Identity, Journal

IDENTITY: Identity = {"name": "tiny", "seed": 1, "steps": 100, "lr": 0.5, "batch": 4}

Logged = Callable[[Path], dict[str, list[tuple[int, float]]]]


def test_every_value_is_in_the_tensorboard_logs(tmp_path: Path, logged: Logged) -> None:
    with Journal(IDENTITY, tmp_path) as journal:
        journal.log(10, {"train loss": 2.5, "gradient norm": 7.0})
        journal.log(20, {"train loss": 1.5})
        journal.log(20, {"train loss": 0.5}, phase="second")
    assert logged(tmp_path / "tiny-logs") == {
        "train loss": [(10, 2.5), (20, 1.5)],
        "gradient norm": [(10, 7.0)],
        "second/train loss": [(20, 0.5)],
    }


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


def test_an_interrupted_training_is_gone_on_with(tmp_path: Path, logged: Logged) -> None:
    state = {"step": 20, "weights": {"a": torch.arange(3.0)}, "losses": [0.5]}
    with pytest.raises(KeyboardInterrupt), Journal(IDENTITY, tmp_path) as journal:
        assert journal.resume() is None
        journal.log(20, {"train loss": 2.5})
        journal.log(20, {"train loss": 3.5}, phase="second")
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
    assert journal.history == {
        "train loss": [(20, 2.5), (30, 1.5)],
        "second: train loss": [(20, 3.5)],
    }
    assert logged(tmp_path / "tiny-logs") == {
        "train loss": [(20, 2.5), (30, 1.5)],
        "second/train loss": [(20, 3.5)],
    }
    assert not (tmp_path / "tiny.checkpoint").exists()


@pytest.mark.parametrize("restart", [False, True])
def test_another_training_in_the_same_folder_has_logs_of_its_own(
    restart: bool, tmp_path: Path, logged: Logged
) -> None:
    with Journal(IDENTITY, tmp_path) as journal:
        journal.log(10, {"train loss": 9.5})
        journal.log(20, {"train loss": 8.5})
        if restart:
            journal.checkpoint({"step": 20})
    with Journal(IDENTITY, tmp_path, restart=restart) as journal:
        journal.log(10, {"train loss": 2.5})
    assert journal.history == {"train loss": [(10, 2.5)]}
    assert logged(tmp_path / "tiny-logs") == journal.history


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


def test_a_run_that_cannot_be_resumed_is_reported(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"tiny\.checkpoint is not there"):
        Journal(IDENTITY, tmp_path, resume=True)
    with Journal(IDENTITY, tmp_path) as journal:
        journal.checkpoint({"step": 1})
    with pytest.raises(CheckpointError, match=r"lr 0\.5, batch 4, expected .*lr 0\.25, batch 4"):
        Journal({**IDENTITY, "lr": 0.25}, tmp_path, resume=True)
    with pytest.raises(CheckpointError, match="--resume and --restart: expected one of them"):
        Journal(IDENTITY, tmp_path, resume=True, restart=True)
    assert (tmp_path / "tiny.checkpoint").exists()


def test_a_damaged_checkpoint_is_refused_wherever_the_damage_is(tmp_path: Path) -> None:
    with Journal(IDENTITY, tmp_path) as journal:
        journal.checkpoint({"step": 1, "weights": {"a": torch.arange(1000.0)}})
    file = tmp_path / "tiny.checkpoint"
    whole = file.read_bytes()
    size = len(whole)
    flipped = []
    for position in (0, 31, 32, 100, *range(64, size, size // 16), size - 23, size - 1):
        damaged = bytearray(whole)
        damaged[position] ^= 1
        flipped.append(bytes(damaged))
    cut = [whole[:length] for length in (0, 1, 31, 32, 33, size // 2, size - 1)]
    torch.save([1, 2], file)
    other = [b"x" * 99, whole + b"\0", whole[32:], file.read_bytes()]
    for damaged_file in (*flipped, *cut, *other):
        file.write_bytes(damaged_file)
        with pytest.raises(CheckpointError, match=r"tiny\.checkpoint is damaged: .* SHA-256"):
            Journal(IDENTITY, tmp_path, resume=True)
        assert file.read_bytes() == damaged_file
    file.write_bytes(whole)
    resumed = Journal(IDENTITY, tmp_path, resume=True).resume()
    assert resumed is not None
    assert torch.equal(resumed["weights"]["a"], torch.arange(1000.0))


def test_what_is_in_the_way_is_named(tmp_path: Path) -> None:
    logs, image = tmp_path / "tiny-logs", tmp_path / "tiny.png"
    logs.write_text("")
    with pytest.raises(OutputError, match=rf"cannot write '{logs}': "):
        Journal(IDENTITY, tmp_path)
    logs.unlink()
    image.mkdir()
    with (
        pytest.raises(OutputError, match=rf"cannot write '{image}': "),
        Journal(IDENTITY, tmp_path) as journal,
    ):
        journal.log(10, {"train loss": 2.5})
    (tmp_path / "tiny.checkpoint").mkdir()
    with pytest.raises(OutputError, match=rf"cannot write '{tmp_path / 'tiny.checkpoint'}': "):
        Journal(IDENTITY, tmp_path, restart=True)
    with pytest.raises(CheckpointError, match=r"tiny\.checkpoint cannot be read: "):
        Journal(IDENTITY, tmp_path, resume=True)


@pytest.mark.parametrize("package", ["tensorboard", "matplotlib"])
def test_a_missing_extra_is_reported_before_training(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [n for n in sys.modules if n.startswith((package, "torch.utils.tensorboard"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ExtraMissingError, match=r'pip install "torchship\[train\]"'):
        Journal(IDENTITY, tmp_path)
