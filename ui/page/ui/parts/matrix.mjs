/** The matrix of runtimes and outputs: what differs, and by how much. */

import { element } from "./element.mjs";
import { difference } from "./format.mjs";

const WORDS = {
  waiting: "waits",
  running: "runs …",
  agreed: "✓ agrees",
  differs: "✗ differs",
  skipped: "skipped",
  failed: "✗ failed",
};
const KINDS = { running: "warm", agreed: "good", differs: "bad", failed: "bad" };

/** A table with a row for each output of each method, and a column for each runtime. */
export class Matrix {
  #cells = new Map();
  #states = new Map();

  /** `rows` are [{ method, output }], `columns` the names of runtimes. */
  constructor(rows, columns, caption) {
    const heads = columns.map((name) => {
      const state = element("span", { class: "badge" });
      const note = element("div", { class: "note" });
      this.#states.set(name, { state, note });
      return element("th", { scope: "col" }, element("div", { class: "name" }, name), state, note);
    });
    const lines = rows.map(({ method, output }) => {
      const cells = columns.map((name) => {
        const cell = element("td", { class: "cell", "data-runtime": name });
        this.#cells.set(keyOf(name, method, output), cell);
        return cell;
      });
      return element(
        "tr",
        { "data-output": `${method} ${output}` },
        element("th", { scope: "row" }, element("code", {}, `${method} → ${output}`)),
        cells,
      );
    });
    this.node = element(
      "div",
      { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
      element(
        "table",
        { class: "matrix" },
        element("caption", { class: "unseen" }, caption),
        element("thead", {}, element("tr", {}, element("th", { scope: "col" }, "output"), heads)),
        element("tbody", {}, lines),
      ),
    );
    for (const name of columns) this.state(name, "waiting");
  }

  /** Says where a runtime stands: waiting, running, agreed, differs, skipped or failed; with a note. */
  state(name, state, note = "") {
    const shown = this.#states.get(name);
    shown.state.textContent = WORDS[state];
    shown.state.className = `badge ${KINDS[state] ?? ""}`;
    shown.note.textContent = note;
  }

  /** Shows the largest difference of an output; null is one that cannot be told. */
  set(name, { method, output, agreed, absolute, identical, reason }) {
    const cell = this.#cells.get(keyOf(name, method, output));
    if (!cell) return;
    cell.className = `cell ${agreed ? "good" : "bad"}`;
    const size = identical ? "0" : absolute === null ? "?" : difference(absolute);
    cell.textContent = `${agreed ? "✓" : "✗"} ${size}`;
    cell.title = reason || (identical ? "every byte is the same" : "within the tolerance");
  }
}

function keyOf(...parts) {
  return JSON.stringify(parts);
}
