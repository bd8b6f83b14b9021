"""The Helm chart: what Helm's engine renders, against Kubernetes' schemas and a real server."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import chart_schema
import helm_python as helm
import httpx
import pytest
from kubernetes_validate.utils import latest_version, validate
from manifests import (
    CHART,
    PREFIX,
    ROOT,
    VARIANTS,
    Manifest,
    notes,
    pod,
    render,
    settings,
    values,
    variables,
    yaml,
)

from served import Process, launched, make

STORE = {"models": {"stores": ["s3://bucket/models"]}}
OLDEST = "1.25"  # of Chart.yaml's kubeVersion
OF_OTHERS = {"PodMonitor"}  # of which Kubernetes has no schema


def container(objects: dict[str, Manifest]) -> Manifest:
    [only] = pod(objects)["containers"]
    found: Manifest = only
    return found


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    folder = tmp_path_factory.mktemp("models")
    make(folder, "tiny")
    with launched(folder) as process:
        assert process.line() == "ready: tiny/1"
        yield process


@pytest.mark.parametrize("variant", VARIANTS)
def test_helm_has_nothing_to_say_of_it(variant: str) -> None:
    report = helm.lint(CHART, values(variant), strict=True)
    assert report["errors"] == []
    # The chart has no icon.
    assert [m["error"] for m in report["messages"] if m["severity"] > 1] == []


@pytest.mark.parametrize("version", [OLDEST, latest_version()])
@pytest.mark.parametrize("variant", VARIANTS)
def test_objects_follow_kubernetes_schemas(variant: str, version: str) -> None:
    objects = render(values(variant))
    for kind in objects.keys() - OF_OTHERS:
        validate(objects[kind], version, strict=True)


def test_the_chart_says_which_kubernetes_was_checked() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["kubeVersion"] == f">={OLDEST}.0-0"


def test_all_values_render_every_template() -> None:
    kinds = {p.stem for p in (CHART / "templates").glob("*.yaml")}
    assert {kind.lower() for kind in render(values("all"))} == kinds


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_server_takes_its_arguments_and_environment(variant: str) -> None:
    given = values(variant)
    objects = render(given)
    got = settings(container(objects))
    assert (got["host"], got["port"]) == ("0.0.0.0", 8000)
    assert got["paths"] == [
        *(["/models"] if given["models"].get("claim") else []),
        *given["models"].get("stores", []),
    ]
    for name, value in given.get("settings", {}).items():
        assert got[name] == value
    grpc = given.get("grpc", {}).get("enabled", True)
    assert got["grpc_port"] == (8001 if grpc else None)
    assert got["log_format"] == "json"


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_port_that_is_named_is_one_of_the_container(variant: str) -> None:
    objects = render(values(variant))
    main = container(objects)
    got = settings(main)
    ports = {port["name"]: port["containerPort"] for port in main["ports"]}
    expected = {"http": got["port"], "grpc": got["grpc_port"]}
    assert ports == {name: port for name, port in expected.items() if port}
    assert {port["targetPort"] for port in objects["Service"]["spec"]["ports"]} == ports.keys()
    probes = [main[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")]
    assert {probe["port"] for probe in probes} == {"http"}
    for kind in {"NetworkPolicy", "PodMonitor"} & objects.keys():
        spec = objects[kind]["spec"]
        endpoints = spec.get("podMetricsEndpoints") or spec["ingress"][0]["ports"]
        assert {endpoint["port"] for endpoint in endpoints} <= ports.keys()


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_volume_that_is_mounted_is_there_and_the_other_way(variant: str) -> None:
    objects = render(values(variant))
    mounts = container(objects)["volumeMounts"]
    assert sorted(m["name"] for m in mounts) == sorted(v["name"] for v in pod(objects)["volumes"])
    for name, value in variables(container(objects)).items():
        if value.startswith("/") and name != "XDG_CACHE_HOME":
            assert any(value.startswith(f"{mount['mountPath']}/") for mount in mounts), name


@pytest.mark.parametrize("variant", VARIANTS)
def test_selectors_select_the_pods(variant: str) -> None:
    objects = render(values(variant))
    labels = objects["Deployment"]["spec"]["template"]["metadata"]["labels"]
    selectors = [
        objects["Deployment"]["spec"]["selector"]["matchLabels"],
        objects["Service"]["spec"]["selector"],
    ]
    for kind in {"PodDisruptionBudget", "PodMonitor"} & objects.keys():
        selectors.append(objects[kind]["spec"]["selector"]["matchLabels"])
    if "NetworkPolicy" in objects:
        selectors.append(objects["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"])
    for selector in selectors:
        assert selector
        assert selector.items() <= labels.items()


@pytest.mark.parametrize("variant", VARIANTS)
def test_pods_are_confined(variant: str) -> None:
    """What Kubernetes' pod security standard `restricted` asks for, and a read-only root."""
    spec = pod(render(values(variant)))
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["securityContext"].get("runAsUser") != 0
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    for each in spec["containers"]:
        assert each["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {"requests", "limits"} <= each["resources"].keys()
    written = [v["name"] for v in spec["volumes"] if "emptyDir" in v]
    assert written == ["tmp", "cache"]
    assert all(v["emptyDir"]["sizeLimit"] for v in spec["volumes"] if "emptyDir" in v)


@pytest.mark.parametrize("variant", VARIANTS)
def test_kubernetes_waits_longer_than_the_server_takes_to_end(variant: str) -> None:
    objects = render(values(variant))
    got = settings(container(objects))
    needed = got["drain_seconds"] + got["shutdown_seconds"]
    # Two seconds after that, the supervisor ends what hangs.
    assert pod(objects)["terminationGracePeriodSeconds"] >= needed + 5
    # A pod is out of its Services before its port is closed.
    readiness = container(objects)["readinessProbe"]
    assert readiness["periodSeconds"] * readiness["failureThreshold"] < got["drain_seconds"]


def test_times_are_what_the_values_say() -> None:
    objects = render({**STORE, "drainSeconds": 70, "shutdownSeconds": 500, "startSeconds": 1200})
    got = settings(container(objects))
    assert (got["drain_seconds"], got["shutdown_seconds"]) == (70, 500)
    assert pod(objects)["terminationGracePeriodSeconds"] == 580
    startup = container(objects)["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] == 1200
    assert objects["Deployment"]["spec"]["progressDeadlineSeconds"] > 1200


def test_probes_ask_for_routes_that_a_server_has(server: Process) -> None:
    main = container(render(values("store")))
    paths = {main[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "liveness")}
    assert paths == {"/v2/health/live"}
    for path in (*paths, main["readinessProbe"]["httpGet"]["path"]):
        assert httpx.get(server.url + path, trust_env=False).status_code == 200


def test_a_server_that_loads_passes_the_startup_probe(tmp_path: Path) -> None:
    """So that a large model has the time that it needs, and a bad one is told in the log."""
    (tmp_path / "broken.pt").write_bytes(b"PK\x03\x04 no archive")
    with launched(tmp_path) as process:
        assert process.line().startswith("failed: ")
        live = httpx.get(f"{process.url}/v2/health/live", trust_env=False)
        ready = httpx.get(f"{process.url}/v2/health/ready", trust_env=False)
    assert (live.status_code, ready.status_code) == (200, 503)


def test_the_autoscaler_reads_a_metric_that_the_server_has(server: Process) -> None:
    objects = render(values("all"))
    spec = objects["HorizontalPodAutoscaler"]["spec"]
    assert spec["scaleTargetRef"] == {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "name": objects["Deployment"]["metadata"]["name"],
    }
    assert "replicas" not in objects["Deployment"]["spec"]
    [metric] = [m["pods"]["metric"]["name"] for m in spec["metrics"] if m["type"] == "Pods"]
    path = objects["PodMonitor"]["spec"]["podMetricsEndpoints"][0]["path"]
    text = httpx.get(server.url + path, trust_env=False).text
    assert re.search(rf'^{metric}\{{model="tiny",version="1"\}} 0\.0$', text, re.MULTILINE)


def test_the_dashboard_is_the_one_of_deploy() -> None:
    objects = render(values("all"))
    found = objects["ConfigMap"]
    assert found["data"]["torchship.json"] == (ROOT / "deploy" / "grafana.json").read_text()
    # What the sidecar of Grafana's chart looks for, unless it is told otherwise.
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert found["metadata"]["annotations"] == {"grafana_folder": "Models"}
    assert "ConfigMap" not in render(values("store"))


def test_with_tls_probes_and_metrics_are_asked_over_https() -> None:
    objects = render(values("all"))
    main = container(objects)
    schemes = {main[f"{p}Probe"]["httpGet"]["scheme"] for p in ("startup", "liveness", "readiness")}
    assert schemes == {"HTTPS"}
    assert objects["PodMonitor"]["spec"]["podMetricsEndpoints"][0]["scheme"] == "https"
    assert "https://demo-torchship.prod:8000" in notes(values("all"))


@pytest.mark.parametrize(
    ("given", "state"),
    [
        ({}, "none"),  # two replicas
        ({"replicas": 1}, "memory"),
        ({"replicas": 1, "settings": {"workers": 2}}, "none"),
        ({"replicas": 1, "autoscaling": {"enabled": True}}, "none"),
        ({"settings": {"state": "memory"}}, "memory"),
        ({"redis": {"url": "redis://redis:6379/0"}}, "redis://redis:6379/0"),
    ],
)
def test_replicas_have_sequences_only_in_a_common_store(given: dict[str, Any], state: str) -> None:
    main = container(render({**STORE, **given}))
    assert variables(main)[f"{PREFIX}STATE"] == state
    said = "Sequences are off" in notes({**STORE, **given})
    assert said == (state == "none")


def test_an_address_of_redis_may_be_a_secret() -> None:
    [item] = [i for i in container(render(values("all")))["env"] if i["name"] == f"{PREFIX}STATE"]
    assert item["valueFrom"] == {"secretKeyRef": {"name": "redis", "key": "url"}}


def test_large_numbers_stay_whole() -> None:
    got = variables(container(render({**STORE, "settings": {"max_body_bytes": 123456789012}})))
    assert got[f"{PREFIX}MAX_BODY_BYTES"] == "123456789012"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "no models: set models.stores"),
        ({**STORE, "redis": {"url": "redis://a", "existingSecret": "b"}}, "expected one of them"),
        (
            {**STORE, "redis": {"url": "redis://a"}, "settings": {"state": "memory"}},
            "redis and settings.state are both set",
        ),
        (
            {**STORE, "autoscaling": {"enabled": True, "minReplicas": 5, "maxReplicas": 3}},
            "minReplicas is more than autoscaling.maxReplicas",
        ),
        (
            {**STORE, "apiKeys": {"existingSecret": "a"}, "podMonitor": {"enabled": True}},
            "set podMonitor.keySecret.name",
        ),
    ],
)
def test_values_that_cannot_work_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(helm.HelmError, match=re.escape(message)):
        render(given)


