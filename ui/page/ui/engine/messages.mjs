/** Requests and answers of the Open Inference Protocol as bytes: JSON, and tensors after it. */

import { leafOf } from "./archive.mjs";
import { BY_WIRE, DTYPES, Tensor } from "./tensors.mjs";

/**
 * Writes a request for a method with inputs by flat name: { head, parts }, the JSON and the bytes of each
 * tensor. `outputs` names those that are wanted; all of them, if it is left out.
 */
export function requestOf(method, inputs, parameters, outputs) {
  const tensors = [];
  const parts = [];
  for (const [name, tensor] of Object.entries(inputs)) {
    const [datatype, shape, bytes] = onWire(leafOf(method.inputs, name), tensor);
    tensors.push({ name, datatype, shape, parameters: { binary_data_size: bytes.length } });
    parts.push(bytes);
  }
  const request = { inputs: tensors, parameters: { binary_data_output: true, ...parameters } };
  if (outputs) request.outputs = outputs.map((name) => ({ name }));
  return { head: new TextEncoder().encode(JSON.stringify(request)), parts };
}

/** Reads the tensors of an answer. */
export function readAnswer(head, bytes) {
  const outputs = {};
  let at = 0;
  for (const { name, datatype, shape, data, parameters } of head.outputs) {
    const size = parameters?.binary_data_size;
    if (size === undefined) outputs[name] = Tensor.of(BY_WIRE[datatype], shape, data);
    else outputs[name] = Tensor.fromBytes(BY_WIRE[datatype], shape, bytes.subarray(at, (at += size)));
  }
  return outputs;
}

/** Puts byte arrays one after the other. */
export function joined(parts) {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

/** The datatype, shape and bytes of an input; a text is one element of BYTES behind its length. */
function onWire(leaf, tensor) {
  if (leaf?.kind !== "str") return [DTYPES[tensor.dtype].wire, tensor.shape, tensor.bytes];
  const length = new Uint8Array(4);
  new DataView(length.buffer).setUint32(0, tensor.count, true);
  return ["BYTES", [1], joined([length, tensor.bytes])];
}
