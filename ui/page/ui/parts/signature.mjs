/** A method's signature, as code. */

import { kindText } from "../engine/archive.mjs";
import { element } from "./element.mjs";

/** Such as forward(obs: uint8[batch, 510]) → logits: float32[batch, 23]; state is a line of its own. */
export function signature(method) {
  const carried = new Set(method.state.map(({ output }) => output));
  const inputs = method.inputs.filter((leaf) => !leaf.state).map((leaf) => leafText(leaf));
  const outputs = method.outputs.filter(({ name }) => !carried.has(name)).map((leaf) => leafText(leaf));
  const state = method.inputs.filter((leaf) => leaf.state).map((leaf) => leafText(leaf));
  return element(
    "div",
    { class: "signature" },
    element(
      "code",
      {},
      element("b", {}, method.name),
      `(${inputs.join(", ")}) → ${outputs.join(", ") || "its state"}`,
    ),
    state.length > 0 && element("code", { class: "muted" }, `keeps ${state.join(", ")}`),
  );
}

function leafText(leaf) {
  return `${leaf.name}${leaf.optional ? "?" : ""}: ${kindText(leaf)}`;
}
