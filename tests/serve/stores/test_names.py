"""Names in a listing are data: which of them become files."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from torchship.serve.stores.store import RemoteFile, is_wanted, wanted_files

PARTS = st.sampled_from(["..", ".", "", "a", "a.pt", "model.pt", "\x00", "\n", "é", "\\", ".a.pt"])


def remote(name: str) -> RemoteFile:
    return RemoteFile(name, name, 1, "tag")


def test_archives_and_signatures_of_both_layouts_are_wanted() -> None:
    for name in ("a.pt", "a.pt.sig", "m/1/model.pt", "m/1/model.pt.sig", "größe.pt"):
        assert is_wanted(name), name


def test_other_names_are_not() -> None:
    for name in (
        *("../a.pt", "/a.pt", "a/../b/model.pt", "./a.pt", "a.txt", "m/model.pt", "m/1/other.pt"),
        *(".hidden.pt", "a\n.pt", "a\x1b.pt", "a\\b.pt", "m//model.pt", "\udc80.pt"),
        *("a" * 260 + ".pt", "m/1/2/model.pt", "a.sig", ".pt", ""),
    ):
        assert not is_wanted(name), name


@given(st.lists(PARTS, min_size=1, max_size=4))
def test_no_name_leads_out_of_the_folder(parts: list[str]) -> None:
    name = "/".join(parts)
    if is_wanted(name):
        assert not {"..", ".", ""} & set(parts)
        assert name.isprintable()


def test_an_object_and_a_folder_of_one_name_are_no_conflict() -> None:
    files = wanted_files(map(remote, ["a.pt/1/model.pt", "a.pt", "b.pt/1/model.pt", "x.txt"]))
    assert sorted(files) == ["a.pt", "b.pt/1/model.pt"]
