import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from torchship.models import registry
from torchship.models.cli import app
from torchship.models.errors import ModelsError
from torchship.models.training import store


def invoke(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "160", "NO_COLOR": "1"})
    if isinstance(result.exception, ModelsError):  # `torchship.__main__` prints it and exits
        return result.exception.exit_code, result.stdout, f"{result.exception}\n"
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_models_are_listed_for_people() -> None:
    code, out, _ = invoke("models")
    assert code == 0
    wavenet = f"{store.read_report('wavenet').metrics['validation loss']:.4g}"
    for text in ("fizzbuzz", "754", "100.00%", "bobnet", "101,632", "wavenet", wavenet, "moba"):
        assert text in out
    assert "Joel Grus" in out


def test_models_are_listed_for_programs() -> None:
    code, out, _ = invoke("models", "--json")
    assert code == 0
    rows = {row["name"]: row for row in json.loads(out)}
    assert list(rows) == registry.names()
    parameters = {name: row["parameters"] for name, row in rows.items()}
    assert parameters["fizzbuzz"] == 754
    assert parameters["makemore-flat"] == 22_097
    assert parameters["wavenet"] == 76_579
    assert parameters["moba"] == 168_856
    assert rows["fizzbuzz"]["metrics"]["test accuracy"] == 1.0
    assert rows["wavenet"]["metrics"]["validation loss"] <= 1.993
    assert rows["charlstm"]["metrics"]["validation loss"] <= 1.96
    assert rows["moba"]["metrics"] == {}
    assert [name for name, row in rows.items() if row["trainable"]] == registry.trainable()
    assert all(row["task"] and row["source"] for row in rows.values())


def test_training_is_repeatable_and_says_how(tmp_path: Path) -> None:
    arguments = ("train", "fizzbuzz", "--steps", "60", "--seed", "3", "--out")
    code, out, err = invoke(*arguments, str(tmp_path / "1"))
    assert code == 0
    assert "test accuracy: " in out
    assert "60/60" in err
    assert invoke(*arguments, str(tmp_path / "2"))[0] == 0
    for name in ("fizzbuzz.safetensors", "fizzbuzz.json"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()
    report = store.read_report("fizzbuzz", tmp_path / "1")
    assert report.command == "torchship train fizzbuzz --seed 3 --steps 60 --lr 0.001"
    assert store.load("fizzbuzz", tmp_path / "1").keys() == store.load("fizzbuzz").keys()


def test_training_writes_here_and_never_into_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = {path.name: path.read_bytes() for path in store.WEIGHTS.iterdir()}
    monkeypatch.chdir(tmp_path)
    code, out, _ = invoke("train", "fizzbuzz", "--steps", "1")
    assert code == 0
    assert "saved fizzbuzz.safetensors and fizzbuzz.json" in out
    assert store.read_report("fizzbuzz", tmp_path).recipe["steps"] == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "fizzbuzz-logs",
        "fizzbuzz.json",
        "fizzbuzz.png",
        "fizzbuzz.safetensors",
    ]
    assert {path.name: path.read_bytes() for path in store.WEIGHTS.iterdir()} == kept


def test_a_loss_that_is_not_finite_saves_nothing(tmp_path: Path) -> None:
    code, _, err = invoke("train", "fizzbuzz", "--lr", "0.01", "--out", str(tmp_path))
    assert code == 1
    assert "fizzbuzz: the loss is " in err
    assert " at step " in err
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["fizzbuzz-logs"], "no weights, and no checkpoint that would end there again"


def test_bad_usage_is_reported_in_one_line(tmp_path: Path) -> None:
    code, _, err = invoke("train", "fizbuzz")
    assert (code, err.count("\n")) == (2, 1)
    known = ", ".join(registry.names())
    assert err == f"no model 'fizbuzz': expected one of {known}\n"
    code, _, err = invoke("train", "moba")
    assert code == 2
    trainable = ", ".join(registry.trainable())
    assert err == f"model 'moba' has no training recipe: expected one of {trainable}\n"
    (tmp_path / "file").write_text("")
    code, _, err = invoke("train", "fizzbuzz", "--out", str(tmp_path / "file"))
    assert code == 2
    assert "cannot write to the folder" in err
    out = ("--out", str(tmp_path / "out"))
    for wrong in (("--steps", "0"), ("--seed", "-1"), ("--seed", str(2**32)), ("--lr", "-1")):
        code, _, err = invoke("train", "fizzbuzz", *wrong, *out)
        assert code == 2
        assert f"Invalid value for '{wrong[0]}'" in err
    code, _, err = invoke("train", "fizzbuzz", "--resume", "--restart", *out)
    assert (code, err) == (2, "--resume and --restart: expected one of them, got both\n")
    assert invoke("train", "fizzbuzz", "--seed", str(2**32 - 1), "--steps", "1", *out)[0] == 0


def test_a_checkpoint_is_thrown_away_only_when_asked(tmp_path: Path) -> None:
    arguments = ("train", "fizzbuzz", "--steps", "2", "--out", str(tmp_path))
    file = tmp_path / "fizzbuzz.checkpoint"
    file.write_bytes(b"damaged")
    code, _, err = invoke(*arguments)
    assert (code, err.count("\n")) == (2, 1)
    assert f"{file} is of a training that was interrupted: " in err
    code, _, err = invoke(*arguments, "--resume")
    assert (code, err.count("\n")) == (2, 1)
    assert f"{file} is damaged: " in err
    assert [path.name for path in tmp_path.iterdir()] == ["fizzbuzz.checkpoint"]
    assert invoke(*arguments, "--restart")[0] == 0
    assert not file.exists()
    assert (tmp_path / "fizzbuzz.safetensors").exists()


def test_a_file_or_folder_in_the_way_is_named(tmp_path: Path) -> None:
    arguments = ("train", "fizzbuzz", "--steps", "2", "--out", str(tmp_path))
    logs, image = tmp_path / "fizzbuzz-logs", tmp_path / "fizzbuzz.png"
    logs.write_text("")
    code, _, err = invoke(*arguments)
    assert (code, err) == (2, f"cannot write '{logs}': Not a directory\n")
    logs.unlink()
    image.mkdir()
    code, _, err = invoke(*arguments)
    assert (code, err) == (2, f"cannot write '{image}': Is a directory\n")


def test_missing_data_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHSHIP_DATA", str(tmp_path / "none"))
    code, _, err = invoke("train", "bobnet", "--out", str(tmp_path))
    assert code == 4
    assert "train-images-idx3-ubyte.gz is not there" in err


@pytest.mark.parametrize("command", ["models", "train"])
def test_help_has_an_example(command: str) -> None:
    code, out, _ = invoke(command, "--help")
    assert code == 0
    assert f"Example: torchship {command}" in out
