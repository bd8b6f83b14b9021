"""The commands that make and show archives."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from torchship.script.errors import UsageError
from torchship.script.exporting.export import Options, export
from torchship.script.exporting.target import find_target
from torchship.script.exporting.tolerances import widened
from torchship.script.format.manifest import Manifest, Method
from torchship.script.format.nodes import ScalarNode, TensorNode, leaves
from torchship.script.format.signing import make_key, read_trusted_keys, signature_path
from torchship.script.format.signing import sign as sign_archive
from torchship.script.runtime import operators, torchscript
from torchship.script.runtime.archive import MANIFEST, Archive, open_archive
from torchship.script.runtime.program import shape_text
from torchship.script.runtime.torchscript import Mode

app = typer.Typer()

TrustedKeys = Annotated[
    Path | None, typer.Option(help="PEM file of Ed25519 public keys; the archive must be signed.")
]

OperatorFolders = Annotated[
    list[Path] | None,
    typer.Option(
        "--operators",
        help="A folder of operator libraries, beside TORCHSHIP_OPERATORS; may be repeated.",
    ),
]


def pairs(entries: list[str], option: str) -> list[tuple[str, str]]:
    """Split `KEY=VALUE` options.

    Raises:
        UsageError: an entry without `=`, or with nothing before or after it.
    """
    split = []
    for entry in entries:
        key, _, value = entry.partition("=")
        if not key or not value:
            raise UsageError(f"{option} '{entry}': expected KEY=VALUE")
        split.append((key, value))
    return split


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


@app.command()
def script(
    target: Annotated[str, typer.Argument(help="One of our models, or module:factory.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The archive [default: NAME.pt].")
    ] = None,
    example: Annotated[
        str | None,
        typer.Option(help="module:function that returns a list of dicts of keyword arguments."),
    ] = None,
    kwarg: Annotated[
        list[str] | None, typer.Option(help="KEY=JSON for the factory; may be repeated.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="The model's name in the archive.")] = None,
    version: Annotated[str, typer.Option(help="The model's version.")] = "1",
    description: Annotated[str | None, typer.Option(help="One line about the model.")] = None,
    dim: Annotated[
        list[str] | None,
        typer.Option(help="INPUT.AXIS=NAME, what to call a symbolic dimension; may be repeated."),
    ] = None,
    outputs: Annotated[
        list[str] | None,
        typer.Option(help="[METHOD:]NAMES of the outputs, say logits,value; may be repeated."),
    ] = None,
    state: Annotated[
        list[str] | None,
        typer.Option(
            help="INPUT=OUTPUT[:zeros|:absent], recurrent state and how it starts; for every "
            "method that has the input; may be repeated."
        ),
    ] = None,
    library: Annotated[
        list[str] | None,
        typer.Option(
            help="NAMESPACE=NAME, the library (a plain name) of that namespace's custom operators; "
            "may be repeated."
        ),
    ] = None,
    operator_folders: OperatorFolders = None,
    mode: Annotated[str, typer.Option(help="script, or trace.")] = "script",
    allow_trace_warnings: Annotated[
        bool,
        typer.Option(
            "--allow-trace-warnings",
            help="With --mode trace: list what the tracer warns of and pass over it, if golden "
            "cases at three sizes of each free dimension agree.",
        ),
    ] = False,
    eval_mode: Annotated[
        bool, typer.Option("--eval", help="Put the module in eval mode first.")
    ] = False,
    fixed: Annotated[
        bool, typer.Option("--fixed", help="Allow a module that takes one size only.")
    ] = False,
) -> None:
    """Script a model and save it as an archive that carries its golden cases.

    Examples:

        torchship script fizzbuzz -o fizzbuzz.pt

        torchship script my_package.my_module:make_model --example my_package.my_module:examples
    """
    if mode not in ("script", "trace"):
        raise UsageError(f"--mode '{mode}': expected script or trace")
    if allow_trace_warnings and mode == "script":
        raise UsageError("--allow-trace-warnings: expected --mode trace with it")
    operators.allow(operator_folders or [])
    found = find_target(
        target, example, {key: _json_or_text(value) for key, value in pairs(kwarg or [], "--kwarg")}
    )
    checked_mode: Mode = "trace" if mode == "trace" else "script"
    options = Options(
        name=name,
        version=version,
        description=description,
        mode=checked_mode,
        allow_trace_warnings=allow_trace_warnings,
        eval_mode=eval_mode,
        fixed=fixed,
        dims=dict(pairs(dim or [], "--dim")),
        outputs=dict(_outputs(entry) for entry in outputs or []),
        state=tuple(_state(entry) for entry in pairs(state or [], "--state")),
        libraries=dict(pairs(library or [], "--library")),
    )
    path = output or Path(f"{name or found.name}.pt")
    archive = export(found, path, options, lambda notice: typer.echo(notice, err=True))
    cases = archive.require_manifest().golden
    typer.echo(
        f"{path}: {archive.size:,} bytes, {archive.require_manifest().parameters:,} parameters, "
        f"{len(cases)} golden cases; the saved module reproduces "
        f"{_reference(archive.require_manifest().source.compiled or ())}"
    )
    for line in widened(archive.require_manifest()):
        typer.echo(line, err=True)


def _reference(compiled: Sequence[str]) -> str:
    """Return which module made the golden outputs, given the submodules that were compiled."""
    if "" in compiled:
        return "the one that the factory returned compiled; no eager code vouches for it"
    if compiled:
        return f"the eager one; no eager code vouches for {', '.join(compiled)}, compiled before"
    return "the eager one"


def _outputs(entry: str) -> tuple[str, list[str]]:
    method, colon, names = entry.rpartition(":")
    return (method if colon else "forward", [name.strip() for name in names.split(",")])


def _state(entry: tuple[str, str]) -> tuple[str, str, str | None]:
    output, _, start = entry[1].partition(":")
    if start not in ("", "zeros", "absent"):
        raise UsageError(f"--state start '{start}': expected zeros or absent")
    return (entry[0], output, start or None)


@app.command()
def inspect(
    archive: Annotated[Path, typer.Argument(help="An archive, or a plain TorchScript file.")],
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    code: Annotated[bool, typer.Option(help="Print the TorchScript code.")] = True,
    trusted_keys: TrustedKeys = None,
    operator_folders: OperatorFolders = None,
) -> None:
    """Show an archive: manifest, signature, TorchScript code, size, digests.

    Example:

        torchship inspect fizzbuzz.pt
    """
    operators.allow(operator_folders or [])
    opened = open_archive(archive, read_trusted_keys(trusted_keys) if trusted_keys else ())
    source = torchscript.code(opened.load()) if code else None
    if json_output:
        manifest = opened.manifest.model_dump(mode="json") if opened.manifest else None
        document = {
            "file": archive.name,
            "bytes": opened.size,
            "manifest": manifest,
            "digests_checked": opened.manifest is not None,
            "signature_checked": trusted_keys is not None,
            "trace_warnings": [one.model_dump(mode="json") for one in opened.trace_warnings],
            "records": dict(opened.sizes),
            "code": source,
        }
        typer.echo(json.dumps(document, indent=1))
        return
    _print(opened, source, trusted_keys is not None, Console())


def _print(archive: Archive, source: str | None, signature_checked: bool, console: Console) -> None:
    manifest = archive.manifest
    table = Table(show_header=False, box=None)
    table.add_row("file", escape(f"{archive.path.name}, {archive.size:,} bytes"))
    if manifest is None:
        table.add_row("manifest", "none: a plain TorchScript file, and nothing vouches for it")
    else:
        _describe(manifest, table)
        for warning in archive.trace_warnings:
            table.add_row("trace warning", escape(str(warning)))
        table.add_row("digests", f"{len(manifest.records)} records checked (SHA-256)")
    there = signature_path(archive.path).exists()
    unchecked = "there, not checked: no trusted keys given" if there else "none"
    table.add_row("signed", "by a trusted key" if signature_checked else unchecked)
    console.print(table)
    records = Table("record", "bytes", title="Records", title_justify="left", box=SIMPLE_HEAD)
    records.add_column("SHA-256", overflow="fold")
    digests = manifest.records if manifest else {}
    for name, size in archive.sizes.items():
        note = "(the manifest itself: CRC-32)" if name == MANIFEST else "not listed"
        records.add_row(escape(name), f"{size:,}", digests.get(name, note))
    console.print(records)
    if source is not None:
        console.print("TorchScript code:", escape(source), sep="\n", highlight=False)


def _describe(manifest: Manifest, table: Table) -> None:
    factory = manifest.source.factory
    commit = f" at {manifest.source.git_commit[:12]}" if manifest.source.git_commit else ""
    table.add_row("model", f"{manifest.name} version {manifest.version}")
    table.add_row("about", escape(manifest.description))
    table.add_row("source", escape(f"{factory}{commit}"))
    if manifest.source.compiled:
        parts = ", ".join(part or "the whole module" for part in manifest.source.compiled)
        parts += ": no eager code vouches for the golden outputs of it"
        table.add_row("compiled before", escape(parts))
    table.add_row("torch", f"{manifest.torch}, {manifest.mode}")
    table.add_row("parameters", f"{manifest.parameters:,}")
    for name, method in manifest.methods.items():
        table.add_row(escape(f"method {name}"), escape(signature_text(method)))
        for entry in method.state:
            table.add_row("", f"state: {entry.output} → {entry.input}, starts {entry.start}")
    for case in manifest.golden:
        table.add_row("golden", escape(f"{case.name}: {case.method}, {case.steps} steps"))
    for operator in manifest.custom_ops:
        table.add_row("custom operator", escape(f"{operator.name}, of {operator.library}"))
    for name, labels in manifest.labels.items():
        table.add_row(escape(f"labels of {name}"), escape(", ".join(labels)))
    for name, value in manifest.metrics.items():
        table.add_row(escape(name), f"{value:g}")


def signature_text(method: Method) -> str:
    """Return a method's named inputs and outputs on one line."""

    def text(leaf: TensorNode | ScalarNode) -> str:
        if isinstance(leaf, TensorNode):
            return f"{leaf.name}: {leaf.dtype}{shape_text(leaf.shape)}"
        return f"{leaf.name}: {leaf.kind}"

    inputs = ", ".join(
        text(leaf) + ("" if argument.required else "?")
        for argument in method.inputs
        for leaf in leaves(argument.value)
    )
    return f"({inputs}) -> {', '.join(text(leaf) for leaf in leaves(method.outputs))}"


@app.command()
def keygen(
    private: Annotated[Path, typer.Argument(help="Where to write the private key (PEM).")],
    public: Annotated[Path, typer.Argument(help="Where to write the public key (PEM).")],
) -> None:
    """Make an Ed25519 key pair for signing archives.

    Example:

        torchship keygen release.key release.pub
    """
    make_key(private, public)
    typer.echo(f"{private}: keep it secret; {public}: give it to --trusted-keys")


@app.command()
def sign(
    archive: Annotated[Path, typer.Argument(help="The archive, or the library (.so), to sign.")],
    key: Annotated[Path, typer.Option(help="The private key (PEM).")],
) -> None:
    """Sign an archive, or the library that it was compiled to: writes ARCHIVE.sig beside it.

    Examples:

        torchship sign fizzbuzz.pt --key release.key

        torchship sign fizzbuzz.so --key release.key
    """
    if archive.suffix != ".so":
        open_archive(archive)
    typer.echo(f"{sign_archive(archive, key)}: signed")
