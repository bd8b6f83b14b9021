import json
import os
import stat
from pathlib import Path

import pytest
import torch

from torchship.models import registry
from torchship.models.errors import NonFiniteError, OutputError, WeightsError
from torchship.models.seeding import normal
from torchship.models.training import store
from torchship.models.training.store import Report

REPORT = Report(
    name="tiny",
    recipe={"seed": 1, "lr": 0.5},
    metrics={"test accuracy": 0.25},
    command="torchship train tiny",
    torch="2.13.0",
    machine="x86_64 AVX2",
)


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    return {"a": normal(1, 3, 5), "b": normal(2, 7)}


def test_what_was_saved_is_loaded(tmp_path: Path, weights: dict[str, torch.Tensor]) -> None:
    path = store.save(weights, REPORT, tmp_path / "new" / "folder")
    assert path == tmp_path / "new" / "folder" / "tiny.safetensors"
    loaded = store.load("tiny", path.parent)
    assert loaded.keys() == weights.keys()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in loaded.items())
    report = store.read_report("tiny", path.parent)
    assert report == REPORT.model_copy(update={"sha256": report.sha256})
    assert sorted(os.listdir(path.parent)) == ["tiny.json", "tiny.safetensors"]


def test_a_transposed_tensor_is_saved_as_it_looks(tmp_path: Path) -> None:
    tensor = normal(1, 3, 5)
    store.save({"a": tensor.T}, REPORT, tmp_path)
    assert torch.equal(store.load("tiny", tmp_path)["a"], tensor.T)


def test_the_same_weights_give_the_same_bytes(
    tmp_path: Path, weights: dict[str, torch.Tensor]
) -> None:
    one = store.save(weights, REPORT, tmp_path / "1")
    two = store.save(dict(reversed(weights.items())), REPORT, tmp_path / "2")
    assert one.read_bytes() == two.read_bytes()
    assert one.with_suffix(".json").read_bytes() == two.with_suffix(".json").read_bytes()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_not_saved(
    value: float, tmp_path: Path, weights: dict[str, torch.Tensor]
) -> None:
    store.save(weights, REPORT, tmp_path)
    before = (tmp_path / "tiny.safetensors").read_bytes()
    weights["b"] = weights["b"].clone()
    weights["b"][3] = value
    with pytest.raises(NonFiniteError, match="tiny: weight 'b' is not finite"):
        store.save(weights, REPORT, tmp_path)
    assert (tmp_path / "tiny.safetensors").read_bytes() == before


def test_a_save_that_fails_leaves_the_old_file_and_no_other(
    tmp_path: Path, weights: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save(weights, REPORT, tmp_path)
    before = (tmp_path / "tiny.safetensors").read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"cannot write '.*tiny\.safetensors': No space left"):
        store.save({"a": normal(9, 4)}, REPORT, tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["tiny.json", "tiny.safetensors"]
    assert (tmp_path / "tiny.safetensors").read_bytes() == before


def test_files_may_be_read_by_whom_the_umask_lets(
    tmp_path: Path, weights: dict[str, torch.Tensor]
) -> None:
    old = os.umask(0o027)
    try:
        path = store.save(weights, REPORT, tmp_path)
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_folder_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cannot write to the folder .*file/below"):
        store.prepare(tmp_path / "file" / "below")


def test_damaged_weights_are_refused(tmp_path: Path, weights: dict[str, torch.Tensor]) -> None:
    path = store.save(weights, REPORT, tmp_path)
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    expected = store.read_report("tiny", tmp_path).sha256
    with pytest.raises(WeightsError) as raised:
        store.load("tiny", tmp_path)
    assert str(raised.value).startswith("tiny.safetensors: SHA-256 is ")
    assert str(raised.value).endswith(f"expected {expected}")


def test_weights_and_json_must_be_a_pair(tmp_path: Path, weights: dict[str, torch.Tensor]) -> None:
    store.save(weights, REPORT, tmp_path / "1")
    store.save({"a": normal(9, 3, 5), "b": weights["b"]}, REPORT, tmp_path / "2")
    os.replace(tmp_path / "2" / "tiny.json", tmp_path / "1" / "tiny.json")
    with pytest.raises(WeightsError, match="SHA-256"):
        store.load("tiny", tmp_path / "1")


def test_missing_and_malformed_files_are_named(
    tmp_path: Path, weights: dict[str, torch.Tensor]
) -> None:
    with pytest.raises(WeightsError, match=r"tiny\.json cannot be read: No such file"):
        store.load("tiny", tmp_path)
    path = store.save(weights, REPORT, tmp_path)
    path.unlink()
    with pytest.raises(WeightsError, match=r"tiny\.safetensors cannot be read: No such file"):
        store.load("tiny", tmp_path)
    path.with_suffix(".json").write_text('{"name": "tiny"}')
    with pytest.raises(WeightsError, match=r"tiny\.json is not a report"):
        store.read_report("tiny", tmp_path)


@pytest.mark.parametrize("name", registry.trainable())
def test_the_kept_weights_are_small_and_say_how_they_were_made(name: str) -> None:
    path = store.WEIGHTS / f"{name}.safetensors"
    assert path.stat().st_size < 5 * 2**20
    report = json.loads(path.with_suffix(".json").read_text())
    assert report["name"] == name
    assert report["command"] == registry.recipe(name).command
    assert report["metrics"]
    assert report["torch"].startswith("2.13.")
