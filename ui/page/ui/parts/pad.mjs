/** A square to draw on with a mouse, a finger or a pen. */

import { element } from "./element.mjs";

const SIDE = 280; // pixels of the drawing
const PEN = 20;

/** Strokes on a canvas; `changed` is called as they grow. */
export class Pad {
  #context;
  #changed;
  #last = null;

  constructor(changed) {
    this.#changed = changed;
    this.canvas = element("canvas", { class: "pad", width: SIDE, height: SIDE, role: "img" });
    this.canvas.setAttribute("aria-label", "Draw a digit here, or choose one from the list below.");
    this.#context = this.canvas.getContext("2d", { willReadFrequently: true });
    this.canvas.addEventListener("pointerdown", (event) => this.#begin(event));
    this.canvas.addEventListener("pointermove", (event) => this.#go(event));
    for (const end of ["pointerup", "pointercancel"])
      this.canvas.addEventListener(end, () => (this.#last = null));
  }

  /** The ink, uint8 0 to 255 row by row, with width and height. */
  ink() {
    const { data } = this.#context.getImageData(0, 0, SIDE, SIDE);
    return {
      ink: Uint8Array.from({ length: SIDE * SIDE }, (_, at) => data[4 * at + 3]),
      width: SIDE,
      height: SIDE,
    };
  }

  /** Empties the pad. */
  clear() {
    this.#context.clearRect(0, 0, SIDE, SIDE);
  }

  /** Shows a picture, 0 to 255 row by row, in the middle of the pad. */
  show(picture, width, height) {
    const made = new OffscreenCanvas(width, height);
    const context = made.getContext("2d");
    const pixels = context.createImageData(width, height);
    picture.forEach((value, at) => pixels.data.set([...this.#colour(), value], 4 * at));
    context.putImageData(pixels, 0, 0);
    this.clear();
    const scale = SIDE / Math.max(width, height);
    const [w, h] = [width * scale, height * scale];
    this.#context.drawImage(made, (SIDE - w) / 2, (SIDE - h) / 2, w, h);
  }

  /** Draws lines of points in a square of 100 × 100, as if by hand. */
  write(strokes) {
    this.clear();
    for (const points of strokes) {
      const scaled = points.map((point) => point.map((value) => (value / 100) * SIDE));
      this.#last = scaled[0];
      for (const point of scaled) this.#line(point);
    }
    this.#last = null;
  }

  #begin(event) {
    event.preventDefault();
    this.canvas.setPointerCapture(event.pointerId);
    this.#last = this.#place(event);
    this.#line(this.#last);
  }

  #go(event) {
    if (!this.#last) return;
    const events = event.getCoalescedEvents?.() ?? [];
    for (const one of events.length ? events : [event]) this.#line(this.#place(one));
  }

  #line(to) {
    const context = this.#context;
    const [red, green, blue] = this.#colour();
    context.strokeStyle = `rgb(${red} ${green} ${blue})`;
    context.lineWidth = PEN;
    context.lineCap = context.lineJoin = "round";
    context.beginPath();
    context.moveTo(...this.#last);
    context.lineTo(to[0] + 0.01, to[1]); // a line of no length would not be drawn
    context.stroke();
    this.#last = to;
    this.#changed();
  }

  #place({ clientX, clientY }) {
    const { left, top, width, height } = this.canvas.getBoundingClientRect();
    return [((clientX - left) / width) * SIDE, ((clientY - top) / height) * SIDE];
  }

  /** The ink's colour follows the theme; how strong it is lies in its opacity. */
  #colour() {
    return getComputedStyle(this.canvas)
      .color.match(/[\d.]+/g)
      .slice(0, 3)
      .map(Number);
  }
}
