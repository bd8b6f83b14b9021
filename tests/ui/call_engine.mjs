// Calls exported functions of the page's modules, and prints what each gave as a line of JSON.
//
//   node call_engine.mjs FOLDER < CALLS
//
// Each line of CALLS is { module, function, arguments }; a tensor stands there, and in the answer, as
// { dtype, shape, hex }, bytes as { bytes }, and an error as { error }.

import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const folder = pathToFileURL(`${process.argv[2]}/`);
const { Tensor } = await import(new URL("engine/tensors.mjs", folder));

function read(value) {
  if (Array.isArray(value)) return value.map(read);
  if (value === null || typeof value !== "object") return value;
  if ("hex" in value) return Tensor.fromBytes(value.dtype, value.shape, new Uint8Array(Buffer.from(value.hex, "hex")));
  if ("bytes" in value) return new Uint8Array(Buffer.from(value.bytes, "hex"));
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, read(item)]));
}

function write(value) {
  if (value instanceof Tensor)
    return { dtype: value.dtype, shape: value.shape, hex: Buffer.from(value.bytes).toString("hex") };
  if (value instanceof Uint8Array) return { bytes: Buffer.from(value).toString("hex") };
  if (typeof value === "bigint") return String(value);
  if (typeof value === "number" && !Number.isFinite(value)) return String(value);
  if (Array.isArray(value)) return value.map(write);
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, write(item)]));
}

for await (const line of createInterface({ input: process.stdin })) {
  const { module, function: name, arguments: given } = JSON.parse(line);
  let answer;
  try {
    const found = (await import(new URL(module, folder)))[name](...read(given));
    answer = found?.[Symbol.iterator] && typeof found === "object" && !ArrayBuffer.isView(found) ? [...found] : found;
  } catch (error) {
    answer = { error: error.message };
  }
  console.log(JSON.stringify(write(answer) ?? null));
}
