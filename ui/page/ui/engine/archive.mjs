/** An archive's manifest and golden cases: docs/archive.md. */

import { readSafetensors } from "./safetensors.mjs";

const SCALARS = { int: "int64", float: "float64", bool: "bool", str: "uint8" };

/**
 * What is known of an archive: `manifest`, `sha256`, `bytes` and `proof` as the server or the site gives
 * them, and its methods by name, each { name, inputs, outputs, state, tolerances }.
 */
export class Archive {
  #golden;
  #cases;

  /** `golden` is a function that fetches the golden record's bytes. */
  constructor({ manifest, sha256, bytes, proof }, golden) {
    Object.assign(this, { manifest, sha256, bytes, proof });
    this.#golden = golden;
    this.methods = Object.fromEntries(
      Object.entries(manifest.methods).map(([name, method]) => [name, readMethod(name, method)]),
    );
  }

  get name() {
    return this.manifest.name;
  }

  get version() {
    return this.manifest.version;
  }

  /** The golden cases, fetched once: [{ name, method, steps: [{ inputs, outputs }] }]. */
  async cases() {
    this.#cases ??= this.#golden().then((bytes) => readCases(this.manifest, bytes));
    try {
      return await this.#cases;
    } catch (error) {
      this.#cases = undefined; // the next caller tries again
      throw error;
    }
  }

  /** The names of the last dimension of an output, if the manifest has them. */
  labels(output) {
    return this.manifest.labels?.[output];
  }
}

/** Reads the golden record of a manifest. */
export function readCases(manifest, bytes) {
  const cases = manifest.golden.map(({ name, method, steps }) => ({
    name,
    method,
    steps: Array.from({ length: steps }, () => ({ inputs: {}, outputs: {} })),
  }));
  for (const [key, tensor] of Object.entries(readSafetensors(bytes).tensors)) {
    const [, number, step, side, name] = /^(\d+)\/(\d+)\/(in|out)\/(.*)$/s.exec(key) ?? [];
    const found = cases[number]?.steps[step];
    if (!found) throw new Error(`the golden record has a tensor '${key}': expected case/step/in/name`);
    found[side === "in" ? "inputs" : "outputs"][name] = tensor;
  }
  return cases;
}

function readMethod(name, { inputs, outputs, state, tolerances }) {
  const leaves = inputs.flatMap((argument) => [...leavesOf(argument.value, !argument.required)]);
  const carried = new Set((state ?? []).map((entry) => entry.input));
  return {
    name,
    inputs: leaves.map((leaf) => ({ ...leaf, state: carried.has(leaf.name) })),
    outputs: [...leavesOf(outputs, false)],
    state: state ?? [],
    tolerances: tolerances ?? {},
  };
}

/**
 * The flat leaves of a value tree: { name, kind, dtype, shape, optional, open }. `kind` is tensor, int,
 * float, bool or str; the name of an open leaf has a * for each index or key that the caller chooses.
 */
export function* leavesOf(node, optional) {
  const { kind } = node;
  if (kind === "tensor" || kind in SCALARS) {
    const shape = node.shape ?? (kind === "str" ? [null] : []);
    yield {
      name: node.name,
      kind,
      dtype: node.dtype ?? SCALARS[kind],
      shape,
      optional,
      open: node.name.includes("*"),
    };
    return;
  }
  if (kind === "optional") yield* leavesOf(node.item, true);
  else if (node.element) yield* leavesOf(node.element, true);
  else for (const item of node.items ?? []) yield* leavesOf(item, optional);
}

/** Returns the leaf that a flat name belongs to, such as xs.* for xs.3. */
export function leafOf(leaves, name) {
  return (
    leaves.find((leaf) => leaf.name === name) ??
    leaves.find((leaf) => leaf.open && patternOf(leaf.name).test(name))
  );
}

/** Such as float32[batch, 510]; a size that the archive leaves open is a ?. */
export function kindText({ kind, dtype, shape }) {
  if (kind !== "tensor") return kind;
  return `${dtype}[${shape.map((size) => size ?? "?").join(", ")}]`;
}

function patternOf(name) {
  const parts = name.split("*").map((part) => part.replace(/[.+?^${}()|[\]\\]/g, "\\$&"));
  return new RegExp(`^${parts.join("(.+)")}$`, "s");
}