@pytest.mark.parametrize(
    "wrong",
    [
        {"replica": 2},
        {"replicas": "two"},
        {"replicas": -1},
        {"models": {"stores": "s3://bucket"}},
        {"models": {"stores": ["/models"]}},
        {"models": {"claim": "Not A Name"}},
        {"models": {"subPath": "../secrets"}},
        {"settings": {"worker": 2}},
        {"settings": {"workers": 0}},
        {"settings": {"max_batch": 1.5}},
        {"settings": {"port": 9000}},
        {"settings": {"mode": "watch"}},
        {"grpc": True},
        {"service": {"type": "Ingress"}},
        {"service": {"httpPort": 70000}},
        {"autoscaling": {"queueRows": 0}},
        {"redis": {"url": "http://redis"}},
        {"user": 0},
        {"cache": {"gibibytes": "ten"}},
        {"tls": {"secret": "a"}},
        {"podDisruptionBudget": {"maxUnavailable": "half"}},
    ],
)
def test_the_schema_refuses_nonsense(wrong: dict[str, Any]) -> None:
    with helm.Chart.load(CHART) as chart:
        chart.validate_schema(STORE)
        with pytest.raises(helm.HelmError):
            chart.validate_schema(wrong)


def test_the_schema_has_the_settings_of_the_server() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert chart_schema.with_settings(schema) == schema, "run: python deploy/chart_schema.py"


