/** Numbers, sizes and times as people read them. */

const whole = new Intl.NumberFormat("en");

/** 168,856 */
export const count = (value) => whole.format(value);

/** 945 kB */
export function bytes(value) {
  if (value < 1000) return `${value} bytes`;
  const units = ["kB", "MB", "GB"];
  const power = Math.min(Math.floor(Math.log10(value) / 3), units.length);
  const scaled = value / 1000 ** power;
  return `${scaled >= 100 ? Math.round(scaled) : scaled.toFixed(1)} ${units[power - 1]}`;
}

/** 310 µs, 1.2 ms, 3.4 s */
export function duration(microseconds) {
  if (!Number.isFinite(microseconds)) return "–";
  if (microseconds < 1000) return `${Math.round(microseconds)} µs`;
  if (microseconds < 1e6) return `${short(microseconds / 1000)} ms`;
  return `${short(microseconds / 1e6)} s`;
}

/** The time of a call in this browser, whose clock ticks every 0.1 ms. */
export const spent = (microseconds) => (microseconds < 100 ? "under 0.1 ms" : duration(microseconds));

/** A difference or a tolerance: 0, 1.2e-7. */
export function difference(value) {
  if (value === 0 || value === 0n) return "0";
  if (typeof value === "bigint") return String(value);
  return Number.isFinite(value) ? value.toExponential(1) : String(value);
}

/** A value of a tensor, in a table or a text field: it reads back as the same value. */
export function value(of, dtype) {
  if (Object.is(of, -0)) return "-0";
  if (typeof of !== "number") return String(of);
  return String(dtype === "float64" ? of : shortest(of));
}

/** Few digits, for charts and headings. */
export function short(number) {
  if (!Number.isFinite(number)) return String(number);
  const size = Math.abs(number);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return number.toExponential(2);
  return String(Number(number.toPrecision(3)));
}

/** "1 output", "3 outputs" */
export const many = (number, what) => `${count(number)} ${what}${number === 1 ? "" : "s"}`;

/** 30 Nov 2026, 05:12 */
export function moment(iso) {
  const time = new Date(iso);
  if (Number.isNaN(time.getTime())) return iso;
  return time.toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" });
}

/** The shortest decimal that reads back as the same float32. */
function shortest(number) {
  if (Number.isInteger(number) || !Number.isFinite(number)) return number;
  for (let digits = 6; digits < 9; digits++) {
    const text = Number(number.toPrecision(digits));
    if (Math.fround(text) === number) return text;
  }
  return Number(number.toPrecision(9));
}
