"""What torch.jit says, in one line, in the words of more than one release of torch."""

import pytest

from torchship.script.runtime.explanations import explain


@pytest.mark.parametrize(
    "text",
    [
        "Could not export Python function call 'Double'. Remove calls to Python functions",
        "Python builtin <built-in method apply of FunctionMeta object at 0x56> is currently not "
        "supported in Torchscript",
    ],
    ids=["2.13", "2.14"],
)
def test_a_function_of_python_is_explained_in_every_release(text: str) -> None:
    assert "; a function of Python (@torch.jit.ignore, " in explain(text, "script")
