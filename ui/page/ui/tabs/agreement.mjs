/** Agreement: the golden cases in every runtime, on the server and in this browser. */

import { sumUp } from "../engine/golden.mjs";
import { stepsInBrowser } from "../parts/browser_check.mjs";
import { button, element, field, select } from "../parts/element.mjs";
import { difference, duration, many } from "../parts/format.mjs";
import { Matrix } from "../parts/matrix.mjs";

const RUNTIMES = {
  eager: "eager",
  script: "script",
  cpp: "C++",
  http: "HTTP",
  grpc: "gRPC",
  native: "native",
  wasm: "wasm",
};
const BROWSER = "this browser";

export const title = "Agreement";

/** There has to be a model that answers. */
export async function fits(models) {
  return models.some(({ archive }) => archive);
}

/** Shows a model, which the argument NAME/VERSION may name. */
export async function mount(panel, context, argument) {
  const ready = context.models.filter(({ archive }) => archive);
  const [name, version] = argument.split("/");
  const model =
    ready.find((known) => known.name === name && (!version || known.version === version)) ?? ready[0];
  const { archive } = model;
  const models = select(
    ready.map((known) => [`${known.name}/${known.version}`, `${known.name} ${known.version}`]),
    `${model.name}/${model.version}`,
    (next) => (location.hash = `#agreement/${next.split("/").map(encodeURIComponent).join("/")}`),
  );
  const place = element("div", { class: "stack" });
  const stop = new AbortController();
  const run = (what) => async () => {
    const buttons = [...panel.querySelectorAll(".runs button")];
    for (const other of buttons) other.disabled = true;
    try {
      await what();
    } catch (error) {
      if (!stop.signal.aborted)
        place.append(element("p", { class: "failure", role: "alert" }, error.message));
    } finally {
      for (const other of buttons) other.disabled = false;
    }
  };
  const onServer = run(() => verify(place, context, archive, chosen(panel), stop.signal));
  const inBrowser = run(() => verifyHere(place, context, archive));
  panel.append(
    element("h1", {}, "Agreement"),
    element("div", { class: "lead" }, element("p", { class: "muted" }, leadText(archive))),
    element(
      "section",
      { class: "card", "aria-label": "What to verify" },
      element("div", { class: "fields" }, field("Model", models)),
      context.site.verify ? runtimeChoice() : null,
      element(
        "p",
        { class: "row runs" },
        context.site.verify ? button("Run verify on the server", onServer, "primary") : null,
        button("Run it in this browser", inBrowser, context.site.verify ? "" : "primary"),
      ),
      context.engine.form === "server" && !context.site.verify
        ? element(
            "p",
            { class: "muted small" },
            "This server does not let a client run verify: see torchship verify.",
          )
        : null,
    ),
    place,
  );
  return () => stop.abort();
}

function leadText({ manifest, methods }) {
  const outputs = Object.values(methods).reduce((sum, method) => sum + method.outputs.length, 0);
  return (
    `The archive carries ${many(manifest.golden.length, "golden case")}: inputs and outputs of the eager ` +
    `PyTorch module. Each runtime runs them all, and ${many(outputs, "output")} must agree: no NaN, and ` +
    "every element within the tolerance."
  );
}

function runtimeChoice() {
  const boxes = Object.entries(RUNTIMES).map(([name, text]) =>
    element(
      "label",
      { class: "row" },
      element("input", { type: "checkbox", name: "runtime", value: name, checked: true }),
      text,
    ),
  );
  return element("fieldset", {}, element("legend", {}, "Runtimes"), element("div", { class: "row" }, boxes));
}

function chosen(panel) {
  return [...panel.querySelectorAll("input[name=runtime]:checked")].map((box) => box.value);
}

function rowsOf({ methods, manifest }) {
  const run = new Set(manifest.golden.map(({ method }) => method));
  return Object.values(methods)
    .filter(({ name }) => run.has(name))
    .flatMap((method) => method.outputs.map((leaf) => ({ method: method.name, output: leaf.name })));
}

