/** Tensors as text that people edit: rows of numbers, or nested JSON lists. */

import { value as valueText } from "../parts/format.mjs";
import { DTYPES, Tensor, countOf } from "./tensors.mjs";

const NAMED = { nan: NaN, inf: Infinity, infinity: Infinity };

/** Writes the values, a line for each row, and an empty line between matrices. */
export function toText(tensor) {
  const { dtype, shape } = tensor;
  const values = tensor
    .values()
    .map((value) => (dtype === "bool" ? (value ? "1" : "0") : valueText(value, dtype)));
  if (shape.length < 2) return values.join(", ");
  const width = shape.at(-1);
  const rows = [];
  for (let at = 0; at < values.length; at += width) rows.push(values.slice(at, at + width).join(", "));
  if (shape.length === 2) return rows.join("\n");
  const height = shape.at(-2);
  const matrices = [];
  for (let at = 0; at < rows.length; at += height) matrices.push(rows.slice(at, at + height).join("\n"));
  return matrices.join("\n\n");
}

/**
 * Reads values for a leaf of a signature. The shape is that of nested lists; else `before`, if as many
 * values came; else the leaf's, if a single size of it is open. Throws with what is wrong.
 */
export function fromText(text, { name, dtype, shape: wanted }, before) {
  const [values, nested] = text.trim().startsWith("[") ? readLists(text, name) : [readWords(text), null];
  const numbers = values.map((value) => readValue(value, name, dtype));
  const shape = nested ?? shapeOf(numbers.length, wanted, before);
  if (!shape)
    throw new Error(
      `input '${name}': expected values for ${dtype}[${wanted.map((size) => size ?? "?").join(", ")}], ` +
        `got ${numbers.length}`,
    );
  return Tensor.of(dtype, shape, numbers);
}

function readWords(text) {
  return text.split(/[\s,;]+/).filter(Boolean);
}

function readLists(text, name) {
  let lists;
  try {
    lists = JSON.parse(text.replace(/-?\b\d{16,}\b(?![.eE\d])/g, '"$&"')); // a double does not hold them
  } catch (error) {
    throw new Error(`input '${name}': expected lists as in JSON: ${error.message}`);
  }
  const shape = [];
  for (let level = lists; Array.isArray(level); level = level[0]) shape.push(level.length);
  const flat = lists.flat(shape.length);
  if (flat.some(Array.isArray) || flat.length !== countOf(shape))
    throw new Error(`input '${name}': expected lists of the same length, as for [${shape.join(", ")}]`);
  return [flat, shape];
}

function readValue(value, name, dtype) {
  const { float, least, most } = DTYPES[dtype];
  const text = String(value).toLowerCase();
  if (dtype === "bool") {
    if (["1", "true"].includes(text)) return true;
    if (["0", "false"].includes(text)) return false;
    throw new Error(`input '${name}': expected 0, 1, true or false, got '${text}'`);
  }
  if (float) {
    const [, sign, word] = /^([+-]?)(.*)$/.exec(text);
    const number = word in NAMED ? (sign === "-" ? -NAMED[word] : NAMED[word]) : Number(text);
    if (Number.isNaN(number) && word !== "nan")
      throw new Error(`input '${name}': expected numbers, got '${text}'`);
    return number;
  }
  if (!/^[+-]?\d+$/.test(text))
    throw new Error(`input '${name}': expected whole numbers for ${dtype}, got '${text}'`);
  const whole = BigInt(text);
  if (whole < BigInt(least) || whole > BigInt(most))
    throw new Error(`input '${name}': expected ${dtype} from ${least} to ${most}, got ${text}`);
  return typeof least === "bigint" ? whole : Number(whole);
}

function shapeOf(count, wanted, before) {
  if (before && countOf(before) === count) return before;
  const open = wanted.filter((size) => typeof size !== "number");
  const rest = countOf(wanted.filter((size) => typeof size === "number"));
  if (!open.length) return rest === count ? wanted : null;
  if (before && before.length === wanted.length && open.length > 1) {
    // Rows were added or taken away: the first open size changes, the others stay.
    const first = wanted.findIndex((size) => typeof size !== "number");
    const others = countOf(before.filter((_, axis) => axis !== first));
    if (others && count % others === 0)
      return before.map((size, axis) => (axis === first ? count / others : size));
  }
  if (open.length > 1 || !rest || count % rest) return null;
  return wanted.map((size) => (typeof size === "number" ? size : count / rest));
}
