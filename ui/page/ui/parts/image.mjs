/** Tensors that are pictures, by their shape. */

import { element } from "./element.mjs";

const LEAST = 8; // pixels on a side
const MOST = 1024;
const SQUARES = { 784: 28, 1024: 32 };

/**
 * Returns how the rows of a tensor are pictures: { count, height, width, channels }, or null. Rows of gray
 * or colour planes are, such as [n, 28, 28], [n, 1, 28, 28] and [n, 3, 32, 32], and flat rows of
 * 784 = 28 x 28.
 */
export function pictureShape({ dtype, shape }) {
  if (!["uint8", "float32"].includes(dtype) || shape.length < 2) return null;
  const sides = (height, width) => [height, width].every((side) => side >= LEAST && side <= MOST);
  const [height, width] = shape.slice(-2);
  if (shape.length === 2 && SQUARES[width])
    return { count: height, channels: 1, height: SQUARES[width], width: SQUARES[width] };
  if (!sides(height, width) || shape.length > 4) return null;
  if (shape.length === 2) return { count: 1, channels: 1, height, width };
  if (shape.length === 3 && [1, 3].includes(shape[0])) return { count: 1, channels: shape[0], height, width };
  if (shape.length === 3) return { count: shape[0], channels: 1, height, width };
  return [1, 3].includes(shape[1]) ? { count: shape[0], channels: shape[1], height, width } : null;
}

/** Draws one row of a tensor that is a picture; values are scaled to what a screen shows. */
export function picture(tensor, label, row = 0) {
  const { channels, height, width } = pictureShape(tensor);
  const canvas = element("canvas", { class: "picture", width, height, role: "img", "aria-label": label });
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(width, height);
  const plane = height * width;
  const values = tensor.data.subarray(row * channels * plane, (row + 1) * channels * plane);
  const finite = values.filter(Number.isFinite);
  const least = finite.reduce((a, b) => Math.min(a, b), 0);
  const most = finite.reduce((a, b) => Math.max(a, b), tensor.dtype === "uint8" ? 1 : 1e-12);
  for (let at = 0; at < plane; at++) {
    for (let colour = 0; colour < 3; colour++) {
      const value = values[(channels === 3 ? colour : 0) * plane + at];
      pixels.data[4 * at + colour] = (255 * (value - least)) / (most - least);
    }
    pixels.data[4 * at + 3] = 255;
  }
  context.putImageData(pixels, 0, 0);
  return canvas;
}
