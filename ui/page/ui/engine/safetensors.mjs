/** Reads and writes safetensors: named tensors behind a JSON header. */

import { BY_SAFETENSORS, DTYPES, Tensor } from "./tensors.mjs";

const METADATA = "__metadata__";
const LENGTH = 8; // bytes of the header's length

/** Reads a file's bytes as { tensors: {name: Tensor}, metadata: {name: text} }. */
export function readSafetensors(bytes) {
  const file = bytes instanceof ArrayBuffer ? new Uint8Array(bytes) : bytes;
  if (file.byteLength < LENGTH)
    throw new Error(`safetensors: expected ${LENGTH} bytes or more, got ${file.byteLength}`);
  const length = Number(new DataView(file.buffer, file.byteOffset).getBigUint64(0, true));
  const start = LENGTH + length;
  if (start > file.byteLength)
    throw new Error(`safetensors: the header announces ${length} bytes, and the file has ${file.byteLength}`);
  const { [METADATA]: metadata = {}, ...entries } = JSON.parse(
    new TextDecoder().decode(file.subarray(LENGTH, start)),
  );
  const tensors = {};
  for (const [
    name,
    {
      dtype,
      shape,
      data_offsets: [from, to],
    },
  ] of Object.entries(entries)) {
    const known = BY_SAFETENSORS[dtype];
    if (!known) throw new Error(`safetensors: tensor '${name}' has the unknown dtype '${dtype}'`);
    tensors[name] = Tensor.fromBytes(known, shape, file.subarray(start + from, start + to));
  }
  return { tensors, metadata };
}

/** Returns the bytes of a file with these tensors. */
export function writeSafetensors(tensors, metadata = {}) {
  const header = Object.keys(metadata).length ? { [METADATA]: metadata } : {};
  let end = 0;
  for (const [name, tensor] of Object.entries(tensors)) {
    const from = end;
    end += tensor.bytes.length;
    header[name] = {
      dtype: DTYPES[tensor.dtype].safetensors,
      shape: tensor.shape,
      data_offsets: [from, end],
    };
  }
  const text = new TextEncoder().encode(JSON.stringify(header));
  const padded = Math.ceil(text.length / 8) * 8; // the data begins aligned
  const file = new Uint8Array(LENGTH + padded + end).fill(0x20, LENGTH, LENGTH + padded);
  new DataView(file.buffer).setBigUint64(0, BigInt(padded), true);
  file.set(text, LENGTH);
  let at = LENGTH + padded;
  for (const tensor of Object.values(tensors)) {
    file.set(tensor.bytes, at);
    at += tensor.bytes.length;
  }
  return file;
}
