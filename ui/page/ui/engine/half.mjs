/** Conversions of the two 16-bit floating-point formats, for which JavaScript has no arrays. */

const scratch = new DataView(new ArrayBuffer(4));

/** Returns the number that the 16 bits of an IEEE binary16 stand for. */
export function fromFloat16(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/** Returns the 16 bits of the binary16 nearest to a number; ties go to the even one. */
export function toFloat16(value) {
  const sign = value < 0 || Object.is(value, -0) ? 0x8000 : 0;
  const size = Math.abs(value);
  if (Number.isNaN(value)) return 0x7e00;
  if (size >= 65520) return sign | 0x7c00;
  const exponent = Math.max(size ? Math.floor(Math.log2(size)) : -14, -14);
  const exact = exponent > -14 && size < 2 ** exponent ? exponent - 1 : exponent; // log2 may round up
  const units = toEven(size / 2 ** (exact - 10));
  // A fraction that is rounded up to 2048 carries into the exponent, as it should.
  return sign | (exact === -14 ? units : ((exact + 14) << 10) + units);
}

/** Returns the number that the 16 bits of a bfloat16 stand for. */
export function fromBfloat16(bits) {
  scratch.setUint32(0, bits << 16);
  return scratch.getFloat32(0);
}

/** Returns the 16 bits of the bfloat16 nearest to a number; ties go to the even one. */
export function toBfloat16(value) {
  if (Number.isNaN(value)) return 0x7fc0;
  scratch.setFloat32(0, value);
  const bits = scratch.getUint32(0);
  return ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16) & 0xffff;
}

function toEven(value) {
  const floor = Math.floor(value);
  const rest = value - floor;
  if (rest !== 0.5) return Math.round(value);
  return floor % 2 ? floor + 1 : floor;
}
