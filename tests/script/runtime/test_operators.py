"""Custom operators: found in a module, named in its manifest, loaded from allowed folders."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import pytest
import torch
from torch import Tensor, nn

import zoo
from torchship.models import registry
from torchship.script.errors import ExportError, OperatorError
from torchship.script.exporting import custom_operators
from torchship.script.exporting.export import Options, export
from torchship.script.exporting.target import find_target
from torchship.script.format.manifest import CustomOperator
from torchship.script.runtime import archive as archives
from torchship.script.runtime import operators, torchscript, torchscript_file
from torchship.script.runtime.archive import Archive, open_archive

OURS = CustomOperator(name="torchship::lstm_pointwise", library="torchship_ops")


@pytest.fixture(autouse=True)
def no_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    # Set, not deleted: what was not there is not put back, and `operators.allow` writes to it.
    monkeypatch.setenv(operators.VARIABLE, "")


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    return export(
        find_target("lstm-fused", None, {}), tmp_path_factory.mktemp("ours") / "lstm-fused.pt"
    )


@pytest.fixture(scope="module")
def acme(ours: Archive, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive that says its operator is of the library acme_ops."""
    said = ours.require_manifest().model_copy(
        update={"custom_ops": (CustomOperator(name=OURS.name, library="acme_ops"),)}
    )
    path = tmp_path_factory.mktemp("acme") / "acme.pt"
    path.write_bytes(archives.pack(torchscript_file.save(ours.load()), said, ours.golden))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the library acme_ops, which is a copy of ours."""
    folder = tmp_path_factory.mktemp("operators")
    shutil.copy(operators.find("torchship_ops"), folder / "libacme_ops.so")
    return folder


def torchship(
    *arguments: object,
    cwd: Path | None = None,
    environment: Mapping[str, str] = MappingProxyType({}),
) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own, where nothing is loaded yet."""
    return subprocess.run(
        [sys.executable, "-m", "torchship", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={**os.environ, **environment},
    )


# --- finding the operators that a module uses ---


class Gates(nn.Module):
    """float32[batch,3] -> float32[batch,3], by our operator, in a branch."""

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 2:
            x, _ = torch.ops.torchship.lstm_pointwise(torch.cat([x, x, x, x], 1), x)
        return x


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Gates()

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.inner(x) + 1
        return result


def in_a_function(x: Tensor) -> Tensor:
    h: Tensor = torch.ops.torchship.lstm_pointwise(torch.cat([x, x, x, x], 1), x)[0]
    return h


class Forked(nn.Module):
    """The operator is neither in the module's graph nor in that of a submodule."""

    def forward(self, x: Tensor) -> Tensor:
        future = torch.jit.fork(in_a_function, x)  # type: ignore[no-untyped-call]
        result: Tensor = torch.jit.wait(future)  # type: ignore[no-untyped-call]
        return result


class Talker(nn.Module):
    """Uses operators of torch alone, whatever it says."""

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 7:
            raise ValueError("ops.torchship.lstm_pointwise")
        return x * x.dim()


def outer() -> nn.Module:
    """What a user's factory does: its module calls the operator before it is an archive."""
    operators.load_library("acme_ops")
    return Outer().eval()


def code_of(module: nn.Module) -> bytes:
    return torchscript_file.save(torchscript.compile_module(module.eval(), "script", {}))


@pytest.fixture(scope="module", autouse=True)
def loaded() -> None:
    operators.load([OURS])


@pytest.mark.parametrize("module", [Gates, Outer, Forked])
def test_operators_are_found_wherever_they_are_called(module: type[nn.Module]) -> None:
    assert custom_operators.used_by(code_of(module())) == ["torchship::lstm_pointwise"]


def test_torch_s_own_operators_are_no_custom_ones() -> None:
    assert custom_operators.used_by(code_of(Talker())) == []
    for name in registry.names():
        if name != "lstm-fused":
            assert custom_operators.used_by(code_of(registry.get(name).factory())) == [], name


def test_what_libtorch_registers_is_known_to_be_its_own() -> None:
    """A process in which no library of operators, and nothing of ours, was loaded."""
    code = "import torch; print(*{s.name for s in torch._C._jit_get_all_schemas()})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names = done.stdout.split()
    new = [name for name in names if name.partition("::")[0] not in custom_operators.BUILT_IN]
    assert all(map(custom_operators.torch_has, {n.partition("::")[0]: n for n in new}.values()))


class OfTorch(nn.Module):
    """Uses an operator of torch, in a namespace that only tests of torch use."""

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = torch.ops._test.leaky_relu(x, 0.5)
        return result


def of_torch() -> nn.Module:
    return OfTorch().eval()


def test_a_namespace_that_a_newer_torch_has_brought_is_torch_s_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(custom_operators, "BUILT_IN", custom_operators.BUILT_IN - {"_test"})
    assert custom_operators.used_by(code_of(of_torch())) == ["_test::leaky_relu"]
    archive = export(zoo.target(of_torch, zoo.rows), tmp_path / "of_torch.pt")
    assert archive.require_manifest().custom_ops == ()


# --- export ---


def test_the_exporter_names_operators_and_libraries(ours: Archive) -> None:
    assert ours.require_manifest().custom_ops == (OURS,)
    assert open_archive(ours.path).require_manifest().custom_ops == (OURS,)


@pytest.fixture(scope="module")
def python_only() -> Iterator[None]:
    """An operator acme::twice, which no library has."""
    library = torch.library.Library("acme", "DEF")  # type: ignore[no-untyped-call]
    library.define("twice(Tensor x) -> Tensor")  # type: ignore[no-untyped-call]
    library.impl("twice", lambda x: 2 * x, "CompositeImplicitAutograd")  # type: ignore[no-untyped-call]
    yield
    library._destroy()  # type: ignore[no-untyped-call]


class Twice(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = torch.ops.acme.twice(x)
        return result


def twice() -> nn.Module:
    return Twice().eval()


@pytest.mark.usefixtures("python_only")
def test_an_operator_of_no_named_library_is_refused(tmp_path: Path, folder: Path) -> None:
    target = zoo.target(twice, zoo.rows)

    def refusal(libraries: dict[str, str]) -> str:
        with pytest.raises(ExportError) as caught:
            export(target, tmp_path / "a.pt", Options(libraries=libraries))
        assert not (tmp_path / "a.pt").exists()
        assert "'acme::twice'" in str(caught.value) or "library '" in str(caught.value)
        return str(caught.value)

    assert "no library is named that has it: name one (--library acme=NAME)" in refusal({})
    assert "no library is named" in refusal({"torch": "acme_ops"})
    assert "there is no 'libacme_ops.so'" in refusal({"acme": "acme_ops"})
    # The library is there, and it is not the one that has registered the operator here.
    operators.allow([folder])
    assert refusal({"acme": "acme_ops"}) == (
        "the module cannot be an archive: it needs the operator 'acme::twice' of the library "
        f"'acme_ops': '{folder / 'libacme_ops.so'}' does not register it"
    )
    (tmp_path / "libbroken_ops.so").write_bytes(b"nothing")
    operators.allow([tmp_path])
    assert f"cannot load '{tmp_path / 'libbroken_ops.so'}': " in refusal({"acme": "broken_ops"})
    for name in ("../acme_ops", str(folder / "libacme_ops.so"), ""):
        assert f"library '{name}'" in refusal({"acme": name})


def test_a_library_of_the_user_is_named(tmp_path: Path, folder: Path) -> None:
    done = torchship(
        "script",
        *("test_operators:outer", "--example", "zoo:rows", "-o", tmp_path / "a.pt"),
        *("--library", "torchship=acme_ops", "--operators", folder),
        cwd=Path(__file__).parent,
        environment={"PYTHONPATH": str(Path(zoo.__file__).parent)},
    )
    assert done.returncode == 0, done.stderr
    named = CustomOperator(name=OURS.name, library="acme_ops")
    assert open_archive(tmp_path / "a.pt").require_manifest().custom_ops == (named,)


# --- loading ---


def test_ours_is_looked_for_in_the_package_and_others_are_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = operators.folders("torchship_ops")
    assert (package[0] / "torchship-runner").is_file()
    assert package[1:] == [package[0].parent / "lib"]
    assert operators.folders("acme_ops") == []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(operators.VARIABLE, "/c")
    operators.allow([Path("a"), Path("/b")])
    given = [tmp_path / "a", Path("/b"), Path("/c")]
    assert operators.folders("acme_ops") == given
    assert operators.folders("torchship_ops") == [*package, *given]
    assert os.environ[operators.VARIABLE] == ":".join(map(str, given))


def refused(operator: CustomOperator) -> OperatorError:
    with pytest.raises(OperatorError) as caught:
        operators.load([OURS, operator])
    assert (caught.value.code, caught.value.exit_code) == ("missing_operator", 3)
    start = f"it needs the operator '{operator.name}' of the library '{operator.library}': "
    assert str(caught.value).startswith(start)
    assert caught.value.public.startswith(start)
    return caught.value


def test_what_is_missing_is_named_with_where_it_was_looked_for(tmp_path: Path) -> None:
    nothing = CustomOperator(name="acme::nothing", library="acme_ops")
    assert "there is no 'libacme_ops.so'; folders" in str(refused(nothing))
    (tmp_path / "libacme_ops.so").mkdir()  # a folder is no library
    operators.allow([tmp_path, Path("/no/such")])
    error = refused(nothing)
    assert f"there is no 'libacme_ops.so' in '{tmp_path}', '/no/such'" in str(error)
    assert operators.VARIABLE in str(error)
    assert "there is no 'libacme_ops.so'" in error.public
    assert str(tmp_path) not in error.public


def test_a_file_that_is_no_library(tmp_path: Path) -> None:
    (tmp_path / "libacme_ops.so").write_text("nothing")
    operators.allow([tmp_path])
    error = refused(CustomOperator(name="acme::nothing", library="acme_ops"))
    assert f"cannot load '{tmp_path / 'libacme_ops.so'}': " in str(error)
    assert str(tmp_path) not in error.public


def test_a_library_without_the_operator() -> None:
    error = refused(CustomOperator(name="torchship::nothing", library="torchship_ops"))
    assert "libtorchship_ops.so' does not register it" in str(error)
    assert "'libtorchship_ops.so' does not register it" in error.public


# Loaded in a process of its own: `loaded` by torch itself, then the operator `name` of the library
# `library` in `folder` is asked for.
BESIDE = """
import sys, torch
from pathlib import Path
from torchship.script.runtime import operators
from torchship.script.errors import OperatorError
from torchship.script.format.manifest import CustomOperator
loaded, folder, name, library = sys.argv[1:]
torch.ops.load_library(loaded)
operators.allow([Path(folder)])
try:
    operators.load([CustomOperator(name=name, library=library)])
except OperatorError as error:
    print(error)
    print(error.public)
"""


def beside(loaded: Path, folder: Path, name: str, library: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", BESIDE, loaded, folder, name, library]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)


def test_another_file_of_a_loaded_library_is_refused(tmp_path: Path) -> None:
    ours, nothing = operators.find("torchship_ops"), "torchship::nothing"
    start = f"it needs the operator '{nothing}' of the library"
    copy = Path(shutil.copy(ours, tmp_path / "libacme_ops.so"))
    done = beside(ours, tmp_path, nothing, "acme_ops")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"{start} 'acme_ops': '{copy}' is a copy of a library that is loaded already, '{ours}': "
        "two files cannot register the same operators in one process",
        f"{start} 'acme_ops': '{copy.name}' is a copy of a library that is loaded already",
    ]
    older = tmp_path / "older"
    older.mkdir()
    (older / copy.name).write_bytes(ours.read_bytes() + b"of another build")
    done = beside(older / copy.name, tmp_path, nothing, "acme_ops")
    assert done.returncode == 0, done.stderr
    assert f"'{copy}' is another file of the name of a library that is loaded" in done.stdout
    # The same file, by whatever path, is no other.
    (tmp_path / "link").symlink_to(tmp_path)
    done = beside(tmp_path / "link" / copy.name, tmp_path, nothing, "acme_ops")
    assert "does not register it" in done.stdout


def test_libtorch_ends_a_process_in_which_two_files_register_an_operator(tmp_path: Path) -> None:
    """What `docs/cpp.md` warns of, where neither name nor content tells it."""
    ours = operators.find("torchship_ops")
    (tmp_path / "libacme_ops.so").write_bytes(ours.read_bytes() + b"of another build")
    done = beside(ours, tmp_path, "torchship::nothing", "acme_ops")
    assert done.returncode == -signal.SIGABRT
    assert "Only a single TORCH_LIBRARY can be used" in done.stderr


def test_what_is_registered_needs_no_library() -> None:
    relu = CustomOperator(name="aten::relu", library="nowhere")
    operators.load([relu])
    operators.check_libraries([relu])


def test_the_message_names_the_archive(ours: Archive, tmp_path: Path) -> None:
    nothing = CustomOperator(name="acme::nothing", library="acme_ops")
    said = ours.require_manifest().model_copy(update={"custom_ops": (nothing,)})
    path = tmp_path / "a.pt"
    path.write_bytes(archives.pack(torchscript_file.save(ours.load()), said, ours.golden))
    with pytest.raises(OperatorError, match=r"^'a\.pt': it needs the operator 'acme::nothing'"):
        open_archive(path).load()


def test_only_the_folders_of_the_user_are_looked_in(acme: Path, folder: Path) -> None:
    missing = "'acme.pt': it needs the operator 'torchship::lstm_pointwise' of the library 'acme_"
    for environment in ({}, {operators.VARIABLE: ":"}):
        done = torchship(
            "inspect", acme, cwd=folder, environment=environment
        )  # nor the current folder
        assert done.returncode == 3
        assert missing in done.stderr
        assert "there is no 'libacme_ops.so'" in done.stderr
    done = torchship("verify", acme)
    assert done.returncode == 3
    assert "there is no 'libacme_ops.so'" in done.stderr
    done = torchship("inspect", acme, "--operators", folder)
    assert done.returncode == 0, done.stderr
    assert "torchship::lstm_pointwise, of acme_ops" in " ".join(done.stdout.split())


@pytest.mark.parametrize("by", ["option", "environment"])
def test_every_runtime_takes_the_folders(acme: Path, folder: Path, by: str) -> None:
    runtimes = [word for name in ("script", "cpp", "http") for word in ("--runtime", name)]
    if by == "option":
        done = torchship("verify", acme, *runtimes, "--operators", folder)
    else:
        done = torchship("verify", acme, *runtimes, environment={operators.VARIABLE: str(folder)})
    assert done.returncode == 0, done.stdout + done.stderr


# --- built with another torch ---


def test_a_library_of_another_torch_is_refused(ours: Archive, folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "libacme_ops.so", tmp_path)
    (tmp_path / "libtorch-version").write_text("2.9\n")
    said = ours.require_manifest().model_copy(
        update={"custom_ops": (CustomOperator(name=OURS.name, library="acme_ops"),)}
    )
    path = tmp_path / "acme.pt"
    path.write_bytes(archives.pack(torchscript_file.save(ours.load()), said, ours.golden))
    for runtime in ("script", "cpp"):
        result = torchship("verify", path, "--operators", tmp_path, "--runtime", runtime)
        text = " ".join((result.stdout + result.stderr).split())
        assert result.returncode in (1, 3), text
        assert "was built with torch 2.9, and this is" in text
        assert "run `pip install 'torch==2.9.*'`" in text
        assert "Traceback" not in text


def test_our_own_library_of_another_torch_is_refused(tmp_path: Path) -> None:
    library = operators.find("torchship_ops")
    shutil.copy(library, tmp_path)
    (tmp_path / "libtorch-version").write_text("2.9\n")
    code = (
        "import sys; from pathlib import Path; from torchship.models import operators; "
        "operators.load_file(Path(sys.argv[1]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / library.name)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "OperatorsMissingError: " in done.stderr
    assert "was built with torch 2.9, and this is torch" in done.stderr
