"""Exports an eager module to an archive that is verified to agree with it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from pydantic import ValidationError

from torchship.script.errors import (
    ArchiveError,
    ExportError,
    OperatorError,
    OutOfMemoryError,
    TorchShipError,
)
from torchship.script.exporting import custom_operators, tolerances
from torchship.script.exporting.cases import derive, flatten_example
from torchship.script.exporting.compiled import (
    refuse_undefined_defaults,
    refuse_unreadable_names,
)
from torchship.script.exporting.eager import (
    refuse_misbehaviour,
    refuse_non_finite,
    refuse_strange_tensors,
    refuse_too_large,
    refuse_training,
)
from torchship.script.exporting.float64_run import float64_outputs
from torchship.script.exporting.independence import DependenceError, independent_rows
from torchship.script.exporting.localise import first_difference
from torchship.script.exporting.module_errors import as_export_errors
from torchship.script.exporting.options import Options, with_options
from torchship.script.exporting.target import Target, call_factory
from torchship.script.exporting.trial_calls import infer_method
from torchship.script.exporting.wrappers import refuse_wrappers
from torchship.script.format.atomic_write import write_atomic
from torchship.script.format.file_content import MAX_INFLATED, Content, DraftContent
from torchship.script.format.float64_outputs import Float64Outputs
from torchship.script.format.golden import Case, Step, run_case
from torchship.script.format.manifest import (
    Argument,
    CustomOperator,
    GoldenEntry,
    Manifest,
    Method,
    State,
    field_error,
)
from torchship.script.format.nodes import omissible
from torchship.script.runtime import operators, printing, process_defaults, torchscript
from torchship.script.runtime.agreement import check_case
from torchship.script.runtime.archive import Archive, add_records, check_content
from torchship.script.runtime.batch import (
    BATCH,
    contradiction,
    leading_symbol,
    rename_symbol,
)
from torchship.script.runtime.output_check import input_symbols
from torchship.script.runtime.program import Program
from torchship.script.runtime.trace_warnings import TraceWarning, refuse, require_sizes

__all__ = ["Options", "export"]

Tell = Callable[[str], None]


def export(
    target: Target, path: Path, options: Options | None = None, tell: Tell = warnings.warn
) -> Archive:
    """Compile the target's module, save it as an archive at `path`, and return the archive.

    The file is written only after the compiled module, read back from the archive's bytes, has
    reproduced every golden case of the eager one. `tell` is called with one line for each warning
    to the user.

    Raises:
        ExportError: the module cannot become an archive; nothing was written.
        OutOfMemoryError: there is not enough memory; nothing was written.
        UsageError: the factory fails, or the file cannot be written.
    """
    options = options or Options()
    with printing.by(options.name or target.name), as_export_errors():
        target = with_options(target, options)
        torchscript.configure()
        module = call_factory(target.source.factory, target.factory, target.source.kwargs)
        with process_defaults.torch_defaults() as changed:
            torchscript.configure()
            if changed:
                tell(
                    f"this process has other settings than torch's own, by an import or by the "
                    f"factory: {', '.join(changed)}; the archive is made and checked with torch's "
                    "own, as C++ and a server run it"
                )
            return _export(target, module, path, options, tell)


def _export(
    target: Target, module: torch.nn.Module, path: Path, options: Options, tell: Tell
) -> Archive:
    refuse_wrappers(module, scripting=options.mode == "script")
    if options.eval_mode:
        module.eval()
    refuse_training(module)
    refuse_strange_tensors(module)
    refuse_too_large(module, MAX_INFLATED)
    refuse_non_finite(module)
    calls = {name: _complete_calls(module, name, target) for name in target.examples}
    refuse_misbehaviour(module, calls)
    changed = process_defaults.changes()
    if changed:
        raise ExportError(
            f"calling the module changes the process: {', '.join(changed)}; no other runtime "
            "would: change it nowhere, or in the program that calls the model"
        )
    trace_warnings: list[TraceWarning] = []
    scripted = torchscript.compile_module(
        module,
        options.mode,
        {name: arguments[0] for name, arguments in calls.items()},
        trace_warnings.extend if options.allow_trace_warnings else refuse,
    )
    refuse_undefined_defaults(scripted)
    for warning in trace_warnings:
        tell(f"passed over: {warning}")
    with DraftContent() as draft:
        torchscript.save_into(draft, scripted)
        refuse_unreadable_names(scripted, draft.source)
        custom_ops = _custom_operators(draft.source, options.libraries)
        methods = {
            name: _method(module, scripted, name, calls[name], target, options.fixed)
            for name in calls
        }
        manifest = _manifest(target, options, module, methods, custom_ops)
        manifest = _name_batch(Program(manifest, module), calls)
        cases = _golden_cases(Program(manifest, module), target)
        fitting = tolerances.fitting(Program(manifest, module), cases)
        manifest = manifest.model_copy(update={"methods": fitting, "golden": _entries(cases)})
        _check_labels(manifest, cases)
        if trace_warnings:
            require_sizes(manifest, cases)
        in_float64 = float64_outputs(manifest, module, cases)
        archive = _packed(path, draft, manifest, cases, trace_warnings, in_float64)
    _agree(archive, module)
    write_atomic(path, archive.blocks())
    return archive


def _entries(cases: Sequence[Case]) -> tuple[GoldenEntry, ...]:
    return tuple(GoldenEntry(name=c.name, method=c.method, steps=len(c.steps)) for c in cases)


def _packed(
    path: Path,
    draft: DraftContent,
    manifest: Manifest,
    cases: Sequence[Case],
    trace_warnings: Sequence[TraceWarning],
    in_float64: Float64Outputs,
) -> Archive:
    """Add our records to a draft with the TorchScript zip; return the archive, checked."""
    try:
        add_records(draft.file, manifest, cases, trace_warnings, in_float64)
        return check_content(path, Content(draft.blocks()))
    except ArchiveError as error:
        raise ExportError(f"the archive would not be readable: {error}") from None


def _complete_calls(module: torch.nn.Module, name: str, target: Target) -> list[dict[str, object]]:
    """Return the examples' first steps that have all required state arguments."""
    if not callable(getattr(module, name, None)):
        raise ExportError(f"the examples name a method '{name}', which the module does not have")
    states = {source.partition(".")[0] for source, _, _ in target.state.get(name, ())}
    needed = states & torchscript.required_arguments(module, name)
    firsts = [steps[0] for steps in target.examples[name]]
    complete = [first for first in firsts if needed <= set(first)]
    if not complete:
        raise ExportError(
            f"no example of '{name}' gives its state {', '.join(sorted(needed))}: give it in at "
            "least one, so that its shape is known"
        )
    return complete


