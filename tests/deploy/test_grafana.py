"""The Grafana dashboard: its structure, and its queries against the metrics of a real server."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import promql_parser as promql
import pytest
from manifests import ROOT
from prometheus_client.parser import text_string_to_metric_families

from served import launched, make

BOARD: dict[str, Any] = json.loads((ROOT / "deploy" / "grafana.json").read_text())
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
VARIABLES = {variable["name"]: variable for variable in BOARD["templating"]["list"]}
TARGETS = {
    f"{panel['title']} {target['refId']}": target for panel in PANELS for target in panel["targets"]
}
FROM_PROMETHEUS = {"instance"}  # a label that it adds
LABEL_VALUES = re.compile(r"label_values\((.*), (\w+)\)")

NOT_SHOWN = {
    # Triton's statistics are made of it; the panel "Where the time goes" has the same by request.
    "torchship_execution_seconds_total",
}
"""The metrics that no panel shows."""

Samples = dict[str, list[dict[str, str]]]


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Samples]:
    """The labels of every sample of a server that has answered, refused and failed."""
    folder = tmp_path_factory.mktemp("models")
    make(folder, "nested")
    refused = make(folder, "tiny", edit=lambda outputs: {k: v + 1 for k, v in outputs.items()})
    with launched(folder, "--workers", 2) as server:
        assert server.line().startswith(f"failed: {refused}: golden case 0")
        with httpx.Client(base_url=server.url, trust_env=False, timeout=60) as client:
            assert client.get("/v2/health/ready").status_code == 503
            while client.get("/v2/models/nested/ready").status_code != 200:
                pass
            document = client.get("/openapi.json").json()
            body = document["paths"]["/v2/models/nested/infer"]["post"]["requestBody"]
            example = body["content"]["application/json"]["examples"]["golden"]["value"]
            for request, status in ((example, 200), ({}, 400)):
                answer = client.post("/v2/models/nested/infer", json=request)
                assert answer.status_code == status
            text = client.get("/metrics").text
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample.labels)
    yield found


def parsed(expression: str) -> promql.Expr:
    """Parse a query as Grafana sends it; the variables in matchers stay as they are."""
    tree: promql.Expr = promql.parse(expression.replace("$__rate_interval", "5m"))
    return tree


def selectors(tree: promql.Expr) -> list[promql.VectorSelector]:
    found: list[promql.VectorSelector] = []

    def visit(node: promql.Expr) -> None:
        if isinstance(node, promql.MatrixSelector):
            found.append(node.vector_selector)
        elif isinstance(node, promql.VectorSelector):
            found.append(node)

    promql.walk(tree, visit)
    assert found, "it asks for no metric"
    return list({str(selector): selector for selector in found}.values())


def aggregations(tree: promql.Expr) -> list[promql.AggregateExpr]:
    found: list[promql.AggregateExpr] = []

    def visit(node: promql.Expr) -> None:
        if isinstance(node, promql.AggregateExpr):
            found.append(node)

    promql.walk(tree, visit)
    return found


def labels_of(selector: promql.VectorSelector, samples: Samples) -> set[str]:
    assert selector.name in samples, f"the server has no metric '{selector.name}'"
    return {label for labels in samples[selector.name] for label in labels} | FROM_PROMETHEUS


def assert_found(selector: promql.VectorSelector, samples: Samples) -> None:
    """A selector asks for labels and values that some sample has."""
    labels = labels_of(selector, samples)
    fixed = {}
    for matcher in selector.matchers.matchers:
        assert matcher.name in labels, f"{selector}: no sample has the label '{matcher.name}'"
        if "$" in matcher.value:
            assert matcher.value == f"${matcher.name}"
            assert str(matcher) == f'{matcher.name}=~"${matcher.name}"'  # several may be chosen
        else:
            fixed[matcher.name] = matcher
    for name, matcher in fixed.items():
        values = {labels.get(name, "") for labels in samples[selector.name or ""]}
        assert matcher.op in (promql.MatchOp.Equal, promql.MatchOp.Re)
        pattern = re.escape(matcher.value) if matcher.op == promql.MatchOp.Equal else matcher.value
        for option in pattern.split("|"):
            assert any(re.fullmatch(option, value) for value in values), f"{selector}: {values}"


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_a_query_asks_for_what_the_server_has(target: dict[str, Any], samples: Samples) -> None:
    tree = parsed(target["expr"])
    for selector in selectors(tree):
        assert_found(selector, samples)
        names = {matcher.name for matcher in selector.matchers.matchers}
        assert "instance" in names
        assert "model" in names or "model" not in labels_of(selector, samples)
    for aggregation in aggregations(tree):
        if aggregation.modifier is not None:
            for selector in selectors(aggregation.expr):
                assert set(aggregation.modifier.labels) <= labels_of(selector, samples)


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_a_legend_names_labels_that_the_result_has(
    target: dict[str, Any], samples: Samples
) -> None:
    named = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
    tree = parsed(target["expr"])
    kept = [set(a.modifier.labels) if a.modifier else set() for a in aggregations(tree)]
    for labels in kept or [labels_of(selector, samples) for selector in selectors(tree)]:
        assert named <= labels
    if target.get("format") != "table":  # lines with the same name could not be told apart
        for labels in kept:
            assert labels - {"le"} <= named


def test_counters_are_asked_for_their_rate_and_gauges_for_their_value(samples: Samples) -> None:
    for target in TARGETS.values():
        for selector in selectors(parsed(target["expr"])):
            name = str(selector.name)
            counted = name.endswith(("_total", "_bucket", "_sum", "_count"))
            assert (f"rate({name}{{" in target["expr"]) == counted, name


@pytest.mark.parametrize("name", ["instance", "model"])
def test_a_variable_has_values_of_the_server(name: str, samples: Samples) -> None:
    variable = VARIABLES[name]
    match = LABEL_VALUES.fullmatch(variable["definition"])
    assert match is not None
    assert variable["query"]["query"] == variable["definition"]
    assert match[2] == name
    [selector] = selectors(parsed(match[1]))
    assert_found(selector, samples)
    assert name in labels_of(selector, samples)
    # A request without a model has the label without a value: `.*` has it, `.+` has not.
    assert (variable["multi"], variable["includeAll"], variable["allValue"]) == (True, True, ".*")


def test_every_metric_is_shown_but_those_that_are_not_meant_to_be(samples: Samples) -> None:
    asked = [parsed(target["expr"]) for target in TARGETS.values()]
    shown = {str(selector.name) for tree in asked for selector in selectors(tree)}

    def family(name: str) -> str:
        return re.sub(r"_(bucket|sum|count)$", "", name)

    has = {family(name) for name in samples if not name.endswith("_created")}
    assert has - {family(name) for name in shown} == NOT_SHOWN


def test_the_autoscaler_s_metric_has_a_panel() -> None:
    chart = ROOT / "deploy" / "chart" / "torchship" / "templates" / "horizontalpodautoscaler.yaml"
    [metric] = re.findall(r"metric:\s+name: (\w+)", chart.read_text())
    [panel] = [p for p in PANELS if "HorizontalPodAutoscaler" in p["description"]]
    assert metric in panel["description"]
    assert metric in panel["targets"][0]["expr"]


def test_it_can_be_imported_anywhere() -> None:
    """No number of one Grafana is in it: the data source is a variable, and it has no id."""
    assert BOARD["id"] is None
    assert BOARD["uid"] == "torchship"
    assert list(VARIABLES) == ["datasource", "instance", "model"]
    assert (VARIABLES["datasource"]["type"], VARIABLES["datasource"]["query"]) == (
        "datasource", "prometheus",
    )  # fmt: skip
    source = {"type": "prometheus", "uid": "${datasource}"}
    asked = [panel["datasource"] for panel in PANELS]
    asked += [target["datasource"] for panel in PANELS for target in panel["targets"]]
    asked += [v["datasource"] for v in VARIABLES.values() if v["type"] == "query"]
    assert all(each == source for each in asked)
    assert "http" not in json.dumps(BOARD).lower().replace("http status", "").replace(
        "http and grpc", ""
    )


def test_panels_lie_beside_each_other_and_say_what_they_show() -> None:
    ids = [panel["id"] for panel in BOARD["panels"]]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in BOARD["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + i, at["y"] + j) for i in range(at["w"]) for j in range(at["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
    for panel in PANELS:
        assert panel["title"]
        assert panel["description"].endswith(".")
        assert [target["refId"] for target in panel["targets"]] == list(
            "ABCDEF"[: len(panel["targets"])]
        )
        assert panel["type"] == "table" or panel["fieldConfig"]["defaults"]["unit"]
