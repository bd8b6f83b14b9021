"""Errors of the user's module become ExportErrors; our own bugs do not."""

from __future__ import annotations

import pytest
import torch

import zoo
from torchship.script.errors import ExportError, UsageError
from torchship.script.exporting.module_errors import as_export_errors
from torchship.script.runtime.batch import row_count


def test_what_torch_raises_is_explained_in_one_line() -> None:
    with pytest.raises(ExportError) as caught, as_export_errors():
        torch.ones(2).view(3)
    assert str(caught.value).startswith("the module cannot become an archive: RuntimeError: shape")
    assert "\n" not in str(caught.value)


def test_what_the_user_s_code_raises_is_explained_in_one_line() -> None:
    said = "archive: RuntimeError: no examples today"
    with pytest.raises(ExportError, match=said), as_export_errors():
        zoo.failing_examples()


def test_an_error_for_the_user_stays_what_it_is() -> None:
    with pytest.raises(UsageError, match="as it is"), as_export_errors():
        raise UsageError("as it is")


def test_a_fault_of_ours_stays_a_fault() -> None:
    with pytest.raises(AttributeError), as_export_errors():
        row_count({"x": 3}, {"x": 0})  # type: ignore[dict-item]
