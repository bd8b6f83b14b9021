/** The form of a method's inputs. */

import { leafOf } from "../../engine/archive.mjs";
import { button, element, field } from "../../parts/element.mjs";
import { inputField } from "../../parts/input_field.mjs";

/** A field for each input, filled with a step of a golden case or by hand. */
export class InputForm {
  #method;
  #changed;
  #fields = new Map();
  #filled = {};

  /** Calls `changed` whenever the visitor changes a value. */
  constructor(method, changed) {
    this.#method = method;
    this.#changed = changed;
    this.node = element("form", { class: "stack", novalidate: true });
    this.#build([]);
  }

  /**
   * Fills the form with a step. Its state inputs are the outputs of the step before, as that case's state
   * goes on; in a sequence, they are left to the one who keeps the state.
   */
  fill(known, number, sequence) {
    const { inputs } = known.steps[number];
    const state = {};
    if (number > 0 && !sequence)
      for (const { input, output } of this.#method.state)
        state[input] = known.steps[number - 1].outputs[output];
    this.#filled = { ...inputs, ...state };
    this.#build(Object.keys(this.#filled));
    for (const [name, { write }] of this.#fields) write(this.#filled[name]);
  }

  /** The inputs that are given, by flat name; throws with what is wrong with one. */
  read() {
    const inputs = {};
    for (const [name, { read }] of this.#fields) {
      const tensor = read();
      if (tensor) inputs[name] = tensor;
    }
    return inputs;
  }

  /** Whether the values are still those that the form was filled with. */
  isGolden() {
    const now = this.read();
    const names = Object.keys(this.#filled);
    return (
      names.length === Object.keys(now).length && names.every((name) => same(now[name], this.#filled[name]))
    );
  }

  /** Makes the fields: one for each leaf, and for an open one as many as there are names. */
  #build(names) {
    const before = new Map(this.#fields);
    this.#fields.clear();
    const rows = this.#method.inputs.flatMap((leaf) => {
      if (!leaf.open) return [this.#add(leaf, leaf.name, before)];
      const given = [...new Set([...names, ...before.keys()])].filter((name) => leafOf([leaf], name));
      return [
        ...given.map((name) => this.#removable(this.#add(leaf, name, before), name)),
        this.#adder(leaf, given.length),
      ];
    });
    this.node.replaceChildren(...rows);
  }

  #add(leaf, name, before) {
    const made =
      before.get(name) ?? inputField(leaf.open ? { ...leaf, optional: false } : leaf, name, this.#changed);
    this.#fields.set(name, made);
    return made.node;
  }

  #removable(node, name) {
    const remove = button(
      `Remove ${name}`,
      () => {
        this.#fields.delete(name);
        this.#build([]);
        this.#changed();
      },
      "quiet small",
    );
    return element("div", { class: "stack" }, node, remove);
  }

  #adder(leaf, count) {
    const name = element("input", {
      type: "text",
      value: leaf.name.replaceAll("*", String(count)),
      spellcheck: "false",
    });
    const add = button("Add", () => {
      if (!leafOf([leaf], name.value)) return name.setAttribute("aria-invalid", "true");
      this.#build([name.value]);
      return this.#changed();
    });
    return element("div", { class: "row" }, field(`Another ${leaf.name}`, name), add);
  }
}

function same(a, b) {
  return Boolean(a && b) && a.kind === b.kind && a.bytes.every((byte, index) => byte === b.bytes[index]);
}
