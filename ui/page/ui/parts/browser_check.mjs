/** Runs an archive's golden cases in this browser, and shows how many outputs agree. */

import { checkGolden, sumUp } from "../engine/golden.mjs";
import { button, element, failure } from "./element.mjs";
import { difference, duration, many } from "./format.mjs";

/** Makes the part of a card: { node, run }, a button until it has run, and then the answer. */
export function browserCheck(engine, archive) {
  const node = element("div", { class: "proof" });
  const run = async () => {
    node.replaceChildren(element("p", { class: "muted" }, "Running the golden cases in this browser …"));
    try {
      node.replaceChildren(...verdict(sumUp(await stepsInBrowser(engine, archive))));
    } catch (error) {
      node.replaceChildren(failure(error));
    }
  };
  node.append(button("Check it in this browser", run));
  return { node, run };
}

/** Runs all golden cases as WebAssembly; gives the steps as `checkGolden` does. */
export async function stepsInBrowser(engine, archive) {
  const model = await engine.browserModel(archive.name, archive.version);
  const steps = [];
  for await (const step of checkGolden(archive, (method, inputs) => model.call(method, inputs)))
    steps.push(step);
  return steps;
}

/** Says in words what a sum of steps shows. */
export function verdict({ agreed, outputs, cases, worst, differing, microseconds }) {
  const all = agreed === outputs;
  const said = all
    ? `✓ ${many(outputs, "output")} of ${many(cases, "golden case")} agree`
    : `✗ ${agreed} of ${outputs} outputs agree`;
  const figures = `largest difference ${difference(worst)} · ${duration(microseconds)} per step`;
  return [
    element("p", {}, element("span", { class: `badge ${all ? "good" : "bad"}` }, said)),
    element("p", { class: "muted small" }, `in this browser · ${figures}`),
    ...differing.map(({ step, name, found }) =>
      element("p", { class: "failure" }, `${step.case.name}, step ${step.step}, ${name}: ${found.reason}`),
    ),
  ];
}