def _method(
    module: torch.nn.Module,
    scripted: torch.jit.ScriptModule,
    name: str,
    calls: Sequence[Mapping[str, object]],
    target: Target,
    fixed: bool,
) -> Method:
    dims = {
        place: symbol
        for place, symbol in target.dims.items()
        if any(place.partition(".")[0] in call for call in calls)
    }
    names = target.outputs.get(name, ())
    inputs, outputs = infer_method(module, scripted, name, calls, names, dims, fixed)
    try:
        return Method(
            inputs=inputs,
            outputs=outputs,
            tolerances=tolerances.initial(outputs),
            state=tuple(
                State(input=source, output=result, start=start or _start(inputs, source))  # type: ignore[arg-type]
                for source, result, start in target.state.get(name, ())
            ),
        )
    except ValidationError as error:
        raise ExportError(f"{name}: {field_error(error)}") from None


def _start(inputs: Sequence[Argument], name: str) -> str:
    """Return the default start of a state input: absent if it can be left out, else zeros."""
    free = {leaf.name for arg in inputs for leaf in omissible(arg.value, arg.required)}
    return "absent" if name in free else "zeros"


def _custom_operators(
    script: bytes | str, libraries: Mapping[str, str]
) -> tuple[CustomOperator, ...]:
    """Return the custom operators in the code, each with its library."""
    known = {**operators.LIBRARIES, **libraries}
    found = []
    for name in custom_operators.used_by(script):
        namespace = name.partition("::")[0]
        if namespace not in known:
            if custom_operators.torch_has(name):
                continue
            raise ExportError(
                f"the module uses the custom operator '{name}', and no library is named that has "
                f"it: name one (--library {namespace}=NAME), or use torch's own operators"
            )
        try:
            found.append(CustomOperator(name=name, library=known[namespace]))
        except ValidationError as error:
            raise ExportError(
                f"library '{known[namespace]}': {field_error(error)}; expected a plain name, of "
                "which 'lib' and '.so' are no part"
            ) from None
    try:
        operators.check_registrations(found)
    except OperatorError as error:
        raise ExportError(f"the module cannot be an archive: {error}") from None
    return tuple(found)


def _manifest(
    target: Target,
    options: Options,
    module: torch.nn.Module,
    methods: dict[str, Method],
    custom_ops: tuple[CustomOperator, ...],
) -> Manifest:
    try:
        return Manifest(
            name=options.name or target.name,
            version=options.version,
            description=target.description if options.description is None else options.description,
            source=target.source.model_copy(
                update={"compiled": torchscript.compiled_parts(module) or None}
            ),
            torch=torch.__version__,
            mode=options.mode,
            parameters=sum(parameter.numel() for parameter in module.parameters()),
            methods=methods,
            golden=(),
            labels={name: tuple(labels) for name, labels in target.labels.items()},
            metrics=dict(target.metrics),
            custom_ops=custom_ops,
        )
    except ValidationError as error:
        raise ExportError(f"the manifest would be wrong: {field_error(error)}") from None


