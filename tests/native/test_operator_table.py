"""The table of operators in docs/native.md is that of the code."""

from __future__ import annotations

from pathlib import Path

import pytest

from torchship.native.importing.table import table, written_into

PAGE = Path(__file__).resolve().parents[2] / "docs" / "native.md"


def test_the_page_has_the_table_of_the_code() -> None:
    page = PAGE.read_text()
    command = "python -m torchship.native.importing.table docs/native.md"
    assert written_into(page) == page, f"run: {command}"
    assert command in page


def test_the_table_has_the_names_of_torch() -> None:
    made = table()
    assert "`scaled_dot_product_attention`" in made
    assert "prim::" not in made
    assert "`gather`" not in made


def test_a_page_without_the_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="the page has no <!-- operators -->"):
        written_into("a page")