def test_every_value_has_a_schema() -> None:
    def check(given: object, schema: dict[str, Any], path: str) -> None:
        if isinstance(given, dict):
            for key, value in given.items():
                if "properties" in schema:
                    assert key in schema["properties"], f"{path}.{key}"
                    check(value, schema["properties"][key], f"{path}.{key}")

    schema = json.loads((CHART / "values.schema.json").read_text())
    check(yaml.safe_load((CHART / "values.yaml").read_text()), schema, "")


def test_the_values_of_the_docs_render() -> None:
    page = (ROOT / "docs" / "deploy.md").read_text()
    [block] = re.findall(r"```yaml\n# values.yaml\n(.*?)```", page, re.DOTALL)
    objects = render(yaml.safe_load(block))
    assert settings(container(objects))["workers"] == 2
    sets = re.findall(r"--set '?([\w.]+)=", page)
    assert sets
    schema = json.loads((CHART / "values.schema.json").read_text())
    for name in [*sets, *re.findall(r"`((?:autoscaling|service|redis|settings)\.\w+)", page)]:
        below = schema
        for part in name.split("."):
            assert part in below["properties"], name
            below = below["properties"][part]


def test_the_rule_of_the_docs_is_for_the_metric_of_the_autoscaler() -> None:
    page = (ROOT / "docs" / "deploy.md").read_text()
    [block] = re.findall(r"```yaml\n# rules of prometheus-adapter\n(.*?)```", page, re.DOTALL)
    [rule] = yaml.safe_load(block)["rules"]["custom"]
    spec = render(values("all"))["HorizontalPodAutoscaler"]["spec"]
    [metric] = [m["pods"]["metric"]["name"] for m in spec["metrics"] if m["type"] == "Pods"]
    assert rule["seriesQuery"].startswith(f"{metric}{{")


