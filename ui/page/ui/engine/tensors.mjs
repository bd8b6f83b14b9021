/** Tensors as the page passes them between forms, engines and charts. */

import { fromBfloat16, fromFloat16, toBfloat16, toFloat16 } from "./half.mjs";

const number = { decode: (value) => value, encode: Number };
const big = { decode: (value) => value, encode: BigInt };
const bool = { decode: (value) => value !== 0, encode: (value) => (value ? 1 : 0) };
const float16 = { decode: fromFloat16, encode: (value) => toFloat16(Number(value)) };
const bfloat16 = { decode: fromBfloat16, encode: (value) => toBfloat16(Number(value)) };

/**
 * The dtypes of an archive, by the manifest's names: the array that holds the elements, the names of the
 * Open Inference Protocol and of safetensors, and how an element becomes a value.
 */
export const DTYPES = {
  bool: { array: Uint8Array, wire: "BOOL", safetensors: "BOOL", ...bool },
  uint8: { array: Uint8Array, wire: "UINT8", safetensors: "U8", ...number, least: 0, most: 255 },
  uint16: { array: Uint16Array, wire: "UINT16", safetensors: "U16", ...number, least: 0, most: 65535 },
  uint32: { array: Uint32Array, wire: "UINT32", safetensors: "U32", ...number, least: 0, most: 2 ** 32 - 1 },
  uint64: {
    array: BigUint64Array,
    wire: "UINT64",
    safetensors: "U64",
    ...big,
    least: 0n,
    most: 2n ** 64n - 1n,
  },
  int8: { array: Int8Array, wire: "INT8", safetensors: "I8", ...number, least: -128, most: 127 },
  int16: { array: Int16Array, wire: "INT16", safetensors: "I16", ...number, least: -32768, most: 32767 },
  int32: {
    array: Int32Array,
    wire: "INT32",
    safetensors: "I32",
    ...number,
    least: -(2 ** 31),
    most: 2 ** 31 - 1,
  },
  int64: {
    array: BigInt64Array,
    wire: "INT64",
    safetensors: "I64",
    ...big,
    least: -(2n ** 63n),
    most: 2n ** 63n - 1n,
  },
  float16: { array: Uint16Array, wire: "FP16", safetensors: "F16", float: true, ...float16 },
  bfloat16: { array: Uint16Array, wire: "BF16", safetensors: "BF16", float: true, ...bfloat16 },
  float32: { array: Float32Array, wire: "FP32", safetensors: "F32", float: true, ...number },
  float64: { array: Float64Array, wire: "FP64", safetensors: "F64", float: true, ...number },
};

/** The manifest's name of a dtype by a name of the Open Inference Protocol, such as FP32. */
export const BY_WIRE = Object.fromEntries(Object.entries(DTYPES).map(([name, { wire }]) => [wire, name]));

/** The manifest's name of a dtype by a name of safetensors, such as F32. */
export const BY_SAFETENSORS = Object.fromEntries(
  Object.entries(DTYPES).map(([name, { safetensors }]) => [safetensors, name]),
);

/** Returns the number of elements of a shape. */
export const countOf = (shape) => shape.reduce((product, size) => product * size, 1);

/** Elements in row-major order; `data` is a typed array, of 16-bit floats their bits. */
export class Tensor {
  /** Throws if there are not as many elements as the shape says, or the array is of another kind. */
  constructor(dtype, shape, data) {
    const known = DTYPES[dtype];
    if (!known) throw new Error(`expected a dtype out of ${Object.keys(DTYPES).join(", ")}, got '${dtype}'`);
    if (!(data instanceof known.array))
      throw new Error(`${dtype}: expected ${known.array.name}, got ${data?.constructor?.name}`);
    if (data.length !== countOf(shape))
      throw new Error(`expected ${countOf(shape)} elements for ${dtype}[${shape}], got ${data.length}`);
    this.dtype = dtype;
    this.shape = [...shape];
    this.data = data;
  }

  /** Makes a tensor of numbers (bigints or numbers for 64-bit integers, truth values for bool). */
  static of(dtype, shape, values) {
    const { array, encode } = DTYPES[dtype];
    return new Tensor(
      dtype,
      shape,
      array.from(values, (value) => encode(value)),
    );
  }

  /** Makes a tensor of little-endian bytes, which are copied. */
  static fromBytes(dtype, shape, bytes) {
    const { array } = DTYPES[dtype];
    const expected = countOf(shape) * array.BYTES_PER_ELEMENT;
    if (bytes.byteLength !== expected)
      throw new Error(`expected ${expected} bytes for ${dtype}[${shape}], got ${bytes.byteLength}`);
    return new Tensor(dtype, shape, new array(bytes.slice().buffer));
  }

  /** Makes a vector of the bytes of a text, which is how an archive stores strings. */
  static text(value) {
    const bytes = new TextEncoder().encode(value);
    return new Tensor("uint8", [bytes.length], bytes);
  }

  get count() {
    return this.data.length;
  }

  /** The elements as bytes, which share the memory. */
  get bytes() {
    return new Uint8Array(this.data.buffer, this.data.byteOffset, this.data.byteLength);
  }

  /** Such as float32[2, 510]. */
  get kind() {
    return `${this.dtype}[${this.shape.join(", ")}]`;
  }

  /** The value of one element: a number, a bigint or a truth value. */
  at(index) {
    return DTYPES[this.dtype].decode(this.data[index]);
  }

  /** All values, in an ordinary array. */
  values() {
    return Array.from(this.data, DTYPES[this.dtype].decode);
  }

  /** All values as numbers, for charts; 64-bit integers lose what a double does not hold. */
  numbers() {
    return Float64Array.from(this.data, (value) => Number(DTYPES[this.dtype].decode(value)));
  }

  /** The text whose UTF-8 these bytes are. */
  asText() {
    return new TextDecoder().decode(this.bytes);
  }

  /** Returns the tensor `times` times, one after the other along a dimension. */
  repeat(times, axis = 0) {
    return concatenate(Array(times).fill(this), axis);
  }
}

/** Joins tensors of one dtype, whose shapes differ in one dimension at most, along it. */
export function concatenate(tensors, axis = 0) {
  const [{ dtype, shape }] = tensors;
  const inner = countOf(shape.slice(axis + 1));
  const outer = countOf(shape.slice(0, axis));
  const size = tensors.reduce((sum, tensor) => sum + tensor.shape[axis], 0);
  const data = new DTYPES[dtype].array(outer * size * inner);
  let at = 0;
  for (let o = 0; o < outer; o++)
    for (const tensor of tensors) {
      const step = tensor.shape[axis] * inner;
      data.set(tensor.data.subarray(o * step, (o + 1) * step), at);
      at += step;
    }
  return new Tensor(
    dtype,
    shape.map((old, place) => (place === axis ? size : old)),
    data,
  );
}
