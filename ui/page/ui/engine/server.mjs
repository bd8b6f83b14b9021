/** The engine with a server behind it: the Open Inference Protocol, with binary tensors. */

import { Archive } from "./archive.mjs";
import { jsonLines } from "./lines.mjs";
import { joined, readAnswer, requestOf } from "./messages.mjs";
import { HttpSequence, SocketSequence } from "./sequences.mjs";

const HEADER_LENGTH = "Inference-Header-Content-Length";

/** Asks a server; all addresses are relative to the page. */
export class ServerEngine {
  form = "server";
  #askForKey;
  #key = null;
  #asking = null;
  #archives = new Map();
  #browserModels = new Map();

  /** `askForKey(message)` asks the visitor for an API key, and gives null if there will be none. */
  constructor(askForKey) {
    this.#askForKey = askForKey;
  }

  /** Every archive that the server knows: [{ name, version, state, reason }]. */
  async models() {
    const response = await this.fetch("v2/repository/index", { method: "POST" });
    return response.json();
  }

  /** What is known of an archive; asked for once. */
  archive(name, version) {
    return kept(this.#archives, `${name}/${version}`, async () => {
      const address = `${modelPath(name, version)}/archive`;
      const facts = await (await this.fetch(address)).json();
      return new Archive(facts, async () => (await this.fetch(`${address}/golden`)).arrayBuffer());
    });
  }

  /** Forgets what is known of an archive, because another one came in its place. */
  forget(name, version) {
    this.#archives.delete(`${name}/${version}`);
    this.#browserModels.delete(`${name}/${version}`);
  }

  /** Calls a method; gives { outputs: {name: Tensor}, microseconds }. */
  async call(name, method, inputs, { version, outputs, signal, parameters } = {}) {
    const known = (await this.archive(name, version)).methods[method];
    const request = requestOf(known, inputs, { method, ...parameters }, outputs);
    const started = performance.now();
    const { head, bytes } = await this.infer(name, version, request, signal);
    return { outputs: readAnswer(head, bytes), microseconds: (performance.now() - started) * 1000 };
  }

  /** Sends the parts of a request; gives the JSON of the answer, and the bytes after it. */
  async infer(name, version, { head, parts }, signal) {
    const response = await this.fetch(`${modelPath(name, version)}/infer`, {
      method: "POST",
      headers: { "Content-Type": "application/octet-stream", [HEADER_LENGTH]: String(head.length) },
      body: joined([head, ...parts]),
      signal,
    });
    const length = response.headers.get(HEADER_LENGTH);
    const whole = new Uint8Array(await response.arrayBuffer());
    const end = length === null ? whole.length : Number(length);
    return { head: JSON.parse(new TextDecoder().decode(whole.subarray(0, end))), bytes: whole.subarray(end) };
  }

  /**
   * Begins a sequence of steps. With an `id`, steps are requests, and the server's state can be exported;
   * without, they are messages of a WebSocket, which is faster.
   */
  async session(name, method, { version, id } = {}) {
    const known = (await this.archive(name, version)).methods[method];
    // The server streams sequences; what has no state is one request after the other.
    if (!known.state.length)
      return { step: (inputs) => this.call(name, method, inputs, { version }), restart: () => {}, end: async () => {} };
    if (id !== undefined) return new HttpSequence(this, name, known, { version, id });
    const address = new URL(`${modelPath(name, version)}/stream`, document.baseURI);
    address.protocol = address.protocol.replace("http", "ws");
    return SocketSequence.open(address, known, this.#key);
  }

  /** Loads the same archive, compiled to WebAssembly, into this page. */
  browserModel(name, version) {
    return kept(this.#browserModels, `${name}/${version}`, async () => {
      const { BrowserModel } = await import("./browser.mjs");
      const response = await this.fetch(`${modelPath(name, version)}/archive/wasm/model.wasm`);
      return BrowserModel.load(await this.archive(name, version), await response.arrayBuffer());
    });
  }

  /** Has the server run `verify` of an archive; yields its events as they come. */
  async *verify(name, version, runtimes, signal) {
    const query = new URLSearchParams(runtimes.map((runtime) => ["runtime", runtime]));
    const path = `${modelPath(name, version)}/verify?${query}`;
    yield* jsonLines(await this.fetch(path, { method: "POST", signal }));
  }

  /**
   * Fetches what lies at an address relative to the page. Asks for a key when the server wants one; any
   * other refusal becomes an Error with the server's own words.
   */
  async fetch(path, options = {}) {
    for (;;) {
      const key = this.#key;
      const headers = { ...options.headers, ...(key ? { "X-API-Key": key } : {}) };
      const response = await fetch(new URL(path, document.baseURI), { ...options, headers });
      if (response.ok) return response;
      const message = await wordsOf(response);
      if (response.status !== 401) throw new Error(message);
      if (key === this.#key && !(await this.#renewKey(message))) throw new Error(message);
    }
  }

  /** Asks the visitor for a key; many requests that are refused at once ask once. */
  async #renewKey(message) {
    this.#asking ??= this.#askForKey(message).finally(() => (this.#asking = null));
    const key = await this.#asking;
    if (key) this.#key = key;
    return Boolean(key);
  }
}

/** The path of a model below the page; of its newest version if none is given. */
export function modelPath(name, version) {
  const path = `v2/models/${encodeURIComponent(name)}`;
  return version ? `${path}/versions/${encodeURIComponent(version)}` : path;
}

async function wordsOf(response) {
  const text = await response.text();
  try {
    return JSON.parse(text).error ?? text;
  } catch {
    return text || `${response.status} ${response.statusText}`;
  }
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
