"""Architectures of other libraries, and the result of exporting each.

Their libraries are installed in an environment of their own, which `make` makes; their factories
lie in `tests/foreign/architectures`, and are named on the command line as a user names his.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).resolve().parent.parent
FACTORIES = ROOT / "tests" / "foreign" / "architectures"
PYTHON = ROOT / "build" / "foreign" / ".venv" / "bin" / "python"

Way = Literal["script", "trace", "trace, warnings allowed", "refused"]
OPTIONS: Mapping[Way, tuple[str, ...]] = {
    "script": (),
    "trace": ("--mode", "trace"),
    "trace, warnings allowed": ("--mode", "trace", "--allow-trace-warnings"),
}


@dataclass(frozen=True)
class Architecture:
    """One architecture: how it is named on the command line, and what is expected of it."""

    library: str
    name: str
    factory: str
    examples: str
    way: Way
    kwargs: Mapping[str, object] = field(default_factory=dict)
    tried: Way = "script"  # how it is shipped, if it is to be refused
    remedy: str = ""  # what the refusal says to do

    def __str__(self) -> str:
        way = self.way if self.ships else f"refused, by {self.tried}"
        return f"{self.library} {self.name} ({way})"

    @property
    def ships(self) -> bool:
        """Whether it becomes an archive."""
        return self.way != "refused"

    @property
    def options(self) -> tuple[str, ...]:
        """The options of `torchship script` that it takes."""
        return OPTIONS[self.way if self.ships else self.tried]

    def command(self, archive: Path) -> list[str]:
        """Return the `torchship script` command that ships it."""
        module = self.factory.partition(":")[0]
        given = [f"--kwarg={key}={value}" for key, value in self.kwargs.items()]
        example = f"--example={module}:{self.examples}"
        return ["script", self.factory, example, *given, *self.options, "-o", str(archive)]


def _timm(name: str, examples: str, **config: object) -> Architecture:
    kwargs = {"architecture": name, **config}
    return Architecture("timm", name, "timm_models:classifier", examples, "script", kwargs)


def _torchvision(name: str) -> Architecture:
    factory = "torchvision_models:classifier"
    return Architecture("torchvision", name, factory, "icons", "script", {"architecture": name})


def _smp(name: str, way: Way = "script") -> Architecture:
    kwargs = {"architecture": name}
    library = "segmentation-models-pytorch"
    return Architecture(library, name, "smp_models:segmenter", "icons", way, kwargs)


def _transformers(name: str, factory: str, examples: str) -> Architecture:
    named = f"transformers_models:{factory}"
    return Architecture("transformers", name, named, examples, "trace, warnings allowed")


def _graph(name: str, way: Way, **config: object) -> Architecture:
    kwargs = {"architecture": name, **config}
    return Architecture(
        "torch-geometric", name, "graph_models:graph_network", "graphs", way, kwargs
    )


def _puffer(name: str, factory: str, examples: str, way: Way) -> Architecture:
    return Architecture("pufferlib", name, f"pufferlib_policies:{factory}", examples, way)


def _sb3(name: str, factory: str, examples: str, way: Way) -> Architecture:
    return Architecture("stable-baselines3", name, f"sb3_policies:{factory}", examples, way)


def _refused(
    library: str, name: str, factory: str, examples: str, tried: Way, remedy: str, **kwargs: object
) -> Architecture:
    return Architecture(library, name, factory, examples, "refused", kwargs, tried, remedy)


ARCHITECTURES = (
    _timm("resnet18", "thumbnails"),
    _timm("mobilenetv3_small_050", "thumbnails"),
    _timm("efficientnet_b0", "icons"),
    _timm("convnext_atto", "icons"),
    _timm("vit_tiny_patch16_224", "icons", img_size=64, embed_dim=48, depth=2),
    _timm("mobilevit_xxs", "icons"),
    Architecture(
        "timm",
        "levit_128s",
        "timm_models:called_classifier",
        "icons",
        "script",
        {"architecture": "levit_128s", "img_size": 64},
    ),
    _torchvision("shufflenet_v2_x0_5"),
    _torchvision("regnet_y_400mf"),
    Architecture(
        "torchvision",
        "lraspp_mobilenet_v3_large",
        "torchvision_models:without_pretrained_backbone",
        "pictures_of_lraspp",
        "script",
        {"architecture": "lraspp_mobilenet_v3_large"},
    ),
    _smp("unet"),
    _smp("fpn"),
    _smp("deeplabv3plus"),
    _smp("unetplusplus", "trace"),
    _transformers("BERT", "bert", "text"),
    _transformers("BERT with padding", "bert", "padded"),
    _transformers("RoBERTa", "roberta", "text"),
    _transformers("DistilBERT", "distilbert", "text"),
    _transformers("T5 encoder", "t5_encoder", "text"),
    _transformers("GPT-2", "gpt2", "text"),
    _transformers("Llama", "llama", "text"),
    _transformers("Qwen2", "qwen2", "text"),
    _transformers("ViT", "vit", "patches"),
    _transformers("CLIP vision", "clip_vision", "patches"),
    _transformers("SegFormer", "called_segformer", "icons"),
    _transformers("wav2vec 2.0", "wav2vec2", "waves"),
    _transformers("Whisper encoder", "whisper_encoder", "spectrograms"),
    _graph("GraphSAGE", "script"),
    _graph("GIN", "script"),
    _graph("GCN", "trace"),
    _graph("GAT", "trace, warnings allowed", v2=True),
    Architecture(
        "torch-geometric",
        "TransformerConv",
        "graph_models:attention_layer",
        "graphs",
        "trace, warnings allowed",
    ),
    _puffer("Default", "default", "observations", "trace"),
    _puffer("Default (MultiDiscrete)", "several_actions", "observations", "trace"),
    _puffer("Convolutional", "convolutional", "stacked_frames", "trace"),
    _puffer("LSTMWrapper", "recurrent", "observations_and_state", "trace, warnings allowed"),
    _puffer("ProcgenResnet", "procgen_resnet", "frames", "trace, warnings allowed"),
    _sb3("PPO (deterministic)", "ppo", "observations", "trace, warnings allowed"),
    _sb3("PPO of continuous actions", "ppo_of_forces", "observations", "trace, warnings allowed"),
    _sb3("PPO of pixels", "ppo_of_pixels", "screens", "trace, warnings allowed"),
    _sb3("SAC (deterministic)", "sac", "observations", "trace, warnings allowed"),
    _sb3("DQN", "dqn", "observations", "trace"),
    _sb3("QR-DQN (sb3-contrib)", "qrdqn", "observations", "trace"),
    _sb3("TD3 actor", "td3", "observations", "trace"),
    Architecture("vit-pytorch", "ViT", "attention_models:vit", "patches", "trace"),
    Architecture(
        "x-transformers",
        "decoder",
        "attention_models:decoder",
        "text",
        "trace, warnings allowed",
    ),
    _refused(
        "timm",
        "levit_128s",
        "timm_models:classifier",
        "icons",
        "script",
        "call the module once in the factory",
        architecture="levit_128s",
        img_size=64,
    ),
    _refused(
        "segmentation-models-pytorch",
        "unetplusplus",
        "smp_models:segmenter",
        "icons",
        "script",
        "--mode trace",
        architecture="unetplusplus",
    ),
    _refused("transformers", "BERT", "transformers_models:bert", "text", "script", "--mode trace"),
    _refused(
        "transformers",
        "BERT (traced)",
        "transformers_models:bert",
        "text",
        "trace",
        "--allow-trace-warnings",
    ),
    _refused(
        "transformers",
        "SegFormer",
        "transformers_models:segformer",
        "icons",
        "trace, warnings allowed",
        "call the module once in the factory",
    ),
    _refused(
        "transformers",
        "Mamba",
        "transformers_models:mamba",
        "text",
        "trace, warnings allowed",
        "give examples of one size",
    ),
    _refused(
        "torch-geometric",
        "GCN",
        "graph_models:graph_network",
        "graphs",
        "script",
        "--mode trace",
        architecture="GCN",
    ),
    _refused(
        "torch-geometric",
        "TransformerConv",
        "graph_models:attention_layer",
        "graphs",
        "script",
        "--mode trace",
    ),
    _refused(
        "pufferlib", "Default", "pufferlib_policies:default", "observations", "script", "int(...)"
    ),
    _refused(
        "pufferlib",
        "Default (Box)",
        "pufferlib_policies:continuous",
        "observations",
        "trace",
        "tensors",
    ),
    _refused(
        "stable-baselines3",
        "PPO",
        "sb3_policies:ppo_that_draws",
        "observations",
        "trace",
        "take the state or the seed as an argument",
    ),
    _refused(
        "stable-baselines3", "DQN", "sb3_policies:dqn", "observations", "script", "--mode trace"
    ),
    _refused(
        "x-transformers", "decoder", "attention_models:decoder", "text", "script", "--mode trace"
    ),
)


def table() -> str:
    """Return the table of `docs/ship.md`: which architectures ship, and how."""
    ways: dict[str, dict[Way, list[str]]] = {}
    for each in ARCHITECTURES:
        if each.ships:
            ways.setdefault(each.library, {}).setdefault(each.way, []).append(each.name)
    lines = ["| library | architecture | how |", "|---|---|---|"]
    for library, found in ways.items():
        for way, names in found.items():
            how = f"`{' '.join(OPTIONS[way])}`" if OPTIONS[way] else "scripted"
            lines.append(f"| {library} | {', '.join(names)} | {how} |")
    return "\n".join(lines) + "\n"


def check(architecture: Architecture, archive: Path) -> None:
    """Ship an architecture and verify its archive, or see it refused with its remedy."""
    assert PYTHON.exists(), "their libraries are not installed: make build/foreign/sample"
    shipped = run(*architecture.command(archive))
    if architecture.ships:
        assert shipped.returncode == 0, shipped.stderr
        runtimes = [f"--runtime={name}" for name in ("eager", "script", "cpp")]
        verified = run("verify", str(archive), *runtimes)
        assert verified.returncode == 0, verified.stdout + verified.stderr
    else:
        assert shipped.returncode == 2, shipped.stdout + shipped.stderr
        message = shipped.stderr.splitlines()[-1]
        assert message.startswith("torchship: error: ")
        assert architecture.remedy in message
        assert not archive.exists()


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `torchship` beside the factories, in the environment that has their libraries."""
    return subprocess.run(
        [str(PYTHON), "-W", "ignore", "-m", "torchship", *arguments],
        cwd=FACTORIES,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
