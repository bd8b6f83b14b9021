"""`torchship demo`: the table, fizzbuzz by the C++ binary, digits in four runtimes."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from torchship.demo import SITE, fizzbuzz_words, largest_difference, write_page
from torchship.models import registry
from torchship.models.charlstm import charlstm
from torchship.models.names import decode
from torchship.script.exporting.export import export
from torchship.script.exporting.runtimes import Result
from torchship.script.exporting.target import find_target
from torchship.script.runtime.agreement import Difference


@pytest.mark.timeout(1200)  # it takes four minutes where two other tests run beside it
def test_the_demo_prints_what_it_promises(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "torchship", "demo"],
        cwd=tmp_path,
        env={"TORCHSHIP_DATA": str(tmp_path), **os.environ},  # never a download
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for name in registry.names():
        assert re.search(rf"{name} +[\d,]+( +0){{5}} +[\d.e-]+( +[\d,]+){{6}}", done.stdout), name
        assert (tmp_path / "archives" / f"{name}.pt").exists()
    assert "1 2 fizz 4 buzz fizz 7 8 fizz buzz 11 fizz 13 14 fizzbuzz 16 17 fizz 19 buzz" in (
        done.stdout
    )
    drawn = done.stdout.split("names from seed 1, by the C++ binary:\n")[1].splitlines()[0].split()
    eager = decode(charlstm().generate(10, 1, 20))
    assert drawn == eager
    assert len(drawn) == 10
    assert done.stdout.endswith("\n  python3 -m http.server -d site\n")
    assert (tmp_path / "site" / "index.html").exists()
    models = {path.name for path in (tmp_path / "site" / "models").iterdir()}
    assert models == set(SITE)
    if os.environ.get("TORCHSHIP_DATA"):
        reached = re.findall(r"(eager|script|C\+\+|HTTP) +([\d.]+) %", done.stdout)
        assert [name for name, _ in reached] == ["eager", "script", "C++", "HTTP"]
        assert {share for _, share in reached} == {"96.74"}
    else:
        assert "MNIST" in done.stdout


def test_without_a_compiler_it_says_what_to_install_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WASM_CC", "no-such-compiler")
    said = io.StringIO()
    write_page([], tmp_path / "site", Console(file=said))
    assert said.getvalue().startswith("\nno web page: there is no clang")
    assert "clang, lld and wasi-libc" in said.getvalue()
    assert not (tmp_path / "site").exists()


def test_the_words_are_those_of_the_game(tmp_path: Path) -> None:
    export(find_target("fizzbuzz", None, {}), tmp_path / "fizzbuzz.pt")
    spelled = ["fizz" * (n % 3 == 0) + "buzz" * (n % 5 == 0) or str(n) for n in range(1, 101)]
    assert fizzbuzz_words(tmp_path / "fizzbuzz.pt", 100) == spelled


def difference(agreed: bool, max_abs: float, identical: bool) -> Difference:
    return Difference(0, "c", "forward", 0, "y", agreed, max_abs, 0.0, 0, identical, "")


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (Result("x", [difference(True, 0.0, True)]), "0"),
        (Result("x", [difference(True, 0.0, True), difference(True, 0.0, False)]), "±0"),
        (Result("x", [difference(True, 0.0, True), difference(True, 2e-7, False)]), "2e-07"),
        (Result("x", [difference(True, 0.0, True), difference(False, 1.0, False)]), "differs"),
        (Result("x", error="refused"), "failed"),
        (Result("x"), "differs"),
    ],
)
def test_zero_means_bit_identical(result: Result, expected: str) -> None:
    assert largest_difference(result) == expected
