/** One output: its values as a picture, as bars, as a table, and beside the golden ones. */

import { element, select } from "./element.mjs";
import { count, difference, short, value as valueText } from "./format.mjs";
import { picture, pictureShape } from "./image.mjs";

const ROWS = 50;
const COLUMNS = 64;
const COMPARED = 200;
const BARS = 64; // labels at most

/** Shows an output; `golden`, `comparison` and `tolerance` are given where there is something to compare. */
export function outputView({ name, tensor, labels, state, golden, comparison, tolerance }) {
  const head = element(
    "div",
    { class: "row between" },
    element("h3", {}, name, " ", element("code", { class: "muted" }, tensor.kind)),
    comparison ? verdictBadge(comparison) : null,
  );
  const parts = [];
  if (pictureShape(tensor) && !state) parts.push(picture(tensor, `${name} as a picture`));
  else if (barsFit(tensor, labels, state)) parts.push(rowsOfBars(name, tensor, labels));
  const table = valueTable(name, tensor, labels);
  parts.push(parts.length || state ? element("details", {}, element("summary", {}, "values"), table) : table);
  if (comparison) parts.push(compared(name, tensor, golden, comparison, tolerance));
  return element(
    "section",
    { class: "output", "data-output": name, "aria-label": `Output ${name}` },
    head,
    parts,
  );
}

/** Says whether an output agrees: a word and a sign, not a colour alone. */
export function verdictBadge({ agreed, identical }) {
  if (!agreed) return element("span", { class: "badge bad" }, "✗ differs");
  return element("span", { class: "badge good" }, identical ? "✓ identical" : "✓ agrees");
}

function barsFit({ dtype, shape, count: elements }, labels, state) {
  const width = shape.at(-1);
  const numbers = ["float16", "bfloat16", "float32", "float64"].includes(dtype);
  return elements > 0 && !state && numbers && shape.length > 0 && width > 1 && width <= (labels ? BARS : 32);
}

function rowsOfBars(name, tensor, labels) {
  const width = tensor.shape.at(-1);
  const rows = tensor.count / width;
  const values = tensor.numbers();
  const place = element("div", {});
  const show = (row) => place.replaceChildren(bars(values.subarray(row * width, (row + 1) * width), labels));
  show(0);
  if (rows === 1) return place;
  const options = Array.from({ length: rows }, (_, row) => [row, `row ${row}`]);
  const choice = select(options, 0, (row) => show(Number(row)));
  choice.setAttribute("aria-label", `Row of ${name}`);
  choice.classList.add("narrow");
  return element("div", { class: "field" }, choice, place);
}

/** Draws values as bars, the largest one marked; the shortest bar is the smallest value. */
export function bars(values, labels) {
  const finite = [...values].filter(Number.isFinite);
  const [least, most] = [Math.min(...finite), Math.max(...finite)];
  return element(
    "div",
    { class: "bars", role: "list" },
    [...values].map((value, index) => {
      const fill = element("span", { class: "fill" });
      fill.style.width = `${most > least ? Math.max(((value - least) / (most - least)) * 100, 0.5) : 50}%`;
      return element(
        "div",
        { class: value === most ? "bar-row best" : "bar-row", role: "listitem" },
        element("span", { class: "label" }, labels?.[index] ?? String(index)),
        element("span", { class: "track" }, fill),
        element("span", { class: "value" }, short(value)),
      );
    }),
  );
}

function valueTable(name, tensor, labels) {
  const { dtype, shape } = tensor;
  const width = shape.length ? shape.at(-1) : 1;
  const rows = width ? tensor.count / width : 0;
  const columns = Math.min(width, COLUMNS);
  const cell = (index) => element("td", { class: "number" }, valueText(tensor.at(index), dtype));
  const lines = Array.from({ length: Math.min(rows, ROWS) }, (_, row) =>
    element(
      "tr",
      {},
      element("th", { scope: "row" }, String(row)),
      Array.from({ length: columns }, (_, column) => cell(row * width + column)),
    ),
  );
  const heads = Array.from({ length: columns }, (_, column) =>
    element("th", { scope: "col", class: "number" }, labels?.[column] ?? String(column)),
  );
  const left = tensor.count - lines.length * columns;
  return element(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": `Values of ${name}` },
    element(
      "table",
      {},
      element("thead", {}, element("tr", {}, element("td", {}), heads)),
      element("tbody", {}, lines),
    ),
    left > 0 ? element("p", { class: "muted small" }, `and ${count(left)} more values`) : null,
  );
}

function compared(name, tensor, golden, comparison, { atol, rtol }) {
  const { agreed, reason, absolute, relative, ulp, identical } = comparison;
  const words = identical
    ? "Every byte is that of the golden output."
    : absolute === null
      ? reason
      : `Largest difference ${difference(absolute)} (relative ${difference(relative)}, ${short(ulp)} ULP); ` +
        `allowed ${difference(atol)} + ${difference(rtol)} · |golden|.`;
  const parts = [
    element(
      "p",
      { class: agreed ? "muted small" : "failure" },
      agreed || absolute === null ? words : `${reason}`,
    ),
  ];
  if (golden && absolute !== null) {
    const rows = Array.from({ length: Math.min(tensor.count, COMPARED) }, (_, index) =>
      comparedRow(tensor, golden, index),
    );
    const heads = ["index", "golden", "answer", "difference"].map((text) =>
      element("th", { scope: "col", class: "number" }, text),
    );
    parts.push(
      element(
        "details",
        {},
        element("summary", {}, "beside the golden values"),
        element(
          "div",
          {
            class: "scroll tall",
            tabindex: "0",
            role: "region",
            "aria-label": `${name} beside the golden values`,
          },
          element("table", {}, element("thead", {}, element("tr", {}, heads)), element("tbody", {}, rows)),
          tensor.count > COMPARED
            ? element("p", { class: "muted small" }, `and ${count(tensor.count - COMPARED)} more`)
            : null,
        ),
      ),
    );
  }
  return element("div", { class: "compared" }, parts);
}

function comparedRow(tensor, golden, index) {
  const [a, b] = [tensor.at(index), golden.at(index)];
  const distance =
    a === b ? 0 : typeof a === "bigint" ? (a > b ? a - b : b - a) : Math.abs(Number(a) - Number(b));
  const cells = [
    placeOf(index, tensor.shape),
    valueText(b, tensor.dtype),
    valueText(a, tensor.dtype),
    difference(distance),
  ];
  return element(
    "tr",
    {},
    cells.map((text) => element("td", { class: "number" }, text)),
  );
}

function placeOf(index, shape) {
  const place = [];
  for (const size of [...shape].reverse()) {
    place.unshift(index % size);
    index = Math.floor(index / size);
  }
  return `[${place.join(", ")}]`;
}
