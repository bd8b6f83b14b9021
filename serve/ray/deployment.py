"""`build_app`: an application of Ray Serve from a few arguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy, RequestRouterConfig

from torchship.serve.ray.arguments import Arguments, read_arguments
from torchship.serve.ray.autoscaling import QueueDepth
from torchship.serve.ray.blueprint import Blueprint
from torchship.serve.ray.packing import pack
from torchship.serve.ray.replica import Ingress
from torchship.serve.ray.routing import ModelRouter

NAME = "models"
"""Of the one deployment that an application has."""

ATTEMPTS = 2  # to start a replica; a second one, because a node may have died under the first


def build_app(args: Mapping[str, Any]) -> Application:
    """Return the application that serves archives, each replica's golden cases proved first.

    It is what `serve run torchship.ray:build_app models=FOLDER` and the `import_path` of a Serve
    config file call. The arguments are those of `torchship ray deploy`, such as `models`,
    `replicas`, `max_replicas`, `redis` and `max_models`.

    Raises:
        UsageError: an argument is unknown or invalid, or does not fit the archives.
        ArchiveError: an archive is damaged, or not signed by a trusted key.
    """
    arguments, settings = read_arguments(args)
    return application(arguments, pack(arguments, settings))


def application(
    arguments: Arguments, blueprint: Blueprint, version: str | None = None
) -> Application:
    """Return the application of a blueprint; with the version that runs, no replica is replaced."""
    options: dict[str, Any] = {
        "name": NAME,
        "ray_actor_options": {"num_cpus": arguments.num_cpus, "num_gpus": arguments.num_gpus},
        "max_ongoing_requests": arguments.max_ongoing_requests,
        "max_constructor_retry_count": ATTEMPTS,
        # New replicas take the place of old ones when they are ready, and not before.
        "max_surge_percent": 100,
    }
    if arguments.max_replicas is None:
        options["num_replicas"] = arguments.replicas
    else:
        options["autoscaling_config"] = _autoscaling(arguments, arguments.max_replicas)
    if blueprint.max_models is not None:
        router: Any = ModelRouter
        options["request_router_config"] = RequestRouterConfig(request_router_class=router)
    deployment: Any = serve.deployment(**options)(Ingress)
    deployment._version = version  # Ray makes one up for None, and has no other way to give it
    bound: Application = deployment.bind(blueprint.model_dump_json())
    return bound


def _autoscaling(arguments: Arguments, most: int) -> AutoscalingConfig:
    policy: Any = AutoscalingPolicy
    target = {"target_rows": arguments.target_rows}
    return AutoscalingConfig(
        min_replicas=arguments.replicas,
        max_replicas=most,
        upscale_delay_s=arguments.upscale_seconds,
        downscale_delay_s=arguments.downscale_seconds,
        look_back_period_s=max(1.0, min(30.0, arguments.upscale_seconds)),
        policy=policy(policy_function=QueueDepth, policy_kwargs=target),
    )
