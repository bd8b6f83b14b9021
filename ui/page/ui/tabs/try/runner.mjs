/** Calls of a method, or steps of a sequence. */

import { repeated } from "../../engine/batches.mjs";
import { save } from "../../parts/save.mjs";

/** Runs one method of one model. */
export class Runner {
  #context;
  #model;
  #method;
  #session = null;
  #from = null;

  constructor(context, model, method) {
    this.#context = context;
    this.#model = model;
    this.#method = method;
    this.steps = 0;
  }

  /** Repeats the rows of inputs. */
  batch(inputs, times) {
    return repeated(this.#method.inputs, inputs, checked(times));
  }

  /** Repeats the rows of golden outputs in the same way. */
  batchOutputs(outputs, times) {
    return repeated(this.#method.outputs, outputs, checked(times));
  }

  /** One call without a sequence. */
  call(inputs) {
    const { name, version } = this.#model;
    return this.#context.engine.call(name, this.#method.name, inputs, { version });
  }

  /** The next step of the sequence, which it begins if there is none; `from` is the step of a golden case. */
  async step(inputs, from) {
    const { name, version } = this.#model;
    const id = `page-${crypto.getRandomValues(new Uint32Array(2)).join("-")}`;
    this.#session ??= await this.#context.engine.session(name, this.#method.name, { version, id });
    const follows = this.follows(from.case, from.number);
    const found = await this.#session.step(inputs);
    this.steps++;
    this.#from = follows ? { case: from.case, number: from.number } : null;
    return found;
  }

  /** Whether a golden step comes next in this sequence, so that its outputs are to be expected. */
  follows(known, number) {
    if (this.steps === 0) return number === 0;
    return this.#from?.case === known && this.#from.number + 1 === number;
  }

  /** Lets the visitor save the state of the sequence. */
  async saveState() {
    save(`${this.#model.name}-step-${this.steps}.safetensors`, await this.#session.exportState());
  }

  /** Ends the sequence, if there is one. */
  async end() {
    const session = this.#session;
    this.#session = this.#from = null;
    this.steps = 0;
    await session?.end();
  }
}

function checked(times) {
  if (!Number.isInteger(times) || times < 1 || times > 4096)
    throw new Error(`rows: expected 1 to 4096 times, got ${times}`);
  return times;
}
