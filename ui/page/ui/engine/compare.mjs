/** Compares an output with its golden value: docs/archive.md, "Agreement". */

import { DTYPES } from "./tensors.mjs";

/** The smallest normal numbers. */
const SMALLEST = { float16: 2 ** -14, bfloat16: 2 ** -126, float32: 2 ** -126, float64: 2 ** -1022 };
const BITS = { 1: Int8Array, 2: Int16Array, 4: Int32Array, 8: BigInt64Array };
const NONE = { atol: 0, rtol: 0 };
const MOST_ULP = 2n ** 63n - 1n; // as Python counts

/**
 * Compares two tensors. Gives { agreed, reason, absolute, relative, ulp, identical, place }: the largest
 * differences, null where the two cannot be compared, and the index of the largest. They agree if dtype and
 * shape are equal, nothing is NaN, and each element satisfies |a - b| <= atol + rtol * |b|.
 */
export function compare(actual, golden, tolerance = NONE) {
  if (!actual) return refused("the output is missing");
  if (!golden) return refused("the output is not in the golden case");
  if (actual.dtype !== golden.dtype || String(actual.shape) !== String(golden.shape))
    return refused(`expected ${golden.kind}, got ${actual.kind}`);
  const identical = sameBytes(actual.bytes, golden.bytes);
  const found = { agreed: true, reason: "", absolute: 0, relative: 0, ulp: 0, identical, place: 0 };
  if (identical && !hasNaN(actual)) return found;
  return DTYPES[golden.dtype].float
    ? compareFloats(actual, golden, tolerance, found)
    : compareIntegers(actual, golden, tolerance, found);
}

/** Returns the tolerance of an output; one of xs.* counts for xs.3 too. */
export function toleranceOf(tolerances, output) {
  for (const [name, tolerance] of Object.entries(tolerances)) {
    const pattern = name.split("*").map((part) => part.replace(/[.+?^${}()|[\]\\]/g, "\\$&"));
    if (name === output || new RegExp(`^${pattern.join(".+")}$`, "s").test(output)) return tolerance;
  }
  return NONE;
}

function refused(reason) {
  return { agreed: false, reason, absolute: null, relative: null, ulp: null, identical: false, place: null };
}

function compareFloats(actual, golden, { atol, rtol }, found) {
  const [a, b] = [actual.numbers(), golden.numbers()];
  const missing = a.filter(Number.isNaN).length;
  if (missing) return { ...found, ...refused(`${missing} of ${a.length} values are NaN`) };
  let wrong = 0;
  let first = -1;
  a.forEach((value, index) => {
    const distance = value === b[index] ? 0 : Math.abs(value - b[index]);
    const relative = distance / Math.max(Math.abs(b[index]), SMALLEST[golden.dtype]);
    if (distance > found.absolute || Number.isNaN(distance))
      Object.assign(found, { absolute: Number.isNaN(distance) ? Infinity : distance, place: index });
    found.relative = Math.max(found.relative, Number.isNaN(relative) ? Infinity : relative);
    if (distance === 0) return; // 0 * Infinity would be NaN
    if (Number.isFinite(distance) && distance <= atol + rtol * Math.abs(b[index])) return;
    wrong++;
    if (first < 0) first = index;
  });
  found.ulp = largestUlp(actual, golden);
  if (!wrong) return found;
  found.agreed = false;
  found.reason =
    `${wrong} of ${a.length} values differ by up to ${found.absolute.toExponential(2)} ` +
    `(atol ${atol}, rtol ${rtol}); the first at flat index ${first}: expected ${b[first]}, got ${a[first]}`;
  return found;
}

function compareIntegers(actual, golden, { atol, rtol }, found) {
  let wrong = 0;
  let first = -1;
  let largest = -1n;
  actual.data.forEach((value, index) => {
    const [a, b] = [BigInt(value), BigInt(golden.data[index])];
    const distance = a > b ? a - b : b - a;
    const size = Number(b < 0n ? -b : b);
    if (distance > largest) Object.assign(found, { absolute: Number((largest = distance)), place: index });
    found.relative = Math.max(found.relative, Number(distance) / Math.max(size, 1));
    if (Number(distance) <= atol + rtol * size) return;
    wrong++;
    if (first < 0) first = index;
  });
  found.ulp = found.absolute;
  if (!wrong) return found;
  found.agreed = false;
  found.reason =
    `${wrong} of ${actual.count} values differ; the first at flat index ${first}: ` +
    `expected ${golden.at(first)}, got ${actual.at(first)}`;
  return found;
}

/** How many representable numbers lie between two floats, at most. */
function largestUlp(actual, golden) {
  const width = actual.data.BYTES_PER_ELEMENT;
  const [a, b] = [actual, golden].map(({ bytes }) => new BITS[width](bytes.slice().buffer));
  const least = -(2n ** BigInt(8 * width - 1));
  let largest = 0n;
  a.forEach((value, index) => {
    const distance = ordered(value, least) - ordered(b[index], least);
    const size = distance < 0n ? -distance : distance;
    if (size > largest) largest = size;
  });
  return Math.min(Number(largest), Number(MOST_ULP));
}

/** Neighbouring floats are neighbouring integers if those of negative numbers are counted downwards. */
function ordered(bits, least) {
  const integer = BigInt(bits);
  return integer < 0n ? least - integer : integer;
}

function hasNaN({ dtype, data }) {
  return Boolean(DTYPES[dtype].float) && data.some((value) => Number.isNaN(DTYPES[dtype].decode(value)));
}

function sameBytes(a, b) {
  return a.length === b.length && a.every((byte, index) => byte === b[index]);
}
