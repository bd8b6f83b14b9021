/** The engine without a server: archives compiled to WebAssembly, called in this page. */

import { Archive } from "./archive.mjs";
import { Tensor } from "./tensors.mjs";
import { Model, infoOf, start } from "./wasm.mjs";

/** Runs the models of a site, which `torchship compile --target web` wrote. */
export class BrowserEngine {
  form = "site";
  #listed;
  #archives = new Map();
  #models = new Map();

  /** Takes the contents of site.json. */
  constructor(site) {
    this.#listed = site.models;
  }

  /** Every archive of the site: [{ name, version, state }]. */
  async models() {
    return this.#listed.map(({ name, version }) => ({ name, version, state: "READY" }));
  }

  /** What is known of an archive; fetched once. */
  archive(name) {
    return kept(this.#archives, name, async () => {
      const folder = this.#folder(name);
      const facts = await (await fetched(`${folder}/archive.json`)).json();
      return new Archive(facts, async () => (await fetched(`${folder}/golden.safetensors`)).arrayBuffer());
    });
  }

  /** Calls a method; gives { outputs: {name: Tensor}, microseconds }. */
  async call(name, method, inputs, { outputs, signal } = {}) {
    const model = await this.browserModel(name);
    signal?.throwIfAborted();
    return model.call(method, inputs, { outputs });
  }

  /** Begins a sequence of steps. */
  async session(name, method) {
    return (await this.browserModel(name)).session(method);
  }

  /** Loads a model's WebAssembly; once. */
  browserModel(name) {
    return kept(this.#models, name, async () => {
      const archive = await this.archive(name);
      const response = await fetched(`${this.#folder(name)}/model.wasm`);
      return BrowserModel.load(archive, await response.arrayBuffer());
    });
  }

  #folder(name) {
    if (!this.#listed.some((model) => model.name === name))
      throw new Error(
        `no model '${name}': expected one of ${this.#listed.map((model) => model.name).join(", ")}`,
      );
    return `models/${encodeURIComponent(name)}`;
  }
}

/** One archive as WebAssembly, with Tensors in and out. Both engines have it. */
export class BrowserModel {
  #model;

  /** Starts the module in `code`, its bytes; refuses one that was compiled of another archive. */
  static async load(archive, code) {
    const exports = await start(code);
    return new BrowserModel(archive, new Model(exports, infoOf(exports)));
  }

  constructor(archive, model) {
    if (model.info.archive !== archive.sha256)
      throw new Error(
        `'${archive.name}': the WebAssembly is of another archive: expected SHA-256 ${archive.sha256}, ` +
          `got ${model.info.archive}; compile it again`,
      );
    this.archive = archive;
    this.#model = model;
  }

  /** Calls a method; gives { outputs: {name: Tensor}, microseconds }. */
  async call(method, inputs, { outputs } = {}) {
    return this.#run(method, inputs, (arrays, sizes) => this.#model.call(method, arrays, sizes), outputs);
  }

  /** Begins a sequence of steps; its state lives in this page. */
  session(method) {
    const session = this.#model.session(method);
    return {
      step: async (inputs) => this.#run(method, inputs, (arrays, sizes) => session.step(arrays, sizes)),
      restart: () => session.reset(),
      exportState: async () => {
        throw new Error(
          "a state is exported by a server: in this browser, it is in the outputs of each step",
        );
      },
      end: async () => {},
    };
  }

  /** Runs the golden cases that the module holds: { differing, text }. */
  selftest() {
    return this.#model.selftest();
  }

  #run(method, inputs, call, wanted) {
    const fields = this.#model.info.methods[method]?.inputs;
    const arrays = {};
    for (const [name, tensor] of Object.entries(inputs)) {
      const field = fields?.find(({ leaf, kind }) => leaf === name && kind !== "size");
      arrays[name] = field ? valueOf(field, tensor) : tensor.data;
    }
    const sizes = fields ? sizesOf(fields, inputs) : {};
    const started = performance.now();
    const found = call(arrays, sizes);
    const microseconds = (performance.now() - started) * 1000;
    const outputs = {};
    for (const { leaf, dtype } of this.#model.info.methods[method].outputs)
      if (!wanted || wanted.includes(leaf))
        outputs[leaf] = new Tensor(dtype, found[leaf].shape, found[leaf]);
    return { outputs, microseconds };
  }
}

/** Returns what the module takes for an input: an array, or a number for a number. */
function valueOf(field, tensor) {
  if (field.kind !== "tensor") return tensor.at(0);
  if (tensor.dtype !== field.dtype)
    throw new Error(`input '${field.leaf}': expected ${field.dtype}, got ${tensor.dtype}`);
  const fits = field.shape.length === tensor.shape.length;
  if (!fits || field.shape.some((size, axis) => typeof size === "number" && size !== tensor.shape[axis]))
    throw new Error(
      `input '${field.leaf}': expected [${field.shape.join(", ")}], got [${tensor.shape.join(", ")}]`,
    );
  return tensor.data;
}

/** Returns each symbol's size, which the shapes of all inputs must agree on. */
function sizesOf(fields, inputs) {
  const sizes = {};
  for (const { leaf, kind, shape } of fields)
    if (kind === "tensor" && inputs[leaf])
      shape.forEach((symbol, axis) => {
        if (typeof symbol !== "string") return;
        const size = inputs[leaf].shape[axis];
        if ((sizes[symbol] ??= size) !== size)
          throw new Error(`input '${leaf}': '${symbol}' is ${sizes[symbol]} in another input, got ${size}`);
      });
  return sizes;
}

async function fetched(path) {
  const response = await fetch(new URL(path, document.baseURI));
  if (!response.ok) throw new Error(`${path}: ${response.status} ${response.statusText}`);
  return response;
}

/** Returns the promise that is kept under a key, or makes it; one that failed is made anew. */
function kept(map, key, make) {
  if (!map.has(key)) {
    const made = make();
    map.set(key, made);
    made.catch(() => map.get(key) === made && map.delete(key));
  }
  return map.get(key);
}
