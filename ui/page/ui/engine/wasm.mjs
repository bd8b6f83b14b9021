// Calls what torchship compiles to WebAssembly. It runs in browsers and in node, and is a part of every
// module that `torchship compile --target wasm` writes.

const ARRAYS = {
  float32: Float32Array,
  float64: Float64Array,
  int64: BigInt64Array,
  int32: Int32Array,
  int16: Int16Array,
  int8: Int8Array,
  uint8: Uint8Array,
  bool: Uint8Array,
};
const ALIGNMENT = 64;
const MESSAGE_BYTES = 4096;
const WORD = 8; // a number in a struct
const POINTER = 4;

/** The model refused its inputs; the message is its own. */
export class ModelError extends Error {
  name = "ModelError";
}

/** The inputs do not fit the signature. */
export class InputError extends Error {
  name = "InputError";
}

/** Starts a module from a URL, its bytes or the compiled module; returns its exports. */
export async function start(source) {
  const module =
    source instanceof WebAssembly.Module ? source : await WebAssembly.compile(await bytesOf(source));
  return (await WebAssembly.instantiate(module, {})).exports;
}

/** Returns the facts that a module holds itself: see `Model.info`. */
export function infoOf(exports) {
  // The shortest: a method may have a name that ends so, too.
  const [tell] = Object.keys(exports)
    .filter((name) => name.endsWith("_info"))
    .sort((a, b) => a.length - b.length);
  if (!tell) throw new Error("not a module that torchship compiled: it has no function with its facts");
  const bytes = new Uint8Array(exports.memory.buffer, exports[tell]());
  return JSON.parse(new TextDecoder().decode(bytes.subarray(0, bytes.indexOf(0))));
}

