/** What the server, or the site, holds: a card for each archive, with its proof and its live load. */

import { Rates, requestsOf } from "../engine/metrics.mjs";
import { browserCheck } from "../parts/browser_check.mjs";
import { button, element } from "../parts/element.mjs";
import { bytes, count, difference, duration, many, moment, short } from "../parts/format.mjs";
import { signature } from "../parts/signature.mjs";

const EVERY = 2000; // ms between two looks at the server
const SHOWN_METHODS = 2;
const SHOWN_METRICS = 2;
const UNASKED = 60_000; // bytes of the archives that a first visit to a site checks by itself

export const title = "Models";

/** There is always something to say, be it that there are no models. */
export async function fits() {
  return true;
}

/** Shows the cards, and on a server keeps them up to date until it is left. */
export async function mount(panel, context) {
  const cards = element("div", { class: "cards" });
  const lead = element("div", { class: "lead" }, ...leadOf(context));
  panel.append(lead, cards);
  const chart = context.engine.form === "server" ? await import("../parts/chart.mjs") : null;
  let live = show(context, lead, cards, chart);
  if (!chart) return undefined;
  const end = watch(context, {
    rates: (found) => {
      for (const [key, add] of live.adders) add(found[key] ?? { rate: NaN, latency: NaN });
    },
    changed: () => {
      live.close();
      live = show(context, lead, cards, chart);
      context.announce("The list of models has changed.");
    },
  });
  return () => {
    end();
    live.close();
  };
}

function show(context, lead, cards, chart) {
  const { models, engine } = context;
  lead.replaceChildren(...leadOf(context));
  const adders = new Map();
  const open = [];
  const checks = [];
  cards.replaceChildren(
    ...models.map((model) => {
      const proof = model.archive ? proofOf(engine, model.archive, checks) : "";
      const card = cardOf(model, proof);
      if (model.archive && chart) {
        const rate = chart.sparkline("requests/s", short);
        const latency = chart.sparkline("latency", (seconds) => duration(seconds * 1e6));
        open.push(rate, latency);
        adders.set(`${model.name}/${model.version}`, (found) => {
          rate.add(found.rate);
          latency.add(found.latency);
        });
        card.querySelector(".actions").before(element("div", { class: "lives" }, rate.node, latency.node));
      }
      return card;
    }),
  );
  if (checks.length) lead.append(button("Check all in this browser", () => runUntil(checks, Infinity)));
  runUntil(checks, UNASKED);
  return { adders, close: () => open.forEach((line) => line.close()) };
}

/** Runs checks one after the other, as far as their archives have so many bytes in all. */
async function runUntil(checks, most) {
  while (checks.length && checks[0].bytes <= most) {
    const { run, bytes: size } = checks.shift();
    most -= size;
    await run();
  }
}

function leadOf(context) {
  return [
    element("h1", {}, "Models that prove themselves"),
    element("p", { class: "muted" }, leadText(context)),
  ];
}

function leadText({ engine, models }) {
  if (!models.length) return "There is no model here yet.";
  const ready = models.filter(({ state }) => state === "READY").length;
  return engine.form === "server"
    ? `This server holds ${many(ready, "model")}. Before it answers a first request, each has to reproduce its golden ` +
        "cases: inputs and outputs of the original PyTorch module, which its archive carries."
    : `This page holds ${many(ready, "model")}, compiled to WebAssembly: no server, no Python. Each carries golden ` +
        "cases, inputs and outputs of the original PyTorch module, and repeats them before your eyes.";
}

const STATES = {
  READY: ["good", "✓ ready"],
  LOADING: ["warm", "loading …"],
  UNAVAILABLE: ["bad", "✗ refused"],
};