/** Has the server run `verify`, and draws the matrix as its events come. */
async function verify(place, context, archive, runtimes, signal) {
  if (!runtimes.length) throw new Error("choose one runtime or more");
  const progress = element("progress", {
    max: runtimes.length,
    value: 0,
    "aria-label": "Runtimes that have run",
  });
  const status = element("p", { "aria-live": "polite" }, "verify begins …");
  const notes = element("ul", { class: "notes" });
  const drawn = element("div");
  place.replaceChildren(
    element("section", { class: "card", "aria-label": "The result" }, status, progress, drawn, notes),
  );
  let matrix;
  const events = {
    begin({ runtimes: names }) {
      progress.max = names.length;
      matrix = new Matrix(rowsOf(archive), names, `Differences of ${archive.name}, by output and runtime`);
      drawn.replaceChildren(matrix.node);
    },
    runtime(told) {
      if (told.state === "running") {
        matrix.state(told.runtime, "running");
        status.textContent = `${told.runtime} runs the golden cases …`;
        return;
      }
      progress.value++;
      showResult(matrix, notes, told);
    },
    verdict({ agreed, first_difference: first, note }) {
      progress.value = progress.max;
      finish(
        status,
        agreed,
        agreed ? "Every runtime that ran agrees." : "A runtime does not agree.",
        context,
      );
      for (const text of [first, note]) if (text) notes.append(element("li", {}, text));
    },
    error({ error }) {
      status.textContent = "";
      throw new Error(error);
    },
  };
  for await (const event of context.engine.verify(archive.name, archive.version, runtimes, signal))
    events[event.event]?.(event);
}

function showResult(matrix, notes, { runtime, agreed, skipped, error, outputs, p50_us: median }) {
  const state = skipped ? "skipped" : error ? "failed" : agreed ? "agreed" : "differs";
  matrix.state(runtime, state, median ? `${duration(median)} per row` : "");
  for (const {
    method,
    output,
    agreed: same,
    max_abs: absolute,
    bit_identical: identical,
    reason,
  } of outputs) {
    matrix.set(runtime, { method, output, agreed: same, absolute, identical, reason });
    if (!same)
      notes.append(element("li", { class: "failure" }, `${runtime}, ${method} → ${output}: ${reason}`));
  }
  if (error) notes.append(element("li", { class: skipped ? "muted" : "failure" }, `${runtime}: ${error}`));
}

/** Runs the golden cases in this browser, as WebAssembly. */
async function verifyHere(place, context, archive) {
  const matrix = new Matrix(
    rowsOf(archive),
    [BROWSER],
    `Differences of ${archive.name} in this browser, by output`,
  );
  const status = element("p", { "aria-live": "polite" }, "The golden cases run in this browser …");
  const notes = element("ul", { class: "notes" });
  place.replaceChildren(
    element("section", { class: "card", "aria-label": "The result" }, status, matrix.node, notes),
  );
  matrix.state(BROWSER, "running");
  let steps;
  try {
    steps = await stepsInBrowser(context.engine, archive);
  } catch (error) {
    matrix.state(BROWSER, "failed");
    status.textContent = "";
    throw error;
  }
  for (const entry of worstByOutput(steps)) matrix.set(BROWSER, entry);
  const sum = sumUp(steps);
  const all = sum.agreed === sum.outputs;
  matrix.state(BROWSER, all ? "agreed" : "differs");
  const outputs = `${sum.agreed} of ${many(sum.outputs, "output")}`;
  const said = `${outputs} of ${many(sum.cases, "golden case")} agree, in this browser.`;
  finish(status, all, said, context);
  notes.append(
    element(
      "li",
      { class: "muted" },
      `largest difference ${difference(sum.worst)}, ${duration(sum.microseconds)} per step`,
    ),
  );
  for (const { step, name, found } of sum.differing)
    notes.append(
      element("li", { class: "failure" }, `${step.case.name}, step ${step.step}, ${name}: ${found.reason}`),
    );
}

function worstByOutput(steps) {
  const worst = new Map();
  for (const { case: known, outputs } of steps)
    for (const [output, found] of Object.entries(outputs)) {
      const key = `${known.method} ${output}`;
      const before = worst.get(key);
      const identical = found.identical && (before?.identical ?? true);
      if (!before || severity(found) > severity(before))
        worst.set(key, { method: known.method, output, ...found, identical });
      else before.identical = identical;
    }
  return worst.values();
}

const severity = ({ agreed, absolute }) => (agreed ? 0 : 1e300) + (absolute ?? Infinity);

function finish(status, agreed, text, context) {
  status.replaceChildren(
    element("span", { class: `badge ${agreed ? "good" : "bad"}` }, `${agreed ? "✓" : "✗"} ${text}`),
  );
  context.announce(text);
}
