"""`torchship-runner --native`: compiled archives in the C++ runner."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import safetensors.torch
import torch

import zoo
from compiled import exported
from torchship.cpp_runner.binary import environment, runner_path
from torchship.native.building.toolchain import build_library
from torchship.native.cli import make_library
from torchship.native.compiler import Code, compile_archive
from torchship.native.emitting import source
from torchship.native.running.library import Library
from torchship.script.exporting.export import export
from torchship.script.exporting.target import find_target
from torchship.script.format.signing import make_key, sign
from torchship.script.runtime.agreement import compare
from torchship.script.runtime.archive import Archive, open_archive
from torchship.script.runtime.error_bound import check_case

MISMATCH, BAD_USAGE, BAD_ARCHIVE, BAD_INPUT = 1, 2, 3, 4


def runner(*arguments: object, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in (runner_path(), *arguments)],
        input=stdin, capture_output=True, text=True, check=False, env=environment(runner_path()),
    )  # fmt: skip


def answered(*arguments: object, stdin: str = "") -> str:
    result = runner(*arguments, stdin=stdin)
    assert result.returncode == 0, result.stderr
    return result.stdout


def refused(code: int, *arguments: object, stdin: str = "") -> str:
    """Return the message of an error, which the runner also prints as JSON."""
    result = runner(*arguments, "--json", stdin=stdin)
    assert result.returncode == code, result.stderr
    message = json.loads(result.stdout)["error"]
    assert f"torchship-runner: error: {message}" in result.stderr
    return str(message)


@dataclass(frozen=True)
class Compiled:
    """An archive, and the library that was compiled from it."""

    archive: Archive
    library: Path

    @property
    def arguments(self) -> tuple[object, ...]:
        return self.archive.path, "--native", self.library


def compiled(archive: Archive) -> Compiled:
    library = archive.path.with_suffix(".so")
    make_library(compile_archive(archive, golden=False), library)
    return Compiled(archive, library)


def ours(name: str, folder: Path) -> Archive:
    export(find_target(name, None, {}), folder / f"{name}.pt")
    return open_archive(folder / f"{name}.pt")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("native")


@pytest.fixture(scope="module")
def moba(folder: Path) -> Compiled:
    return compiled(ours("moba", folder))


@pytest.fixture(scope="module")
def fizzbuzz(folder: Path) -> Compiled:
    return compiled(ours("fizzbuzz", folder))


@pytest.fixture(scope="module")
def strict(folder: Path) -> Compiled:
    return compiled(exported(folder, "architectures:strict", "architectures:strict_examples"))


# --- run ---


def test_steps_carry_state_as_in_libtorch(moba: Compiled, tmp_path: Path) -> None:
    manifest = moba.archive.require_manifest()
    cases = [case for case in moba.archive.golden if len(case.steps) > 1]
    assert {case.method for case in cases} == {"forward", "act"}
    for case in cases:
        inputs: list[object] = []
        for number, step in enumerate(case.steps):
            file = tmp_path / f"{number}.safetensors"
            safetensors.torch.save_file(step.inputs, file)
            inputs += ["--input", file]
        out = tmp_path / "out.safetensors"
        answered("run", *moba.arguments, "--method", case.method, *inputs, "--output", out)
        outputs = safetensors.torch.load_file(out)
        assert outputs.keys() == case.steps[-1].outputs.keys()
        tolerances = manifest.methods[case.method].tolerances
        for name, golden in case.steps[-1].outputs.items():
            result = compare(outputs[name], golden, tolerances[name])
            assert result.agreed, (name, result.reason)


def test_json_lines_and_labels(fizzbuzz: Compiled) -> None:
    lines = '{"x": [[1,1,1,1,0,0,0,0,0,0]]}\n{"x": 1}\n{"x": [[1,0,0,0,0,0,0,0,0,0]]}\n'
    result = runner("run", *fizzbuzz.arguments, "--input", "-", "--labels", stdin=lines)
    assert result.returncode == BAD_INPUT
    first, bad, last = result.stdout.splitlines()
    assert (first, last) == ("fizzbuzz", "number")
    assert "line 2: input 'x': expected float32[batch,10], got float32[]" in bad


def test_the_models_own_message(strict: Compiled, tmp_path: Path) -> None:
    safetensors.torch.save_file({"x": torch.tensor([1, 7, 2])}, tmp_path / "x.safetensors")
    arguments = ("run", strict.archive.path, "--input", tmp_path / "x.safetensors")
    in_libtorch = refused(BAD_INPUT, *arguments)
    assert in_libtorch.endswith("raised: x: expected at most 5..., got 7 of [3]")
    assert refused(BAD_INPUT, *arguments, "--native", strict.library) == in_libtorch


@pytest.mark.parametrize(
    "line", ["{}", '{"y": [[1]]}', '{"x": [[1]]}', '{"x": [[true]]}', '{"x": [["one"]]}']
)
def test_bad_inputs_are_refused_as_in_libtorch(fizzbuzz: Compiled, line: str) -> None:
    given = {"stdin": f"{line}\n"}
    arguments = ("run", fizzbuzz.archive.path, "--input", "-")
    in_libtorch = runner(*arguments, **given)
    native = runner(*arguments, "--native", fizzbuzz.library, **given)
    assert in_libtorch.returncode == BAD_INPUT
    assert (native.returncode, native.stdout) == (in_libtorch.returncode, in_libtorch.stdout)


def test_a_method_that_does_not_exist(fizzbuzz: Compiled) -> None:
    message = refused(BAD_USAGE, "run", *fizzbuzz.arguments, "--method", "act", "--input", "-")
    assert message == "model 'fizzbuzz' has no method 'act'; it has forward"


def test_numbers_and_sizes(tmp_path: Path) -> None:
    scaled = compiled(exported(tmp_path, "architectures:scaled", "architectures:scaled_examples"))
    answered("verify", *scaled.arguments)
    line = {"x": [[1, 2, 3]], "factor": 2.5, "times": 2, "negate": True}
    answer = json.loads(
        answered("run", *scaled.arguments, "--input", "-", stdin=json.dumps(line) + "\n")
    )
    assert answer == {"output.0": [[-4.5, -9.0, -13.5]], "output.1": [6.0]}


# --- verify ---


@pytest.mark.parametrize("name", ["moba", "fizzbuzz"])
def test_both_languages_say_the_same(name: str, request: pytest.FixtureRequest) -> None:
    model: Compiled = request.getfixturevalue(name)
    manifest, golden = model.archive.require_manifest(), model.archive.golden
    library = Library(model.library, manifest, model.archive.digest)
    expected = [
        difference
        for number, case in enumerate(golden)
        for difference in check_case(
            manifest, number, case, library.call, model.archive.float64_outputs
        )
    ]
    assert not all(difference.bit_identical for difference in expected)  # it is not LibTorch
    result = runner("verify", *model.arguments, "--json")
    report = json.loads(result.stdout)
    assert report["agreed"] == all(difference.agreed for difference in expected)
    assert result.returncode == (0 if report["agreed"] else MISMATCH)

    def facts(entry: dict[str, object]) -> tuple[object, ...]:
        keys = ("case", "method", "step", "output", "agreed", "max_abs", "max_ulp", "bit_identical")
        return tuple(entry[key] for key in keys)

    def in_order(entries: list[dict[str, object]]) -> list[tuple[object, ...]]:
        return sorted(map(facts, entries), key=str)

    in_python = in_order([difference.to_json() for difference in expected])
    assert in_order(report["results"]) == in_python


@pytest.mark.parametrize("name", ["fusion", "own_cell", "counts", "decoder"])
def test_dicts_optional_state_and_other_dtypes(name: str, tmp_path: Path) -> None:
    model = compiled(exported(tmp_path, f"architectures:{name}", f"architectures:{name}_examples"))
    assert "agreed" in answered("verify", *model.arguments)


def forged(
    original: Compiled, folder: Path, change: Callable[[torch.Tensor], torch.Tensor]
) -> Compiled:
    """A library that says it was compiled from the archive, whose weights are others."""
    code = compile_archive(original.archive, golden=False)
    for storage in code.unit.weights:
        assert storage.value is not None
        storage.value = change(storage.value)
    library = folder / "forged.so"
    make_library(Code(code.prefix, code.header, source.source(code.unit), code.unit), library)
    return Compiled(original.archive, library)


def test_other_outputs_are_a_mismatch(fizzbuzz: Compiled, tmp_path: Path) -> None:
    doubled = forged(fizzbuzz, tmp_path, lambda weights: weights * 2)
    result = runner("verify", *doubled.arguments)
    assert result.returncode == MISMATCH
    assert "MISMATCH" in result.stdout


def test_errors_larger_than_libtorchs_are_a_mismatch(fizzbuzz: Compiled, tmp_path: Path) -> None:
    """Some within the tolerance, which is the rule of runtimes with LibTorch."""
    rough = forged(fizzbuzz, tmp_path, lambda weights: weights * (1 + 3e-6))
    result = runner("verify", *rough.arguments, "--json")
    assert result.returncode == MISMATCH
    reasons = [r["reason"] for r in json.loads(result.stdout)["results"] if not r["agreed"]]
    assert any("error to float64" in reason for reason in reasons)


# --- bench ---


def test_both_are_timed(fizzbuzz: Compiled) -> None:
    options = ("--batch", "1,3", "--seconds", "0", "--rounds", "3")
    report = json.loads(answered("bench", *fizzbuzz.arguments, *options, "--json"))
    assert [result["batch"] for result in report["results"]] == [1, 3]
    for result in report["results"]:
        native = result["native"]
        assert native["calls"] == result["calls"] == 3
        assert 0 < native["p50_us"] <= native["p99_us"] <= native["max_us"]
        low, high = native["times_as_fast"]["low"], native["times_as_fast"]["high"]
        assert 0 < low <= native["times_as_fast"]["median"] <= high
    table = answered("bench", *fizzbuzz.arguments, *options)
    assert "native p50 us" in table
    assert "times as fast" in table
    assert "native" not in answered("bench", fizzbuzz.archive.path, *options)


def test_steps_are_timed(moba: Compiled) -> None:
    options = ("--step", "--seconds", "0", "--rounds", "1", "--json")
    (result,) = json.loads(answered("bench", *moba.arguments, *options))["results"]
    assert result["native"]["calls"] == 1


# --- what is no library of this archive ---

COMMANDS = {
    "verify": ("verify",),
    "run": ("run", "--input", "-"),
    "bench": ("bench", "--seconds", "0"),
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_the_library_of_another_archive(
    command: tuple[str, ...], fizzbuzz: Compiled, strict: Compiled
) -> None:
    digests = [archive.digest[:16] for archive in (fizzbuzz.archive, strict.archive)]
    message = refused(BAD_ARCHIVE, *command, fizzbuzz.archive.path, "--native", strict.library)
    assert message == (
        f"'{strict.library}' was compiled from another archive: expected the digest "
        f"{digests[0]}…, got {digests[1]}…; make it with `torchship compile "
        f"{fizzbuzz.archive.path} --target lib -o {strict.library}`"
    )


def foreign(folder: Path, text: str) -> Path:
    (folder / "foreign.c").write_text(text)
    build_library(folder / "foreign.c", folder / "foreign.so")
    return folder / "foreign.so"


def told(text: str) -> str:
    return f"const char *torchship_native_info(void) {{ return {json.dumps(text)}; }}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("int nothing;", "is no library that torchship compiled"),
        (told("nonsense"), "does not say what it is"),
        (told("{}"), "does not say what it is"),
        (told('{"archive": 1}'), "does not say what it is"),
        (told('{"archive": "DIGEST"}'), "does not describe its method 'forward'"),
        (
            told('{"archive": "DIGEST", "methods": {"forward": {"inputs": [{"kind": "x"}]}}}'),
            "does not describe its method 'forward'",
        ),
        (
            told(
                '{"archive": "DIGEST", "prefix": "p", '
                '"methods": {"forward": {"inputs": [], "outputs": []}}}'
            ),
            "has no function 'p_forward'",
        ),
    ],
)
def test_libraries_of_others(text: str, message: str, fizzbuzz: Compiled, tmp_path: Path) -> None:
    library = foreign(tmp_path, text.replace("DIGEST", fizzbuzz.archive.digest))
    found = refused(BAD_ARCHIVE, "verify", fizzbuzz.archive.path, "--native", library)
    assert found.startswith(f"'{library}' {message}")
    assert "make it with `torchship compile" in found


def test_files_that_are_no_libraries(fizzbuzz: Compiled, tmp_path: Path) -> None:
    (tmp_path / "text.so").write_text("no library" * 100)
    for name in ("text.so", "missing.so", ""):
        library = tmp_path / name
        message = refused(BAD_ARCHIVE, "verify", fizzbuzz.archive.path, "--native", library)
        assert message.startswith(f"cannot load '{library}': ")
        assert "make it with `torchship compile" in message


def test_plain_torchscript(fizzbuzz: Compiled, tmp_path: Path) -> None:
    with pytest.warns(zoo.TORCHSCRIPT_NOTICE):
        torch.jit.save(torch.jit.script(zoo.linear()), str(tmp_path / "plain.pt"))
    message = refused(BAD_USAGE, "bench", tmp_path / "plain.pt", "--native", fizzbuzz.library)
    assert message.endswith("without a manifest: no library is compiled from it")


# --- signatures ---


@pytest.fixture
def signed(fizzbuzz: Compiled, tmp_path: Path) -> tuple[Compiled, Path]:
    """A signed archive with its library, which is not signed, in a folder with two keys."""
    for name in ("ours", "other"):
        make_key(tmp_path / f"{name}.key", tmp_path / f"{name}.pub")
    archive = Path(shutil.copy(fizzbuzz.archive.path, tmp_path))
    sign(archive, tmp_path / "ours.key")
    library = Path(shutil.copy(fizzbuzz.library, tmp_path))
    return Compiled(open_archive(archive), library), tmp_path


def test_with_trusted_keys_the_library_must_be_signed(signed: tuple[Compiled, Path]) -> None:
    model, folder = signed
    command = ("verify", *model.arguments, "--trusted-keys", folder / "ours.pub")
    assert refused(BAD_ARCHIVE, *command).startswith(f"'{model.library}' is not signed")
    sign(model.library, folder / "other.key")
    assert "is of none of the 1 trusted keys" in refused(BAD_ARCHIVE, *command)
    sign(model.library, folder / "ours.key")
    assert "agreed" in answered(*command)
    with model.library.open("ab") as file:
        file.write(b"\0")
    assert "is of none of the 1 trusted keys" in refused(BAD_ARCHIVE, *command)


def test_an_unsigned_library_does_not_run(signed: tuple[Compiled, Path], tmp_path: Path) -> None:
    """Not even what a library does while it is loaded."""
    model, folder = signed
    mark = tmp_path / "mark"
    text = (
        "#include <fcntl.h>\n__attribute__((constructor)) static void start(void) "
        f'{{ (void)!creat("{mark}", 0600); }}'
    )
    library = foreign(tmp_path, text)
    command = ("verify", model.archive.path, "--native", library)
    refused(BAD_ARCHIVE, *command, "--trusted-keys", folder / "ours.pub")
    assert not mark.exists()
    refused(BAD_ARCHIVE, *command)
    assert mark.exists()
