/** Try a model: a form filled with a golden case, its answer, and the same request as programs. */

import { hasBatch } from "../engine/batches.mjs";
import { codeView } from "../parts/code_view.mjs";
import { button, element, field, select } from "../parts/element.mjs";
import { signature } from "../parts/signature.mjs";
import { Answer } from "./try/answer.mjs";
import { InputForm } from "./try/input_form.mjs";
import { Runner } from "./try/runner.mjs";

export const title = "Try it";

/** There has to be a model that answers. */
export async function fits(models) {
  return models.some(({ archive }) => archive);
}

/** Shows a model, which the argument NAME/VERSION may name, with its first golden case. */
export async function mount(panel, context, argument) {
  const ready = context.models.filter(({ archive }) => archive);
  const [name, version] = argument.split("/");
  const chosen =
    ready.find((model) => model.name === name && (!version || model.version === version)) ?? ready[0];
  const key = (model) => `${model.name}/${model.version}`;
  const models = select(
    ready.map((model) => [key(model), `${model.name} ${model.version}`]),
    key(chosen),
    (next) => (location.hash = `#try/${next.split("/").map(encodeURIComponent).join("/")}`),
  );
  const { archive } = chosen;
  const cases = await archive.cases();
  const place = element("div", { class: "columns" });
  const methodPlace = element("div", { class: "signatures" });
  const methods = select(
    Object.keys(archive.methods),
    "forward" in archive.methods ? "forward" : undefined,
    () => show(),
  );
  panel.append(
    element("h1", {}, "Try it"),
    element(
      "section",
      { class: "card", "aria-label": "What to call" },
      element("div", { class: "fields" }, field("Model", models), field("Method", methods)),
      methodPlace,
    ),
    place,
  );
  let leave = () => {};
  const show = () => {
    leave();
    const method = archive.methods[methods.value];
    methodPlace.replaceChildren(signature(method));
    leave = showMethod(
      place,
      context,
      chosen,
      method,
      cases.filter((known) => known.method === method.name),
    );
  };
  show();
  return () => leave();
}

/** Shows the form of one method; gives the function that ends what it began. */
function showMethod(place, context, model, method, cases) {
  const answer = new Answer(method, model.archive);
  const code = codeView(context.announce);
  const runner = new Runner(context, model, method);
  const status = element("p", { class: "muted small", "aria-live": "polite" });
  let step = { case: cases[0], number: 0 };

  const rows = element("input", {
    type: "number",
    min: "1",
    max: "4096",
    value: "1",
    oninput: () => changed(),
  });
  const form = new InputForm(method, () => changed());
  const caseChoice = select(
    [...cases.map((known, at) => [at, known.name]), ["", "my own values"]],
    cases.length ? 0 : "",
    () => {
      fill(cases[caseChoice.value], 0);
    },
  );
  const stepChoice = element("select", { onchange: () => fill(step.case, Number(stepChoice.value)) });
  const stepField = field("Step", stepChoice);
  const sequence = element("input", { type: "checkbox", onchange: () => restart() });
  const run = button("Run", () => send(), "primary");
  const end = button("End the sequence", () => restart());
  const save = button("Save its state", () => guarded(() => runner.saveState()));

  const fill = (known, number) => {
    step = { case: known, number };
    stepField.hidden = !known || known.steps.length < 2;
    if (known) {
      stepChoice.replaceChildren(
        ...known.steps.map((_, at) =>
          element("option", { value: at, selected: at === number }, `${at + 1} of ${known.steps.length}`),
        ),
      );
      form.fill(known, number, sequence.checked);
    }
    changed();
  };
  const changed = () => {
    buttons();
    try {
      code.node.hidden = false;
      code.show({
        ...{ name: model.name, version: model.version, method, inputs: inputs(), keys: context.site.keys },
        home: context.engine.form === "server" ? new URL(".", document.baseURI).href : null,
      });
    } catch {
      code.node.hidden = true; // the field says what is wrong
    }
  };
  const inputs = () => runner.batch(form.read(), Number(rows.value));
  const golden = () => {
    const { case: known, number } = step;
    if (!known || !form.isGolden() || (sequence.checked && !runner.follows(known, number))) return null;
    return runner.batchOutputs(known.steps[number].outputs, Number(rows.value));
  };
  const buttons = () => {
    const { steps } = runner;
    run.textContent = !sequence.checked ? "Run" : steps ? `Run step ${steps + 1}` : "Start, and run step 1";
    for (const other of [end, save]) other.hidden = !sequence.checked || !steps;
    save.hidden ||= context.engine.form !== "server";
    rows.disabled = sequence.checked && steps > 0;
  };
  const guarded = async (what) => {
    status.textContent = "";
    run.disabled = true;
    try {
      await what();
    } catch (error) {
      answer.fail(error);
      context.announce(error.message);
    } finally {
      run.disabled = false;
      buttons();
    }
  };
  const send = () =>
    guarded(async () => {
      const expected = golden();
      const sent = inputs();
      const found = sequence.checked ? await runner.step(sent, step) : await runner.call(sent);
      answer.show(found, expected);
      context.announce(answer.summary);
      if (sequence.checked && step.case && step.number + 1 < step.case.steps.length)
        fill(step.case, step.number + 1);
      else changed();
    });
  const restart = () =>
    guarded(async () => {
      await runner.end();
      fill(step.case, sequence.checked ? 0 : step.number);
      status.textContent = sequence.checked ? "Each step goes on with the state of the one before." : "";
    });

  form.node.addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  const choices = element(
    "div",
    { class: "fields" },
    field("Filled with", caseChoice),
    stepField,
    hasBatch(method) ? field("Rows, times", rows, "repeats the rows of the inputs") : null,
  );
  const keep = method.state.length
    ? element(
        "label",
        { class: "row" },
        sequence,
        element("span", {}, "a sequence: keep the state from step to step"),
      )
    : null;
  place.replaceChildren(
    element(
      "section",
      { class: "card", "aria-labelledby": "inputs-title" },
      element("h2", { id: "inputs-title" }, "Inputs"),
      choices,
      keep,
      form.node,
      element("div", { class: "row" }, run, end, save),
      status,
    ),
    element("div", { class: "stack" }, answer.node, code.node),
  );
  fill(cases[0], 0);
  return () => runner.end().catch(() => {});
}
