/** Runs golden cases, and compares what comes back. */

import { compare, toleranceOf } from "./compare.mjs";

/**
 * Runs the golden cases of an archive through `call(method, inputs)`, and yields each step as
 * { case, number, step, microseconds, outputs: {name: comparison} }. The state is passed on from step to
 * step.
 */
export async function* checkGolden(archive, call) {
  const cases = await archive.cases();
  for (const [number, known] of cases.entries()) {
    const method = archive.methods[known.method];
    let state = {};
    for (const [step, { inputs, outputs: golden }] of known.steps.entries()) {
      const { outputs, microseconds } = await call(known.method, { ...state, ...inputs });
      state = Object.fromEntries(method.state.map(({ input, output }) => [input, outputs[output]]));
      yield { case: known, number, step, microseconds, outputs: compareAll(method, outputs, golden) };
    }
  }
}

/** Compares all outputs of a step by name. */
export function compareAll(method, outputs, golden) {
  const names = new Set([...Object.keys(golden), ...Object.keys(outputs)]);
  return Object.fromEntries(
    [...names].map((name) => {
      const found = compare(outputs[name], golden[name], toleranceOf(method.tolerances, name));
      return [name, found];
    }),
  );
}

/**
 * Sums up what `checkGolden` yields: { agreed, outputs, cases, worst, differing, microseconds }, the
 * number of outputs that agree, of all, of cases; the largest difference; what differs; the median time of a step.
 */
export function sumUp(steps) {
  const all = steps.flatMap((step) =>
    Object.entries(step.outputs).map(([name, found]) => ({ step, name, found })),
  );
  const times = steps.map((step) => step.microseconds).sort((a, b) => a - b);
  return {
    agreed: all.filter(({ found }) => found.agreed).length,
    outputs: all.length,
    cases: new Set(steps.map(({ number }) => number)).size,
    worst: all.reduce((worst, { found }) => Math.max(worst, found.absolute ?? Infinity), 0),
    differing: all.filter(({ found }) => !found.agreed),
    microseconds: times[Math.floor(times.length / 2)] ?? NaN,
  };
}