def _name_batch(program: Program, calls: Mapping[str, Sequence[dict[str, object]]]) -> Manifest:
    """Name the leading dimension `batch` if its rows are independent; refuse a wrong `batch`.

    Also refuses a dimension that the outputs lose at size 1.
    """
    methods = {}
    for name, method in program.manifest.methods.items():
        flats = [flatten_example(method, call) for call in calls[name]]
        inputs = max(flats, key=lambda flat: sum(tensor.numel() for tensor in flat.values()))
        wrong = contradiction(program.call, name, method, inputs)
        if wrong:
            raise ExportError(
                f"{wrong}; a squeeze() without an axis or a slice does that: name the axis, or "
                "give an example of this size"
            )
        has_batch = BATCH in input_symbols(method.inputs)
        symbol = BATCH if has_batch else leading_symbol(method)
        independent = symbol is not None
        try:
            if symbol is not None:
                independent_rows(program.call, name, method, symbol, flats)
        except DependenceError as error:
            independent = False
            if has_batch:
                raise ExportError(
                    f"the rows of {name}'s dimension '{BATCH}' are not independent: {error}; "
                    "requests could not be put together; give the dimension another name (--dim)"
                ) from None
        if symbol is not None and independent:
            method = rename_symbol(method, symbol, BATCH)
        methods[name] = method
    return program.manifest.model_copy(update={"methods": methods})


def _golden_cases(program: Program, target: Target) -> list[Case]:
    """Run the eager module on the examples and on the cases derived from them."""
    cases = []
    for name, examples in target.examples.items():
        method = program.method(name)
        given = [
            Case(
                f"{name} example {number}",
                name,
                tuple(Step(flatten_example(method, step)) for step in steps),
            )
            for number, steps in enumerate(examples)
        ]
        state = {entry.input for entry in method.state}
        for case in given:
            again = state & {given for step in case.steps[1:] for given in step.inputs}
            if again:
                raise ExportError(
                    f"{case.name} gives the state '{again.pop()}' after its first step, where it "
                    "follows from the step before: leave it out"
                )
        for case in given + derive(name, method, given):
            try:
                outputs = run_case(program.call, method, case)
            except OutOfMemoryError:
                raise
            except TorchShipError as error:
                raise ExportError(f"golden case '{case.name}': {error}") from error
            for index, flat in enumerate(outputs):
                for output, tensor in flat.items():
                    if tensor.is_floating_point() and bool(torch.isnan(tensor).any()):
                        raise ExportError(
                            f"golden case '{case.name}', step {index}: output '{output}' holds "
                            "NaN, which no runtime can be compared with"
                        )
            steps = zip(case.steps, outputs, strict=True)
            cases.append(Case(case.name, name, tuple(Step(s.inputs, o) for s, o in steps)))
    return cases


def _check_labels(manifest: Manifest, cases: Sequence[Case]) -> None:
    for name, labels in manifest.labels.items():
        sizes = {
            step.outputs[name].shape[-1]
            for case in cases
            for step in case.steps
            if name in step.outputs and step.outputs[name].dim()
        }
        if sizes != {len(labels)}:
            raise ExportError(
                f"output '{name}' has {len(labels)} labels: expected as many as its last "
                f"dimension, {sorted(sizes) or 'and no output has that name'}"
            )


def _agree(archive: Archive, module: torch.nn.Module) -> None:
    """Refuse an archive whose compiled module does not reproduce the eager outputs."""
    manifest = archive.require_manifest()
    try:
        program = archive.program()
    except OperatorError:
        raise
    except ArchiveError as error:
        advice = "trace the module instead (--mode trace)"
        if manifest.source.compiled:
            advice = "ship it before it is optimised"
        elif manifest.mode == "trace":
            advice = "script the module instead (--mode script)"
        raise ExportError(
            f"what torch.jit saved cannot be loaded again: {str(error).rstrip(':')}; {advice}"
        ) from None
    for number, case in enumerate(archive.golden):
        try:
            differences = check_case(manifest, number, case, program.call)
        except OutOfMemoryError:
            raise
        except TorchShipError as error:
            advice = (
                "; a trace keeps its first example's sizes wherever Python computes with them: "
                "script the module, or give examples of one size"
                if manifest.mode == "trace"
                else ""
            )
            raise ExportError(
                f"the compiled module fails where eager runs: {error}{advice}"
            ) from None
        wrong = next((d for d in differences if not d.agreed), None)
        if wrong:
            where = first_difference(module, program, case)
            raise ExportError(
                f"the compiled module does not agree with eager: golden case '{case.name}', "
                f"output '{wrong.output}': {wrong.reason}{f'; {where}' if where else ''}"
            )