async function bytesOf(source) {
  if (source instanceof ArrayBuffer || ArrayBuffer.isView(source)) return source;
  const url = new URL(source, import.meta.url);
  if (url.protocol === "file:") return (await import("node:fs/promises")).readFile(url);
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url}: ${response.status} ${response.statusText}`);
  return response.arrayBuffer();
}

/** A loaded model. Calls run one at a time, on the caller's thread. */
export class Model {
  #exports;
  #info;
  #base;

  /** Takes what `start` and `infoOf` return. */
  constructor(exports, info) {
    this.#exports = exports;
    this.#info = info;
    this.#base = aligned(exports.__heap_base.value);
  }

  /** Facts: the archive's digest, the methods with their inputs, outputs and state. */
  get info() {
    return this.#info;
  }

  /**
   * Runs a method. Inputs are typed arrays (or arrays of numbers) by name, numbers for numbers; sizes such as
   * { batch: 1 } are needed only where they do not follow from the lengths. Returns typed arrays, each with
   * its `shape`. Throws ModelError with the model's own message, and InputError.
   */
  call(method, inputs = {}, sizes = {}) {
    const known = this.#info.methods[method];
    if (!known)
      throw new InputError(
        `no method '${method}': expected one of ${Object.keys(this.#info.methods).join(", ")}`,
      );
    const fields = new Set(known.inputs.filter((f) => f.kind !== "size").map((f) => f.leaf));
    for (const name of Object.keys(inputs))
      if (!fields.has(name))
        throw new InputError(`unknown input '${name}': expected ${[...fields].join(", ")}`);
    const arrays = known.inputs.map((field) => this.#array(field, inputs[field.leaf]));
    const symbols = sizesOf(known, arrays, sizes);
    const prefix = `${this.#info.prefix}_${method}`;
    const plan = new Plan(this.#base);
    const given = plan.take(structSize(known.inputs));
    const result = plan.take(known.outputs.length * POINTER + 2 * WORD);
    const shape = plan.take(16 * WORD);
    const message = plan.take(MESSAGE_BYTES);
    const places = arrays.map((array) => (array ? plan.take(array.byteLength) : 0));
    this.#reach(plan.end);
    this.#write(known.inputs, given, symbols, inputs, arrays, places);
    const outputs = known.outputs.map((field, number) => {
      const rank = this.#exports[`${prefix}_shape`](given, number, shape);
      const axes = [...new BigInt64Array(this.#memory, shape, rank)].map(Number);
      const count = axes.reduce((product, size) => product * size, 1);
      return { field, axes, count, place: plan.take(count * ARRAYS[field.dtype].BYTES_PER_ELEMENT) };
    });
    const workspace = plan.take(this.#exports[`${prefix}_workspace_size`](given));
    this.#reach(plan.end);
    const view = new DataView(this.#memory);
    outputs.forEach(({ place }, number) => view.setUint32(result + number * POINTER, place, true));
    view.setUint32(result + outputs.length * POINTER, message, true);
    view.setBigInt64(result + aligned((outputs.length + 1) * POINTER, WORD), BigInt(MESSAGE_BYTES), true);
    const status = this.#exports[prefix](0, given, result, workspace);
    if (status) throw new (status === 1 ? ModelError : InputError)(this.#text(message));
    const found = {};
    for (const { field, axes, count, place } of outputs) {
      const array = new ARRAYS[field.dtype](this.#memory, place, count).slice();
      Object.defineProperty(array, "shape", { value: axes });
      found[field.leaf] = array;
    }
    return found;
  }

  /** Returns a session of a method, which keeps the recurrent state from step to step. */
  session(method) {
    return new Session(this, method);
  }

  /** Runs the golden cases here. Returns { differing, text }: 0 if all outputs agree. */
  selftest() {
    const run = this.#exports[`${this.#info.prefix}_selftest`];
    if (!run) throw new Error("this module was compiled without its golden cases");
    const plan = new Plan(this.#base);
    const message = plan.take(MESSAGE_BYTES);
    const workspace = plan.take(this.#exports[`${this.#info.prefix}_selftest_workspace_size`]());
    this.#reach(plan.end);
    const differing = run(workspace, message, BigInt(MESSAGE_BYTES));
    return { differing, text: this.#text(message) };
  }

  get #memory() {
    return this.#exports.memory.buffer;
  }

  #reach(end) {
    const missing = end - this.#memory.byteLength;
    if (missing > 0) this.#exports.memory.grow(Math.ceil(missing / 65536));
  }

  #text(place) {
    const bytes = new Uint8Array(this.#memory, place, MESSAGE_BYTES);
    return new TextDecoder().decode(bytes.slice(0, bytes.indexOf(0)));
  }

  #array(field, value) {
    if (field.kind !== "tensor" || value === undefined || value === null) return null;
    const Kind = ARRAYS[field.dtype];
    if (value instanceof Kind) return value;
    if (ArrayBuffer.isView(value))
      throw new InputError(`input '${field.leaf}': expected ${Kind.name}, got ${value.constructor.name}`);
    return Kind === BigInt64Array ? Kind.from(value, BigInt) : Kind.from(value);
  }

  #write(fields, at, symbols, inputs, arrays, places) {
    const view = new DataView(this.#memory);
    fields.forEach((field, number) => {
      if (field.kind === "tensor") {
        view.setUint32(at, places[number], true);
        if (arrays[number])
          new ARRAYS[field.dtype](this.#memory, places[number], arrays[number].length).set(arrays[number]);
        at += POINTER;
        return;
      }
      const value = field.kind === "size" ? symbols[field.leaf] : inputs[field.leaf];
      if (value === undefined) throw new InputError(`input '${field.leaf}' is missing`);
      if (field.kind === "float") view.setFloat64(at, value, true);
      else view.setBigInt64(at, BigInt(value), true);
      at += WORD;
    });
  }
}

/** A method with its recurrent state. `state` may be read, kept and set. */
export class Session {
  #model;
  #method;
  state = {};

  constructor(model, method) {
    this.#model = model;
    this.#method = method;
    if (!this.#model.info.methods[method]) throw new InputError(`no method '${method}'`);
  }

  /** Runs one step, and keeps the state for the next. */
  step(inputs = {}, sizes = {}) {
    const outputs = this.#model.call(this.#method, { ...this.state, ...inputs }, sizes);
    for (const { input, output } of this.#model.info.methods[this.#method].state)
      this.state[input] = outputs[output];
    return outputs;
  }

  /** Starts anew: all rows of the batch, or those that are listed, whose state becomes zeros. */
  reset(rows) {
    if (rows === undefined) this.state = {};
    for (const field of this.#model.info.methods[this.#method].inputs) {
      const array = this.state[field.leaf];
      const axis = field.shape ? field.shape.indexOf("batch") : -1;
      if (!array || axis < 0) continue;
      const inner = array.shape.slice(axis + 1).reduce((product, size) => product * size, 1);
      const outer = array.shape.slice(0, axis).reduce((product, size) => product * size, 1);
      for (let o = 0; o < outer; o++)
        for (const row of rows) {
          const start = (o * array.shape[axis] + row) * inner;
          array.fill(array instanceof BigInt64Array ? 0n : 0, start, start + inner);
        }
    }
  }
}

/** Where things lie in the module's memory during one call. */
class Plan {
  constructor(base) {
    this.end = base;
  }

  take(bytes) {
    const place = this.end;
    this.end = aligned(place + bytes);
    return place;
  }
}

function aligned(place, step = ALIGNMENT) {
  return Math.ceil(place / step) * step;
}

function structSize(fields) {
  return fields.reduce((size, field) => size + (field.kind === "tensor" ? POINTER : WORD), WORD);
}

/** Returns the sizes by symbol: those given, and those that follow from the lengths of the inputs. */
function sizesOf(known, arrays, given) {
  const symbols = { ...given };
  for (let found = true; found;) {
    found = false;
    known.inputs.forEach((field, number) => {
      if (!arrays[number]) return;
      const open = field.shape.filter((size) => typeof size === "string" && symbols[size] === undefined);
      if (new Set(open).size !== 1 || open.length !== 1) return;
      const rest = field.shape.reduce(
        (product, size) => product * (size === open[0] ? 1 : (symbols[size] ?? size)),
        1,
      );
      symbols[open[0]] = rest ? arrays[number].length / rest : 0;
      found = true;
    });
  }
  known.inputs.forEach((field, number) => {
    if (field.kind === "size" && symbols[field.leaf] === undefined) {
      const wanted = known.inputs.some((f, n) => arrays[n] && f.shape.includes(field.leaf));
      if (wanted) throw new InputError(`size '${field.leaf}' does not follow from the inputs: give it`);
      symbols[field.leaf] = 0;
    }
    if (!arrays[number]) {
      if (field.kind === "tensor" && !field.optional)
        throw new InputError(`input '${field.leaf}' is missing`);
      return;
    }
    const count = field.shape.reduce((product, size) => product * (symbols[size] ?? size), 1);
    if (count !== arrays[number].length)
      throw new InputError(
        `input '${field.leaf}': expected ${count} elements, ${field.dtype}[${field.shape.join(", ")}], ` +
          `got ${arrays[number].length}`,
      );
  });
  return symbols;
}
