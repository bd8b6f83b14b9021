"""What models print, line by line. Each test is a new process, because `install` is process-wide.

The programs load `printing` alone: it must be there for processes that have no torch.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from torchship.script.runtime import printing

LOAD = f"""
import importlib.util, os, sys, threading, warnings
spec = importlib.util.spec_from_file_location("printing", {printing.__file__!r})
printing = importlib.util.module_from_spec(spec)
spec.loader.exec_module(printing)
assert "torch" not in sys.modules
"""


def program(
    code: str, redirect: str = "", install: str = "printing.install()"
) -> subprocess.CompletedProcess[str]:
    """Run a program whose output a shell redirects."""
    return subprocess.run(
        ["sh", "-c", f'exec "$0" -c "$1" {redirect}', sys.executable, f"{LOAD}{install}\n{code}"],
        capture_output=True,
        text=True,
        check=False,
    )


def lines(code: str) -> list[str]:
    """Return what goes to standard error; nothing may go to standard output."""
    done = program(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    return done.stderr.splitlines()


def test_prints_go_to_standard_error_by_the_model_s_name() -> None:
    assert lines("""
with printing.by("moba"):
    print("one", 2)
    print("two\\nthree")
    sys.stdout.writelines(["four\\n", "five\\n"])
""") == ["moba: one 2", "moba: two", "moba: three", "moba: four", "moba: five"]


def test_our_own_output_passes() -> None:
    done = program("""
print("before")
with printing.by("moba"):
    print("told")
print("after", end="")
sys.stdout.buffer.write(b", raw")
""")
    assert (done.stdout, done.stderr) == ("before\nafter, raw", "moba: told\n")


def test_without_install_nothing_changes() -> None:
    done = program('with printing.by("moba"): print("told")', install="")
    assert (done.stdout, done.stderr) == ("told\n", "")


def test_a_line_that_is_begun_ends_with_the_call() -> None:
    assert lines("""
with printing.by("moba"):
    print("a", end="")
    print("b", end="")
with printing.by("xor"):
    print("c")
    print("d", end="")
    with printing.by("moba"):
        print("e", end="")
    print("f")
""") == ["moba: ab", "xor: c", "xor: d", "moba: e", "xor: f"]


def test_threads_do_not_share_a_line() -> None:
    said = lines("""
step = threading.Barrier(2)
def run(model):
    with printing.by(model):
        for _ in range(100):
            step.wait()
            print("a", end="")
            step.wait()
            print("b")
threads = [threading.Thread(target=run, args=[model]) for model in ("moba", "xor")]
for thread in threads: thread.start()
for thread in threads: thread.join()
""")
    assert sorted(said) == ["moba: ab"] * 100 + ["xor: ab"] * 100


def test_what_could_pass_for_another_line_is_escaped() -> None:
    assert lines(r"""
with printing.by("moba\nready:"):
    print("\x1b[2J\rready: \x00 \x9b \u202e \u2028 \udcff")
    print("é 😀\tplain")
""") == [
        r"moba\nready:: \x1b[2J\rready: \x00 \x9b \u202e \u2028 \udcff",
        "moba\\nready:: é 😀\tplain",
    ]


def test_a_very_long_line_is_cut_and_nothing_is_lost() -> None:
    said = lines("""
with printing.by("moba"):
    print("x" * 100_000)
    for _ in range(10_000): print("y", end="")
""")
    assert all(len(line) <= len("moba: ") + 4096 for line in said)
    assert "".join(line.removeprefix("moba: ") for line in said) == "x" * 100_000 + "y" * 10_000


@pytest.mark.parametrize(
    "code",
    [
        'sys.stdout.buffer.write(b"told\\n")',
        'os.write(sys.stdout.fileno(), b"told\\n")',
        'os.write(1, b"told\\n")',
        'os.system("echo told")',
        'sys.__stdout__.write("told\\n")',
    ],
)
def test_no_way_of_writing_reaches_our_output(code: str) -> None:
    assert lines(f'with printing.by("moba"): {code}') == ["told"]


def test_a_warning_of_a_model_has_its_name_and_others_look_as_ever() -> None:
    said = lines("""
with printing.by("moba"):
    warnings.warn("mind\\nthis")
warnings.warn("ours")
""")
    assert said[:2] == ["moba: warning: mind", "moba: this"]
    assert said[2].endswith("UserWarning: ours")


def test_that_torch_jit_is_deprecated_is_no_news() -> None:
    """A factory that loads a file with torch.jit.load is what we advise."""
    assert lines("""
with printing.by("moba"):
    warnings.warn("`torch.jit.load` is deprecated. Please switch.", FutureWarning)
    warnings.warn("`torch.load` is deprecated", FutureWarning)
""") == ["moba: warning: `torch.load` is deprecated"]


@pytest.mark.parametrize("redirect", ["2>&-", "2>/dev/full", "1>&- 2>&-", "0<&- 2>&-"])
def test_a_standard_error_that_is_closed_or_full_fails_no_call(redirect: str) -> None:
    done = program(
        """
with printing.by("moba"):
    print("told")
    warnings.warn("told")
print("a notice of ours", file=sys.stderr, flush=True)
print("{}")
""",
        redirect,
    )
    assert done.returncode == 0
    assert done.stdout == ("" if "1>&-" in redirect else "{}\n")


@pytest.mark.parametrize(
    ("closed", "descriptor"), [("2>&-", 2), ("<&- >&- 2>&-", 2), ("<&- >&-", 1)]
)
def test_what_is_closed_is_not_the_next_file(closed: str, descriptor: int, tmp_path: Path) -> None:
    file = tmp_path / "weights"
    code = f"""
files = [open({str(file)!r} + str(number), "w") for number in range(3)]
with printing.by("moba"):
    try: os.write({descriptor}, b"told")
    except OSError: pass
"""
    program(code, closed)
    assert [Path(f"{file}{number}").read_text() for number in range(3)] == ["", "", ""]


def test_a_program_may_receive_the_printed_lines_in_its_own_function() -> None:
    done = program("""
def tell(model, line):
    print(model, repr(line))  # ours, though the model runs
    raise OSError("a log that is full")
printing.install(tell)
with printing.by("moba"):
    print("told")
""")
    assert (done.returncode, done.stdout, done.stderr) == (0, "moba 'told'\n", "")
