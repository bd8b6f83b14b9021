"""KServe's runtimes and service: against its SDK, our command line and a real server."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import httpx
import pytest
from kserve_types import check
from manifests import ROOT, Manifest, settings, yaml

from served import launched, make

FOLDER = ROOT / "deploy" / "kserve"
RUNTIMES: dict[str, Manifest] = {
    runtime["metadata"]["name"]: runtime
    for runtime in yaml.safe_load_all((FOLDER / "runtimes.yaml").read_text())
}
SERVICE: Manifest = yaml.safe_load((FOLDER / "inferenceservice.yaml").read_text())
MODELS = "/mnt/models"  # where KServe's storage initializer puts what storageUri names


def container(runtime: Manifest) -> Manifest:
    [only] = runtime["spec"]["containers"]
    found: Manifest = only
    assert found["name"] == "kserve-container"  # by which KServe finds it
    return found


@pytest.mark.parametrize("name", RUNTIMES)
def test_runtimes_have_fields_that_kserve_knows(name: str) -> None:
    runtime = RUNTIMES[name]
    assert (runtime["apiVersion"], runtime["kind"]) == (
        "serving.kserve.io/v1alpha1",
        "ClusterServingRuntime",
    )
    check(runtime, "V1alpha1ClusterServingRuntime")


def test_the_service_has_fields_that_kserve_knows() -> None:
    assert SERVICE["apiVersion"] == "serving.kserve.io/v1beta1"
    check(SERVICE, "V1beta1InferenceService")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"specs": {}}, "specs"),
        ({"spec": {"predictor": {"model": {"storageURI": "s3://a"}}}}, "storageURI"),
        ({"spec": {"predictor": {"minReplicas": "one"}}}, "expected int"),
        ({"spec": {"predictor": {"model": {"storageUri": "s3://a"}}}}, "model_format"),
    ],
)
def test_mistakes_are_seen(change: dict[str, Any], message: str) -> None:
    with pytest.raises((AssertionError, ValueError), match=message):
        check({**SERVICE, **change}, "V1beta1InferenceService")


@pytest.mark.parametrize(("name", "protocol"), [("torchship", "v2"), ("torchship-grpc", "grpc-v2")])
def test_a_runtime_is_reached_where_the_server_listens(name: str, protocol: str) -> None:
    runtime = RUNTIMES[name]
    assert runtime["spec"]["protocolVersions"] == [protocol]
    main = container(runtime)
    got = settings(main)
    assert (got["host"], got["paths"]) == ("0.0.0.0", [MODELS])
    [port] = main["ports"]  # a container of KServe has one
    if protocol == "v2":
        assert (port["name"], port["containerPort"]) == ("http1", got["port"])
    else:
        assert (port["name"], port["containerPort"]) == ("h2c", got["grpc_port"])
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert main[probe]["httpGet"]["port"] == got["port"]
    assert runtime["spec"]["annotations"]["prometheus.kserve.io/port"] == str(got["port"])
    needed = got["drain_seconds"] + got["shutdown_seconds"]
    assert SERVICE["spec"]["predictor"]["terminationGracePeriodSeconds"] >= needed + 5


@pytest.mark.parametrize("name", RUNTIMES)
def test_runtimes_are_confined(name: str) -> None:
    confined = container(RUNTIMES[name])["securityContext"]
    assert confined == {
        "runAsNonRoot": True,
        "runAsUser": 10001,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    volumes = {volume["name"] for volume in RUNTIMES[name]["spec"]["volumes"]}
    assert {mount["name"] for mount in container(RUNTIMES[name])["volumeMounts"]} == volumes


def test_the_service_asks_for_a_runtime_that_is_there() -> None:
    predictor = SERVICE["spec"]["predictor"]
    spec = RUNTIMES[predictor["model"]["runtime"]]["spec"]
    assert predictor["model"]["protocolVersion"] in spec["protocolVersions"]
    known = [{"name": f["name"], "version": f["version"]} for f in spec["supportedModelFormats"]]
    assert predictor["model"]["modelFormat"] in known
    assert predictor["enableServiceLinks"] is False


def test_what_the_storage_initializer_lays_out_is_served(tmp_path: Path) -> None:
    """The objects below an address, with their names from there on; Triton's layout among them."""
    archive = make(tmp_path, "tiny")
    nested = tmp_path / "mnt" / "models" / "memory" / "3"
    nested.mkdir(parents=True)
    shutil.move(make(tmp_path, "memory", "3"), nested / "model.pt")
    shutil.move(archive, tmp_path / "mnt" / "models" / "tiny.pt")
    main = container(RUNTIMES["torchship"])
    first, *options, models = main["args"]
    assert (first, models) == ("serve", MODELS)
    given = [o for o in options if not o.startswith(("--host=", "--port=", "--drain-seconds="))]
    with launched(*given, tmp_path / MODELS.lstrip("/")) as process:
        assert process.line() == "ready: tiny/1, memory/3"
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            path = main[probe]["httpGet"]["path"]
            assert httpx.get(process.url + path, trust_env=False).status_code == 200
        path = RUNTIMES["torchship"]["spec"]["annotations"]["prometheus.kserve.io/path"]
        assert "torchship_queue_rows" in httpx.get(process.url + path, trust_env=False).text
