"""Finds the module to export: one of our models, or any importable `module:factory`."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from torchship.script.errors import ExportError, UsageError
from torchship.script.exporting.eager import detached, first_line
from torchship.script.exporting.module_errors import as_export_errors
from torchship.script.exporting.values import describe, refuse_foreign
from torchship.script.format.manifest import Source
from torchship.script.runtime import printing, torchscript

MODELS = "torchship.models"

# Method name -> its examples; an example is a list of steps; a step is the keyword arguments.
Examples = dict[str, list[list[dict[str, object]]]]


@dataclass(frozen=True)
class Target:
    """An eager module's factory, its examples and its description."""

    name: str
    source: Source
    factory: Callable[..., object]
    examples: Examples
    description: str = ""
    dims: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, Sequence[str]] = field(default_factory=dict)
    state: Mapping[str, Sequence[tuple[str, str, str | None]]] = field(default_factory=dict)
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)


def find_target(text: str, example: str | None, kwargs: dict[str, Any]) -> Target:
    """Return the target that the command line names.

    Raises:
        UsageError: nothing importable has that name; the message says what was tried.
        ExportError: there is no example, or it is malformed.
    """
    with printing.by(text), as_export_errors():
        return _find_target(text, example, kwargs)


def _find_target(text: str, example: str | None, kwargs: dict[str, Any]) -> Target:
    if ":" not in text:
        if example is not None or kwargs:
            raise UsageError(f"'{text}' is a model of ours: it takes no --example and no --kwarg")
        return _our_model(text)
    factory = import_name(text)
    refuse_non_factory(text, factory)
    if example is None:
        raise ExportError(
            f"'{text}' needs --example module:function, a function that returns a list of "
            "examples, each a dict of keyword arguments for forward"
        )
    give = import_name(example)
    try:
        given = give()
    except (Exception, SystemExit) as error:
        raise ExportError(f"'{example}' raised {raised(error)}") from error
    examples = normalise(given, example)
    name = text.partition(":")[2].rpartition(".")[2]
    return Target(name, source_of(text, factory, kwargs), factory, examples)


def _our_model(name: str) -> Target:
    registry = importlib.import_module(f"{MODELS}.registry")
    if name not in registry.names():
        raise UsageError(
            f"there is no model '{name}': ours are {', '.join(registry.names())}; "
            "a model of yours is named module:factory"
        )
    card = registry.get(name)
    text = f"{card.factory.__module__}:{card.factory.__name__}"
    return Target(
        name=card.name,
        source=source_of(text, card.factory, {}),
        factory=card.factory,
        examples=normalise(card.examples(), f"{name}'s card"),
        description=card.description,
        dims=card.dims,
        outputs=card.outputs,
        state=card.state,
        labels=card.labels,
        metrics=card.metrics(),
    )


def import_name(text: str) -> Callable[..., Any]:
    """Import `module:name`; the current directory is importable.

    Raises:
        UsageError: the module or the name does not exist, or it cannot be called.
    """
    module_name, _, attribute = text.partition(":")
    if not module_name or not attribute:
        raise UsageError(f"'{text}': expected module:name, for example my_package.my_module:make")
    _current_folder_is_importable()
    try:
        found: Any = importlib.import_module(module_name)
    except SystemExit as error:
        raise UsageError(
            f"cannot import '{module_name}': it ends the process when it is imported "
            f"({raised(error)}), as parse_args() and sys.exit() do; put what only a script does "
            'below if __name__ == "__main__":'
        ) from error
    except Exception as error:
        raise UsageError(f"cannot import '{module_name}': {raised(error)}") from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise UsageError(f"module '{module_name}' has no '{attribute}'")
        found = getattr(found, part)
    if not callable(found):
        raise UsageError(
            f"'{text}' is {describe(found)}: expected a function or class, for example a function "
            "that returns it"
        )
    callable_found: Callable[..., Any] = found
    return callable_found


def _current_folder_is_importable() -> None:
    current_folder = os.getcwd()
    if current_folder not in sys.path:
        sys.path.insert(0, current_folder)


def make_module(source: Source, consent: str | None = None) -> torch.nn.Module:
    """Create the eager module with the factory that an archive names.

    An archive must not be able to call an arbitrary function. Without consent, only factories of
    our own models and of modules in the current folder are called. `consent` is a
    `module:factory` that the user has named, or that is covered by a trusted signature.

    Raises:
        UsageError: the factory is not one of these, cannot be imported, fails, or returns
            something else than a module.
    """
    with printing.by(source.factory):
        return _make_module(source, consent)


def _make_module(source: Source, consent: str | None) -> torch.nn.Module:
    module_name, _, attribute = source.factory.partition(":")
    if source.factory != consent and not _needs_no_consent(module_name):
        raise UsageError(
            f"the archive names '{source.factory}', which is neither ours nor in the current "
            f"folder: to have it called, say --source {source.factory}"
        )
    factory = import_name(source.factory)
    if "." in attribute or _defining_module(factory) != module_name:
        raise UsageError(
            f"'{source.factory}' is not defined in '{module_name}': expected a factory's own name"
        )
    return call_factory(source.factory, factory, source.kwargs)


def _defining_module(factory: Callable[..., object]) -> str:
    """Return the name of the module that defines a factory; for a partial, its function's."""
    while isinstance(factory, functools.partial):
        factory = factory.func
    return str(getattr(factory, "__module__", ""))