def test_versions_are_those_of_the_package() -> None:
    [version] = re.findall(
        r"project\(torchship VERSION ([\d.]+)", (ROOT / "CMakeLists.txt").read_text()
    )
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (version, version)
    assert container(render(STORE))["image"] == f"torchship:{version}"
    for file in (ROOT / "deploy" / "kserve").glob("*.yaml"):
        assert set(re.findall(r"image: torchship:(\S+)", file.read_text())) <= {version}


@pytest.mark.parametrize("name", ["torchship", "a", "x" * 53])
def test_any_name_of_a_release_makes_valid_names(name: str) -> None:
    for manifest in render(values("all"), name).values():
        assert re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", manifest["metadata"]["name"])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "tcp://10.0.0.1:8000"),
        ("SERVICE_HOST", "10.0.0.1"),
        ("PREDICTOR_PORT_80_TCP_ADDR", "10.0.0.1"),
    ],
)
def test_a_service_of_kubernetes_that_sets_a_variable_is_named(name: str, value: str) -> None:
    """A pod without `enableServiceLinks: false`, beside a Service called torchship-serve."""
    done = subprocess.run(
        [sys.executable, "-m", "torchship", "serve", "--show-config"],
        env={**os.environ, f"{PREFIX}{name}": value},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "enableServiceLinks: false" in done.stderr
