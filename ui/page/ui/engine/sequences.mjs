/** Sequences whose recurrent state the server keeps. */

import { joined, readAnswer, requestOf } from "./messages.mjs";

const LENGTH = 4; // bytes of the JSON's length in a binary message

/** Steps as requests with a sequence id: its state can be exported while it lives. */
export class HttpSequence {
  #engine;
  #name;
  #method;
  #version;
  #started = false;

  constructor(engine, name, method, { version, id }) {
    this.#engine = engine;
    this.#name = name;
    this.#method = method;
    this.#version = version;
    this.id = id;
  }

  /** Runs one step; gives { outputs, microseconds }. */
  async step(inputs) {
    const parameters = { method: this.#method.name, sequence_id: this.id };
    if (!this.#started) parameters.sequence_start = true;
    const request = requestOf(this.#method, inputs, parameters);
    const started = performance.now();
    const { head, bytes } = await this.#engine.infer(this.#name, this.#version, request);
    this.#started = true;
    return { outputs: readAnswer(head, bytes), microseconds: (performance.now() - started) * 1000 };
  }

  /** The state as the bytes of a safetensors file. */
  async exportState() {
    return new Uint8Array(await (await this.#engine.fetch(`${this.#path}/state`)).arrayBuffer());
  }

  /** Frees the state; nothing else can be done with the sequence afterwards. */
  async end() {
    if (this.#started) await this.#engine.fetch(this.#path, { method: "DELETE" });
    this.#started = false;
  }

  get #path() {
    return `v2/models/${encodeURIComponent(this.#name)}/sequences/${encodeURIComponent(this.id)}`;
  }
}

/** Steps as binary messages of a WebSocket, one answer each; its state lives as long as the socket. */
export class SocketSequence {
  #socket;
  #method;
  #started = false;
  #waiting = [];

  /** Opens the socket; the key, if there is one, goes along as a subprotocol. */
  static open(address, method, key) {
    const protocols = key ? ["torchship", `torchship.key.${base64url(key)}`] : ["torchship"];
    const socket = new WebSocket(address, protocols);
    socket.binaryType = "arraybuffer";
    return new Promise((resolve, reject) => {
      socket.onopen = () => resolve(new SocketSequence(socket, method));
      socket.onerror = () => reject(new Error(`the stream ${address.pathname} was refused`));
    });
  }

  constructor(socket, method) {
    this.#socket = socket;
    this.#method = method;
    socket.onmessage = ({ data }) => this.#waiting.shift()?.resolve(data);
    socket.onerror = () => {};
    socket.onclose = ({ reason }) => {
      const error = new Error(reason || "the server has closed the stream");
      for (const { reject } of this.#waiting.splice(0)) reject(error);
    };
  }

  /** Runs one step; gives { outputs, microseconds }. Further steps may be sent before it is answered. */
  async step(inputs) {
    if (this.#socket.readyState !== WebSocket.OPEN) throw new Error("the stream is closed");
    const starts = !this.#started;
    const parameters = { method: this.#method.name, ...(starts ? { sequence_start: true } : {}) };
    const { head, parts } = requestOf(this.#method, inputs, parameters);
    const length = new Uint8Array(LENGTH);
    new DataView(length.buffer).setUint32(0, head.length, true);
    const started = performance.now();
    this.#socket.send(joined([length, head, ...parts]));
    this.#started = true;
    const data = await new Promise((resolve, reject) => this.#waiting.push({ resolve, reject }));
    const microseconds = (performance.now() - started) * 1000;
    try {
      return { outputs: readMessage(data), microseconds };
    } catch (error) {
      if (starts) this.#started = false; // a first step that was refused has started nothing
      throw error;
    }
  }

  /** Begins anew with the next step. */
  restart() {
    this.#started = false;
  }

  async end() {
    this.#socket.close();
  }
}

function readMessage(data) {
  if (typeof data === "string") {
    const head = JSON.parse(data);
    if (head.error) throw new Error(head.error);
    return readAnswer(head, new Uint8Array());
  }
  const bytes = new Uint8Array(data);
  const start = LENGTH + new DataView(data).getUint32(0, true);
  return readAnswer(
    JSON.parse(new TextDecoder().decode(bytes.subarray(LENGTH, start))),
    bytes.subarray(start),
  );
}

/** A subprotocol's name may have no padding, + or /. */
function base64url(text) {
  const bytes = new TextEncoder().encode(text);
  return btoa(String.fromCharCode(...bytes))
    .replace(/\+/g, "-")
    .replace(/\//g, "_")
    .replace(/=+$/, "");
}