function cardOf(model, proof) {
  const [kind, text] = STATES[model.state] ?? ["", model.state.toLowerCase()];
  const { archive } = model;
  const id = `model-${model.name}-${model.version ?? ""}`;
  const head = element(
    "div",
    { class: "row between" },
    element(
      "h2",
      { id },
      model.name,
      model.version ? element("small", { class: "muted" }, ` ${model.version}`) : null,
    ),
    element("span", { class: `badge ${kind}` }, text),
  );
  const card = element("article", { class: "card", "aria-labelledby": id, "data-model": model.name }, head);
  if (!archive) {
    const reason = model.reason || "it is not served";
    card.append(element("p", { class: model.state === "LOADING" ? "muted" : "failure" }, reason));
    return card;
  }
  const description = archive.manifest.description?.replaceAll("->", "→");
  const methods = Object.values(archive.methods).map(signature);
  const rest = methods.splice(SHOWN_METHODS);
  card.append(
    description ? element("p", { class: "muted" }, description) : "",
    ...factsOf(archive),
    element("div", { class: "signatures" }, methods),
    rest.length
      ? element("details", {}, element("summary", {}, `${many(rest.length, "more method")}`), rest)
      : "",
    proof,
    actionsOf(archive),
  );
  return card;
}

function factsOf({ manifest, bytes: size }) {
  const metrics = Object.entries(manifest.metrics ?? {}).map(([name, value]) => [
    capital(name),
    short(value),
  ]);
  const rest = metrics.splice(SHOWN_METRICS);
  return [
    factList([["Size", bytes(size)], ["Parameters", count(manifest.parameters)], ...metrics]),
    rest.length
      ? element("details", {}, element("summary", {}, many(rest.length, "more measure")), factList(rest))
      : "",
  ];
}

function factList(facts) {
  const entries = facts.map(([name, value]) =>
    element("div", {}, element("dt", {}, name), element("dd", {}, value)),
  );
  return element("dl", { class: "facts" }, entries);
}

const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);

/** On a server what it has proved; on a site a check in this browser, which is added to `checks`. */
function proofOf(engine, archive, checks) {
  if (engine.form === "server") return serverProof(archive);
  const { node, run } = browserCheck(engine, archive);
  checks.push({ run, bytes: archive.bytes });
  checks.sort((a, b) => a.bytes - b.bytes);
  return node;
}

function serverProof({ proof }) {
  if (!proof) return element("p", { class: "muted small" }, "It was not verified: it has no golden cases.");
  return element(
    "ul",
    { class: "proof" },
    proof.runtimes.map(({ runtime, worst, cases, outputs }) =>
      element(
        "li",
        {},
        element(
          "span",
          { class: "badge good" },
          `✓ ${many(outputs, "output")} of ${many(cases, "golden case")} agree`,
        ),
        element(
          "p",
          { class: "muted small" },
          `${runtime}, ${moment(proof.when)} · largest difference ${difference(worst)}`,
        ),
      ),
    ),
  );
}

function actionsOf({ name, version }) {
  const place = `${encodeURIComponent(name)}/${encodeURIComponent(version)}`;
  return element(
    "p",
    { class: "row actions" },
    element(
      "a",
      { class: "action primary", href: `#try/${place}`, "aria-label": `Try ${name} ${version}` },
      "Try it",
    ),
    element(
      "a",
      { class: "action", href: `#agreement/${place}`, "aria-label": `Agreement of ${name} ${version}` },
      "Agreement",
    ),
  );
}

/** Looks at the server while the page is visible; gives the function that ends it. */
function watch(context, { rates, changed }) {
  const counted = new Rates();
  const stop = new AbortController();
  const { signal } = stop;
  const look = async () => {
    if (document.hidden || signal.aborted) return;
    const before = stamp(context.models);
    const [metrics] = await Promise.all([context.engine.fetch("metrics", { signal }), context.refresh()]);
    const found = counted.take(requestsOf(await metrics.text()), performance.now());
    if (signal.aborted) return;
    if (stamp(context.models) !== before) changed();
    rates(found);
  };
  const again = () => look().catch(() => {}); // the server may be away for a moment
  const timer = setInterval(again, EVERY);
  again();
  return () => {
    stop.abort();
    clearInterval(timer);
  };
}

const stamp = (models) =>
  JSON.stringify(
    models.map(({ name, version, state, reason, archive }) => [
      name,
      version,
      state,
      reason,
      archive?.sha256,
    ]),
  );