def refuse_non_factory(text: str, factory: object) -> None:
    """Refuse callables that do not create a module, or that `verify` could not call again.

    Raises:
        UsageError: the message says which function to write instead.
    """
    module_name, _, attribute = text.partition(":")
    if isinstance(factory, torch.nn.Module | torch.jit.ScriptFunction):
        raise UsageError(
            f"'{text}' is a {type(factory).__name__} that is made already: expected a function "
            f"that makes it; write `def make(): return {attribute}` and name that"
        )
    if inspect.iscoroutinefunction(factory):
        raise UsageError(f"'{text}' is an async function: expected one without async")
    if isinstance(factory, functools.partial):
        made_by = _defining_module(factory)
        if made_by != module_name:
            raise UsageError(
                f"'{text}' is a functools.partial of a function of '{made_by}': an archive names a "
                f"factory of the module that it is in, so that it can be made again; write "
                f"`def make(): return {attribute}()` and name that"
            )


def raised(error: BaseException) -> str:
    """Return an error's type and the first line of its message."""
    kind, message = type(error).__name__, first_line(error)
    return kind if message == kind else f"{kind}: {message}"


def is_ours(factory: str) -> bool:
    """Return whether a factory is one of our models'."""
    return factory.startswith(f"{MODELS}.")


def _needs_no_consent(module_name: str) -> bool:
    """Return whether a module is one of our models, or in the current folder; without importing."""
    if is_ours(module_name):
        return True
    _current_folder_is_importable()
    try:
        spec = importlib.util.find_spec(module_name.partition(".")[0])
    except (ImportError, ValueError):
        return False
    if spec is None:
        return True  # the import will report the error
    current_folder = Path.cwd().resolve()
    # An origin may also be "frozen" or "built-in".
    places = [*(spec.submodule_search_locations or ()), *([spec.origin] if spec.origin else [])]
    return bool(places) and all(
        Path(place).is_absolute()
        and Path(place).resolve().is_relative_to(current_folder)
        and not {"site-packages", "dist-packages"} & set(Path(place).resolve().parts)
        for place in places
    )


def call_factory(
    text: str, factory: Callable[..., object], kwargs: Mapping[str, Any]
) -> torch.nn.Module:
    """Call a factory and return its module.

    Raises:
        UsageError: it raises, or returns something that is not an nn.Module.
    """
    try:
        made = factory(**kwargs)
    except (Exception, SystemExit) as error:
        raise UsageError(f"'{text}' raised {raised(error)}") from error
    try:
        module = torchscript.as_module(made)
    except RuntimeError as error:
        raise UsageError(
            f"'{text}' returned a scripted function that cannot be made a module "
            f"({first_line(error).rstrip(':')}): call it in the forward of a module of yours"
        ) from error
    if not isinstance(module, torch.nn.Module):
        raise UsageError(f"'{text}' returned {describe(module)}: expected a torch.nn.Module")
    return module


def normalise(given: object, where: str) -> Examples:
    """Return examples as method -> examples -> steps.

    A list stands for the examples of `forward`; an example that is a dict has one step.

    Raises:
        ExportError: the examples are malformed.
    """
    if isinstance(given, dict) and not all(
        isinstance(entry, list | tuple) for entry in given.values()
    ):
        raise ExportError(
            f"{where}: got one dict with the keys {', '.join(map(str, given))}: expected a list of "
            "such dicts, one for each example (or a dict from the names of methods to such lists)"
        )
    by_method = given if isinstance(given, dict) else {"forward": given}
    if not all(isinstance(method, str) for method in by_method):
        got = ", ".join(repr(method) for method in by_method)
        raise ExportError(f"{where}: expected the names of methods as keys, got {got}")
    examples: Examples = {}
    for method, entries in by_method.items():
        if not isinstance(entries, list | tuple) or not entries:
            raise ExportError(
                f"{where}: expected a list of examples for '{method}', got {describe(entries)}"
            )
        examples[method] = []
        for number, entry in enumerate(entries):
            steps = list(entry) if isinstance(entry, list | tuple) else [entry]
            for step in steps:
                if not isinstance(step, dict) or not all(isinstance(key, str) for key in step):
                    raise ExportError(
                        f"{where}: example {number} of '{method}' is {describe(step)}: "
                        "expected a dict of keyword arguments"
                    )
                for key, value in step.items():
                    refuse_foreign(value, f"{where}: '{key}' of example {number} of '{method}'")
            if not steps:
                raise ExportError(f"{where}: example {number} of '{method}' has no step")
            examples[method].append([detached(step) for step in steps])
    return examples


def source_of(text: str, factory: Callable[..., object], kwargs: dict[str, Any]) -> Source:
    """Return a factory's source entry, with the git commit of its file.

    Raises:
        UsageError: a keyword argument is not a JSON value, as which the archive stores it.
    """
    for name, value in kwargs.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError, RecursionError):
            raise UsageError(
                f"the factory's argument {name}={value!r:.60}: expected a JSON value, as which the "
                "archive keeps it; JSON has no NaN and no infinity: give a string, and let the "
                "factory make a float of it"
            ) from None
    module = sys.modules.get(_defining_module(factory))
    file = getattr(module, "__file__", None)
    return Source(
        factory=text, kwargs=kwargs, git_commit=_git_commit(Path(file).resolve()) if file else None
    )


def _git_commit(file: Path) -> str | None:
    """Return the last commit of a file; None if the file has uncommitted changes or no commit."""
    log = _git(file, "log", "-1", "--format=%H", "--", file.name)
    return log if log and _git(file, "status", "--porcelain", "--", file.name) == "" else None


def _git(file: Path, *arguments: str) -> str | None:
    """Return the output of git in the file's folder; None if it fails or is not installed."""
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=file.parent,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
