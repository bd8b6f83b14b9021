/** The tab where a visitor draws a digit, and a model says what it sees. */

import { Tensor } from "../engine/tensors.mjs";
import { SIDE, digitOf, inkOf } from "../parts/digit.mjs";
import { button, element, failure, field, select } from "../parts/element.mjs";
import { spent } from "../parts/format.mjs";
import { Pad } from "../parts/pad.mjs";
import { STROKES } from "../parts/strokes.mjs";
import { stylesheet } from "../parts/stylesheet.mjs";

export const title = "Draw";

const PIXELS = SIDE * SIDE;
const CLASSES = 10;
const LARGEST = 560; // pixels of a side at which a photo is read

/** Returns how an archive reads digits: { method, input, output, logarithms }, or undefined. */
function readerOf(archive) {
  for (const method of Object.values(archive?.methods ?? {})) {
    const [input, ...others] = method.inputs;
    const size = input?.shape.slice(1).reduce((product, of) => product * of, 1);
    const output = method.outputs.find(
      ({ dtype, shape }) => dtype === "float32" && shape.at(-1) === CLASSES,
    );
    if (
      !others.length &&
      input?.dtype === "uint8" &&
      size === PIXELS &&
      typeof input.shape[0] !== "number" &&
      output
    )
      return { method: method.name, input, output };
  }
}

const readers = (models) => models.filter(({ archive }) => readerOf(archive));

/** Whether a model reads images of 28 × 28 pixels. */
export const fits = async (models) => readers(models).length > 0;

/** Shows the tab; `argument` may name the model. */
export async function mount(panel, context, argument) {
  await stylesheet("ui/tabs/draw.css");
  const desk = new Desk(panel, context, readers(context.models), argument);
  return () => desk.leave();
}

/** The pad, the digit as the model gets it, and its answer. */
class Desk {
  #context;
  #models;
  #model;
  #here;
  #busy = false;
  #waiting = null;
  #left = false;

  constructor(panel, context, models, argument) {
    this.#context = context;
    this.#models = models;
    this.#model = models.find(({ name }) => name === argument) ?? models[0];
    this.#here = context.engine.form !== "server";
    this.pad = new Pad(() => this.#read());
    this.small = element("canvas", { class: "picture", width: SIDE, height: SIDE, role: "img" });
    this.small.setAttribute("aria-label", "The digit as the model gets it, 28 × 28 pixels");
    this.answer = element("p", { class: "seen" }, "Draw a digit.");
    this.bars = element("div", { class: "bars" });
    this.time = element("p", { class: "muted small" });
    this.problem = element("div", {});
    this.cases = element("select", { onchange: () => this.#choose() });
    this.#layOut(panel);
    this.#fill();
  }

  leave() {
    this.#left = true;
  }

  #layOut(panel) {
    const file = element("input", {
      type: "file",
      accept: "image/*",
      onchange: () => this.#photo(file.files[0]),
    });
    const names = this.#models.map(({ name, version }, number) => [number, `${name} ${version}`]);
    const where = [
      ["server", "on the server"],
      ["browser", "in this browser"],
    ];
    const left = element(
      "div",
      { class: "card drop" },
      this.pad.canvas,
      element(
        "div",
        { class: "row" },
        button("Clear", () => this.#clear(), "primary"),
      ),
    );
    const otherWays = element(
      "div",
      { class: "card" },
      element(
        "div",
        { class: "fields" },
        field(
          "Model",
          select(names, this.#models.indexOf(this.#model), (number) => {
            this.#model = this.#models[number];
            this.#fill();
            this.#read();
          }),
        ),
        this.#context.engine.form === "server"
          ? field(
              "It runs",
              select(where, "server", (place) => {
                this.#here = place === "browser";
                this.#read();
              }),
            )
          : null,
      ),
      field("A photo or a picture", file, "Or drop it on the square."),
      field(
        "Without a pointer",
        this.cases,
        "A digit as a pen would draw it, or an image of the golden cases.",
      ),
    );
    left.addEventListener("dragover", (event) => event.preventDefault());
    left.addEventListener("drop", (event) => {
      event.preventDefault();
      this.#photo(event.dataTransfer.files[0]);
    });
    panel.append(
      element(
        "div",
        { class: "lead" },
        element("h1", {}, "Draw a digit"),
        element(
          "p",
          { class: "muted" },
          "It is centred and scaled as the images of MNIST are. The model answers while you draw.",
        ),
      ),
      element(
        "div",
        { class: "columns" },
        left,
        element(
          "div",
          { class: "card" },
          element("div", { class: "row" }, this.small, this.answer),
          this.bars,
          this.time,
          this.problem,
        ),
        otherWays,
      ),
    );
  }

  /** Fills the list with the golden images. */
  async #fill() {
    const { archive } = this.#model;
    const { method, input } = readerOf(archive);
    this.images = [];
    try {
      for (const { name, method: of, steps } of await archive.cases()) {
        const tensor = of === method ? steps[0].inputs[input.name] : null;
        for (let row = 0; tensor && row < tensor.shape[0]; row++)
          this.images.push({
            label: `${name}, row ${row}`,
            data: tensor.data.slice(row * PIXELS, (row + 1) * PIXELS),
          });
      }
    } catch (error) {
      this.#fail(error);
    }
    const option = (value, text) => element("option", { value }, text);
    this.cases.replaceChildren(
      option("", "choose …"),
      ...STROKES.map((_, digit) => option(`pen ${digit}`, `draw a ${digit}`)),
      ...this.images.map(({ label }, number) => option(number, label)),
    );
  }

  #choose() {
    const [, digit] = this.cases.value.split("pen ");
    if (digit) return this.pad.write(STROKES[digit]);
    const image = this.images[this.cases.value];
    if (!image) return;
    this.pad.show(image.data, SIDE, SIDE);
    this.#send(image.data); // as it is: it has the size already
  }

