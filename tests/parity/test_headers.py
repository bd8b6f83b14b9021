"""The public headers in programs that define ordinary words as macros, as engines do."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import torch

from cmake_projects import ROOT

INCLUDE = ROOT / "cpp_runner" / "include"
TORCH = Path(torch.__file__).parent / "include"
PAIR = {"hide_macros.h", "restore_macros.h"}

# As the hosts define them, or near to it: with arguments, as other words, as numbers, as nothing.
HOSTS = {
    "Unreal": """
        check(x)=if(!(x))throw(x)  checkf(x,...)=  checkSlow(x)=  checkCode(x)=do{x;}while(0)
        verify(x)=if(!(x))throw(x) verifyf(x,...)= verifySlow(x)= ensure(x)=(!!(x))
        ensureMsgf(x,...)=(!!(x))  ensureAlways(x)=(!!(x))        unimplemented()=
        TEXT(x)=FText(x)           PI=(3.1415926535897932f)
    """,
    "AssertMacros.h": "require(x,label)=if(!(x))goto\\ label check(x)= verify(x)=",
    "Qt": "slots= signals=public emit= foreach(x,y)=for(x:y) forever=for(;;)",
    "Windows": """
        min(a,b)=(((a)<(b))?(a):(b)) max(a,b)=(((a)>(b))?(a):(b))
        near= far= small=char interface=struct IN= OUT= OPTIONAL= VOID=void CONST=const
        ERROR=0 NO_ERROR=0 TRUE=1 FALSE=0 DELETE=0x10000 STRICT=1 IGNORE=0
        ABSOLUTE=1 RELATIVE=2 DIFFERENCE=11 DOMAIN=1 OVERFLOW=3 UNDERFLOW=4
    """,
    "X11": "None=0L Bool=int Status=int Success=0 Always=2 True=1 False=0 Unsorted=0",
    "C": """
        I=(__extension__1.0iF) complex=_Complex clear()=wclear(0) erase()=werase(0)
        move(y,x)=wmove(0,y,x) timeout(x)=wtimeout(0,x) abs(x)=((x)>0?(x):-(x))
        round(x)=((long)((x)+0.5)) unix=1 linux=1
    """,
}


def macros(host: str) -> dict[str, str]:
    """The names, each with the line that defines it."""
    found = {}
    for entry in re.split(r"(?<!\\)\s+", HOSTS[host].strip()):
        name, value = entry.replace("\\ ", " ").split("=", 1)
        found[name.split("(")[0]] = f"#define {name} {value}\n"
    return found


def compiled(folder: Path, source: str, *flags: str, compiler: str = "g++") -> None:
    file = folder / f"host{'.cpp' if compiler == 'g++' else '.c'}"
    file.write_text(source)
    warnings = ("-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only")
    done = subprocess.run(
        [compiler, *warnings, *flags, f"-I{INCLUDE}", file],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def includes() -> str:
    names = {file.name for file in (INCLUDE / "torchship").iterdir()} - PAIR
    return "".join(f"#include <torchship/{name}>\n" for name in sorted(names))


def test_the_headers_are_compiled_by_a_newer_standard(tmp_path: Path) -> None:
    compiled(tmp_path, includes(), "-std=c++23", f"-isystem{TORCH}")


@pytest.mark.parametrize("host", HOSTS)
def test_every_header_survives_the_hosts_macros(host: str, tmp_path: Path) -> None:
    defined = macros(host)
    # What is left must be the host's own again: to define it once more otherwise is an error.
    source = "".join(defined.values()) + includes() + "".join(defined.values())
    for name in defined:
        source += f"#ifndef {name}\n#error {name} is gone\n#endif\n"
    source += "bool agreed(const torchship::Archive& a) { return (torchship::verify)(a).agreed; }\n"
    compiled(tmp_path, source, "-std=c++20", f"-isystem{TORCH}")


@pytest.mark.parametrize(
    ("compiler", "standard"), [("gcc", "c11"), ("gcc", "c17"), ("g++", "c++98")]
)
def test_the_c_header_survives_them_all(compiler: str, standard: str, tmp_path: Path) -> None:
    defined = {name: line for host in HOSTS for name, line in macros(host).items()}
    source = "".join(defined.values()) + "#include <torchship/torchship.h>\n"
    source += "torchship_options options = TORCHSHIP_OPTIONS;\n"
    compiled(tmp_path, source, f"-std={standard}", "-Wno-variadic-macros", compiler=compiler)


def test_what_is_hidden_is_restored_and_tried() -> None:
    hidden = re.findall(r'push_macro\("(\w+)"\)\n#undef (\w+)', read("hide_macros.h"))
    names = [name for name, _ in hidden]
    assert hidden == [(name, name) for name in names]
    assert names == re.findall(r'pop_macro\("(\w+)"\)', read("restore_macros.h"))
    assert set(names) == {name for host in HOSTS for name in macros(host)}


OPENCV = """
#include <cstddef>
using uchar = unsigned char;
namespace cv {
struct MatStep { std::size_t operator[](int) const; };
struct Mat {
  int rows, cols;
  uchar* data;
  MatStep step;
  bool isContinuous() const;
  Mat clone() const;
};
}
"""


@pytest.mark.parametrize("language", ["c", "cpp"])
def test_what_the_page_shows_is_compiled(language: str, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "embedding.md").read_text()
    blocks = re.findall(rf"^```{language}\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    assert blocks
    (tmp_path / "opencv2").mkdir()
    (tmp_path / "opencv2" / "core.hpp").write_text(OPENCV)
    how = {"c": ("gcc", "-std=c11"), "cpp": ("g++", "-std=c++20")}
    compiler, standard = how[language]
    includes = (f"-isystem{TORCH}", f"-I{tmp_path}")
    compiled(tmp_path, "".join(blocks), standard, *includes, compiler=compiler)


def read(name: str) -> str:
    return (INCLUDE / "torchship" / name).read_text()
