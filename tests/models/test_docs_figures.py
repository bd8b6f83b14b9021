"""`docs/models.md` has every model, with the metrics of its stored weights."""

import re
from pathlib import Path

import pytest

from torchship.models import registry
from torchship.models.cli import figure
from torchship.models.training import store

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "models.md").read_text()


def sections() -> dict[str, str]:
    """The page's text by the model's name: its own section, or the row of a table."""
    return {
        name: "\n".join(re.findall(rf"^### {name}\n(.*?)(?=^##)", PAGE, re.DOTALL | re.MULTILINE))
        + "\n".join(line for line in PAGE.splitlines() if line.startswith(f"| `{name}` "))
        for name in registry.names()
    }


@pytest.mark.parametrize("name", registry.names())
def test_the_parameters_are_printed(name: str) -> None:
    count = sum(parameter.numel() for parameter in registry.get(name).factory().parameters())
    assert f"| {count:,} |" in sections()[name]


@pytest.mark.parametrize("name", registry.trainable())
def test_the_metrics_reached_are_printed(name: str) -> None:
    for metric, value in store.read_report(name).metrics.items():
        where = PAGE if metric.endswith("random") else sections()[name]
        assert figure(metric, value) in where, metric


@pytest.mark.parametrize("name", registry.trainable())
def test_the_command_and_its_time_are_printed(name: str) -> None:
    assert f"| `{name}` | `torchship train {name}` | " in PAGE
