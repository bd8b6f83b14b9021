/**
 * Makes a digit look like those of MNIST: the ink's bounding box is scaled to 20 × 20 with its aspect
 * ratio kept, every new pixel the mean of the area it covers, and placed so that the centre of mass lies
 * in the middle of 28 × 28 pixels. Source: LeCun, Cortes and Burges, "The MNIST database".
 */

export const SIDE = 28;
const BOX = 20;
const MIDDLE = SIDE / 2 + 0.5; // the middle of pixel 14, counted from 0, as in MNIST's own images
const LEAST_CONTRAST = 24; // of 255; below it, nothing was drawn
const SPECK = 0.02; // of the largest part's ink; smaller parts are dust

/**
 * Returns the digit in `ink`, 0 to 255 row by row, as uint8[28 * 28]; null if there is none. An image of
 * MNIST stays as it is.
 */
export function digitOf(ink, width, height) {
  const box = boundsOf(ink, width, height);
  if (!box) return null;
  const scale = BOX / Math.max(box.right - box.left, box.bottom - box.top);
  const [columns, rows] = [box.right - box.left, box.bottom - box.top].map((size) =>
    Math.max(1, Math.round(size * scale)),
  );
  const small = resampled(ink, width, box, columns, rows);
  const { x, y } = massOf(small, columns, rows);
  const left = clamp(Math.round(MIDDLE - x), columns);
  const top = clamp(Math.round(MIDDLE - y), rows);
  const digit = new Uint8Array(SIDE * SIDE);
  for (let row = 0; row < rows; row++)
    for (let column = 0; column < columns; column++)
      digit[(top + row) * SIDE + left + column] = Math.round(small[row * columns + column]);
  return digit;
}

/**
 * Returns the ink of a photo or picture, float32 0 to 255 row by row, from its RGBA bytes. The background is
 * what its border shows; dark writing on a light ground is turned around; what is no stronger than the
 * border's own noise is ground, and the strongest ink becomes 255. Null if there is no contrast.
 */
export function inkOf(rgba, width, height) {
  const grey = new Float32Array(width * height);
  for (let at = 0; at < grey.length; at++) {
    const [red, green, blue, alpha] = rgba.subarray(4 * at, 4 * at + 4);
    // Transparent pixels are paper.
    grey[at] = (0.299 * red + 0.587 * green + 0.114 * blue) * (alpha / 255) + 255 - alpha;
  }
  const border = borderOf(grey, width, height);
  const ground = quantile(border, 0.5);
  const noise =
    quantile(
      border.map((value) => Math.abs(value - ground)),
      0.95,
    ) * 1.5;
  const least = grey.reduce((a, b) => Math.min(a, b));
  const most = grey.reduce((a, b) => Math.max(a, b));
  const dark = ground - least > most - ground; // the writing is darker than its ground
  const contrast = dark ? ground - least : most - ground;
  if (contrast < LEAST_CONTRAST || contrast <= noise) return null;
  const ink = grey.map((value) => {
    const strength = dark ? ground - value : value - ground;
    return strength <= noise ? 0 : ((strength - noise) / (contrast - noise)) * 255;
  });
  return noise > 0 ? withoutSpecks(ink, width, height) : ink;
}

function boundsOf(ink, width, height) {
  const box = { left: width, top: height, right: 0, bottom: 0 };
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++)
      if (ink[y * width + x] > 0) {
        box.left = Math.min(box.left, x);
        box.right = Math.max(box.right, x + 1);
        box.top = Math.min(box.top, y);
        box.bottom = Math.max(box.bottom, y + 1);
      }
  return box.right > box.left ? box : null;
}

/** The part of an image in a box, at another size: each pixel is the mean of the area it covers. */
function resampled(ink, width, box, columns, rows) {
  const across = overlaps(box.right - box.left, columns);
  const down = overlaps(box.bottom - box.top, rows);
  const result = new Float64Array(columns * rows);
  down.forEach((parts, row) => {
    for (const [y, tall] of parts)
      across.forEach((pieces, column) => {
        for (const [x, wide] of pieces)
          result[row * columns + column] += tall * wide * ink[(box.top + y) * width + box.left + x];
      });
  });
  return result;
}

/** For each of `to` pixels, which of `from` it covers, and how much of itself each of them is. */
function overlaps(from, to) {
  const step = from / to;
  return Array.from({ length: to }, (_, number) => {
    const [start, end] = [number * step, (number + 1) * step];
    const parts = [];
    for (let at = Math.floor(start); at < Math.min(from, Math.ceil(end)); at++)
      parts.push([at, (Math.min(end, at + 1) - Math.max(start, at)) / step]);
    return parts;
  });
}

function massOf(image, columns, rows) {
  let [sum, x, y] = [0, 0, 0];
  for (let row = 0; row < rows; row++)
    for (let column = 0; column < columns; column++) {
      const value = image[row * columns + column];
      sum += value;
      x += value * (column + 0.5);
      y += value * (row + 0.5);
    }
  return { x: x / sum, y: y / sum };
}

const clamp = (start, size) => Math.min(Math.max(0, start), SIDE - size);

function borderOf(grey, width, height) {
  const border = [];
  for (let x = 0; x < width; x++) border.push(grey[x], grey[(height - 1) * width + x]);
  for (let y = 0; y < height; y++) border.push(grey[y * width], grey[y * width + width - 1]);
  return border;
}

function quantile(values, part) {
  const sorted = Float64Array.from(values).sort();
  return sorted[Math.min(sorted.length - 1, Math.floor(part * sorted.length))];
}

/** Leaves out parts that have much less ink than the largest one. */
function withoutSpecks(ink, width, height) {
  const part = new Int32Array(ink.length);
  const sums = [0];
  for (let first = 0; first < ink.length; first++) {
    if (!ink[first] || part[first]) continue;
    const number = sums.push(0) - 1;
    const waiting = [first];
    part[first] = number;
    while (waiting.length) {
      const at = waiting.pop();
      sums[number] += ink[at];
      const [x, y] = [at % width, Math.floor(at / width)];
      for (const [u, v] of [
        [x - 1, y],
        [x + 1, y],
        [x, y - 1],
        [x, y + 1],
      ]) {
        const other = v * width + u;
        if (u < 0 || v < 0 || u >= width || v >= height || !ink[other] || part[other]) continue;
        part[other] = number;
        waiting.push(other);
      }
    }
  }
  const least = SPECK * Math.max(...sums);
  return ink.map((value, at) => (sums[part[at]] >= least ? value : 0));
}
