"""The table of other people's architectures in the documents is the one that the tests go by."""

from __future__ import annotations

from foreign_models import ARCHITECTURES, ROOT, table


def test_the_page_shows_what_the_tests_expect() -> None:
    assert table() in (ROOT / "docs" / "ship.md").read_text()


def test_most_architectures_ship_and_every_refusal_has_a_remedy() -> None:
    shipped = {(each.library, each.name) for each in ARCHITECTURES if each.ships}
    assert len(shipped) >= 26
    assert all(each.remedy for each in ARCHITECTURES if not each.ships)
    assert len({str(each) for each in ARCHITECTURES}) == len(ARCHITECTURES)
