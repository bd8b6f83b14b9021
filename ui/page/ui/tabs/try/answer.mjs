/** The answer to a call: each output, and how it compares with the golden one. */

import { compareAll } from "../../engine/golden.mjs";
import { toleranceOf } from "../../engine/compare.mjs";
import { element, failure } from "../../parts/element.mjs";
import { duration, many } from "../../parts/format.mjs";
import { outputView } from "../../parts/output_view.mjs";

/** A card that shows the latest answer. */
export class Answer {
  #method;
  #archive;
  #place = element("div", { class: "stack" }, element("p", { class: "muted" }, "Run it to see the outputs."));
  #time = element("span", { class: "muted mono", id: "latency" });
  summary = "";

  constructor(method, archive) {
    this.#method = method;
    this.#archive = archive;
    const head = element(
      "div",
      { class: "row between" },
      element("h2", { id: "outputs-title" }, "Outputs"),
      this.#time,
    );
    this.node = element("section", { class: "card", "aria-labelledby": "outputs-title" }, head, this.#place);
  }

  /** Shows outputs, beside the golden ones if there are any. */
  show({ outputs, microseconds }, golden) {
    const carried = new Set(this.#method.state.map(({ output }) => output));
    const found = golden ? compareAll(this.#method, outputs, golden) : {};
    const views = Object.entries(outputs).map(([name, tensor]) =>
      outputView({
        ...{ name, tensor, labels: this.#archive.labels(name), state: carried.has(name) },
        ...{
          golden: golden?.[name],
          comparison: found[name],
          tolerance: toleranceOf(this.#method.tolerances, name),
        },
      }),
    );
    this.#time.textContent = duration(microseconds);
    this.summary = summaryOf(Object.values(found));
    const wrong = Object.values(found).some(({ agreed }) => !agreed);
    const verdict = golden
      ? element(
          "p",
          { class: "verdict" },
          element("span", { class: `badge ${wrong ? "bad" : "good"}` }, this.summary),
        )
      : element(
          "p",
          { class: "muted small" },
          "These are your own values: there is no golden output beside them.",
        );
    this.#place.replaceChildren(verdict, ...views);
  }

  /** Shows why there is no answer. */
  fail(error) {
    this.#time.textContent = "";
    this.#place.replaceChildren(failure(error));
  }
}

function summaryOf(comparisons) {
  if (!comparisons.length) return "The outputs are there.";
  const agreed = comparisons.filter((found) => found.agreed).length;
  if (agreed < comparisons.length)
    return `✗ ${agreed} of ${many(comparisons.length, "output")} agree with the golden case`;
  return `✓ ${many(agreed, "output")} ${agreed === 1 ? "agrees" : "agree"} with the golden case`;
}
