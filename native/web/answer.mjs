// Answers calls with a compiled model: one line of JSON for each on standard input, and one on standard output.
// Usage: node answer.mjs MODEL.mjs
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const { load } = await import(pathToFileURL(process.argv[2]));
const model = await load();
const kinds = {
  float32: Float32Array, float64: Float64Array, int64: BigInt64Array, int32: Int32Array,
  int16: Int16Array, int8: Int8Array, uint8: Uint8Array, bool: Uint8Array,
};

function arrayOf({ dtype, base64 }) {
  const bytes = Buffer.from(base64, "base64");
  const copy = new Uint8Array(bytes.length);
  copy.set(bytes);
  return new kinds[dtype](copy.buffer);
}

function answer(request) {
  if (request.selftest) return model.selftest();
  const inputs = {};
  for (const [name, value] of Object.entries(request.inputs))
    inputs[name] = typeof value === "object" ? arrayOf(value) : value;
  const durations = [];
  let outputs;
  for (let round = 0; round < (request.rounds ?? 1); round++) {
    const start = process.hrtime.bigint();
    outputs = model.call(request.method, inputs, request.sizes);
    durations.push(Number(process.hrtime.bigint() - start));
  }
  durations.sort((a, b) => a - b);
  const nanoseconds = durations[durations.length >> 1];
  const found = {};
  for (const { leaf, dtype } of model.info.methods[request.method].outputs) {
    const array = outputs[leaf];
    found[leaf] = {
      dtype,
      shape: array.shape,
      base64: Buffer.from(array.buffer, array.byteOffset, array.byteLength).toString("base64"),
    };
  }
  return { outputs: found, nanoseconds };
}

for await (const line of createInterface({ input: process.stdin })) {
  let reply;
  try {
    reply = answer(JSON.parse(line));
  } catch (error) {
    reply = { error: error.message, kind: error.name };
  }
  process.stdout.write(`${JSON.stringify(reply)}\n`);
}