  #clear() {
    this.pad.clear();
    this.cases.value = "";
    this.#waiting = null;
    this.#showDigit(new Uint8Array(PIXELS));
    this.#empty("Draw a digit.");
  }

  #empty(text) {
    this.answer.textContent = text;
    delete this.answer.dataset.digit;
    this.bars.replaceChildren();
    this.time.textContent = "";
    this.problem.replaceChildren();
  }

  #read() {
    const { ink, width, height } = this.pad.ink();
    const digit = digitOf(ink, width, height);
    if (digit) this.#send(digit);
  }

  /** Reads a file that was dropped or chosen. */
  async #photo(file) {
    if (!file) return;
    try {
      const picture = await createImageBitmap(file).catch(() => {
        throw new Error(
          `'${file.name}': expected a picture, such as PNG or JPEG, got ${file.type || "another file"}`,
        );
      });
      const scale = Math.min(1, LARGEST / Math.max(picture.width, picture.height));
      const [width, height] = [picture.width, picture.height].map((size) =>
        Math.max(1, Math.round(size * scale)),
      );
      const context = new OffscreenCanvas(width, height).getContext("2d");
      context.drawImage(picture, 0, 0, width, height);
      const ink = inkOf(context.getImageData(0, 0, width, height).data, width, height);
      const digit = ink && digitOf(ink, width, height);
      if (!digit)
        throw new Error(`'${file.name}': found no digit: expected one that stands out from its ground`);
      this.pad.show(ink, width, height);
      this.#send(digit);
    } catch (error) {
      this.#empty("");
      this.#fail(error);
    }
  }

  /** Asks the model; while it answers, only the newest digit waits. */
  async #send(digit) {
    this.#showDigit(digit);
    this.#waiting = digit;
    if (this.#busy) return;
    this.#busy = true;
    try {
      while (this.#waiting && !this.#left) {
        const next = this.#waiting;
        this.#waiting = null;
        const answer = await this.#ask(next);
        if (!this.#waiting) this.#show(answer);
      }
    } catch (error) {
      this.#fail(error);
    } finally {
      this.#busy = false;
    }
  }

  async #ask(digit) {
    const { engine } = this.#context;
    const { name, version, archive } = this.#model;
    const { method, input, output } = readerOf(archive);
    const inputs = { [input.name]: new Tensor("uint8", [1, ...input.shape.slice(1)], digit) };
    const runs = this.#here ? await engine.browserModel(name, version) : null;
    const answer = runs
      ? await runs.call(method, inputs)
      : await engine.call(name, method, inputs, { version });
    return { values: answer.outputs[output.name].numbers(), microseconds: answer.microseconds };
  }

  #show({ values, microseconds }) {
    const { archive } = this.#model;
    const labels = archive.labels(readerOf(archive).output.name) ?? [...values.keys()].map(String);
    const parts = probabilities(values);
    const best = parts.indexOf(Math.max(...parts));
    this.problem.replaceChildren();
    this.answer.textContent = `${labels[best]}`;
    this.answer.dataset.digit = labels[best];
    this.#context.announce(`${labels[best]}, ${percent(parts[best])}`);
    const where = this.#here ? "in this browser" : "by the server";
    this.time.textContent = `Answered in ${spent(microseconds)}, ${where}.`;
    this.bars.replaceChildren(
      ...parts.flatMap((part, number) => {
        const fill = element("div", { class: number === best ? "fill best" : "fill" });
        fill.style.width = `${100 * part}%`;
        return [
          element("span", {}, labels[number]),
          element("div", { class: "track" }, fill),
          element("span", { class: "value" }, percent(part)),
        ];
      }),
    );
  }

  #showDigit(digit) {
    const context = this.small.getContext("2d");
    const pixels = context.createImageData(SIDE, SIDE);
    digit.forEach((value, at) => pixels.data.set([value, value, value, 255], 4 * at));
    context.putImageData(pixels, 0, 0);
  }

  #fail(error) {
    this.problem.replaceChildren(failure(error));
  }
}

/** Softmax; logarithms of probabilities stay what they are. */
function probabilities(values) {
  const most = Math.max(...values);
  const powers = Array.from(values, (value) => Math.exp(value - most));
  const sum = powers.reduce((a, b) => a + b);
  return powers.map((power) => power / sum);
}

const percent = (part) => `${(100 * part).toFixed(1)} %`;
