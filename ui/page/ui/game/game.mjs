/** The game of snake, cpp_runner/snake/game.c as WebAssembly: the same bits as in Python and in C++. */

export const ACTIONS = ["up", "down", "left", "right"];
export const [UP, DOWN, LEFT, RIGHT] = [0, 1, 2, 3];
export const [EMPTY, FOOD, CORPSE, WALL] = [0, 1, 2, 3];
/** Cells that a snake sees in each direction; also the thickness of the walls. */
export const REACH = 5;
const SIDE = 2 * REACH + 1;
const WINDOW = SIDE * SIDE;
const GOLDEN_GAMMA = 0x9e3779b97f4a7c15n;
const PAGE_BYTES = 65536;
const REFUSALS = {
  1: "every size must be 1 to 32,768",
  2: "snakes and food would fill more than half of the field",
};

/** Compiles the game, from its file beside this one or from bytes; one module serves many games. */
export async function compileGame(source = new URL("./game.wasm", import.meta.url)) {
  if (!(source instanceof URL)) return WebAssembly.compile(source);
  const response = await fetch(source);
  if (!response.ok) throw new Error(`${source}: ${response.status} ${response.statusText}`);
  return WebAssembly.compile(await response.arrayBuffer());
}

/** The rules of `torchship play`: a field that grows with the snakes, and one food for each. */
export function rulesFor(snakes) {
  const side = Math.round(18 * Math.sqrt(snakes));
  return { fields: 1, snakes, width: side, height: side, food: snakes, maxLength: 32 };
}

/** Games side by side; an agent is one row, and gets a new snake when its snake dies. */
export class Game {
  #snake;
  #memory;
  #game;
  #windows;
  #actions;

  /** Throws if the rules cannot be played. `module` is what compileGame returns. */
  constructor(module, rules) {
    const { memory, __heap_base: base, ...snake } = new WebAssembly.Instance(module).exports;
    this.#snake = snake;
    this.#memory = memory;
    this.rules = { ...rules };
    this.agents = rules.fields * rules.snakes;
    this.stride = rules.width + 2 * REACH;
    const take = allocator(memory, base.value);
    const at = take(24);
    const { fields, snakes, width, height, food, maxLength } = rules;
    new Int32Array(memory.buffer, at, 6).set([fields, snakes, width, height, food, maxLength]);
    const verdict = snake.snake_check(at);
    if (verdict) throw new Error(`snake: ${REFUSALS[verdict]}: got ${JSON.stringify(rules)}`);
    this.#game = snake.snake_init(take(snake.snake_size(at)), at);
    this.#windows = take(this.agents * WINDOW);
    this.#actions = take(this.agents * 8);
  }

  /** Begins the game of a seed, a bigint of 64 bits. */
  reset(seed) {
    this.#snake.snake_reset(this.#game, BigInt.asIntN(64, seed));
  }

  /** Plays one step; `actions` is a BigInt64Array or numbers, 0 to 3, one of each agent. */
  step(actions) {
    if (actions.length !== this.agents)
      throw new Error(`expected ${this.agents} actions, got ${actions.length}`);
    new BigInt64Array(this.#memory.buffer, this.#actions, this.agents).set(
      BigInt64Array.from(actions, BigInt),
    );
    const refused = this.#snake.snake_step(this.#game, this.#actions);
    if (refused >= 0)
      throw new Error(`agent ${refused}: expected an action 0 to 3, got ${actions[refused]}`);
  }

  /** What each agent sees: a copy, uint8[agents, 11, 11]. */
  observe() {
    this.#snake.snake_observe(this.#game, this.#windows);
    return new Uint8Array(this.#memory.buffer, this.#windows, this.agents * WINDOW).slice();
  }

  /** Whether each agent died in the last step: a copy, bool[agents] as bytes. */
  died() {
    return this.#array(Uint8Array, "died", this.agents);
  }

  /** float32[agents] of the last step. */
  rewards() {
    return this.#array(Float32Array, "rewards", this.agents);
  }

  /** Segments of each snake, int64[agents]. */
  lengths() {
    return this.#array(BigInt64Array, "lengths", this.agents);
  }

  /** Where each snake heads, int64[agents]. */
  headings() {
    return this.#array(BigInt64Array, "headings", this.agents);
  }

  /** The tiles of all fields with their walls, uint8[fields, height + 10, width + 10]. */
  tiles() {
    return this.#array(
      Uint8Array,
      "tiles",
      this.rules.fields * this.stride * (this.rules.height + 2 * REACH),
    );
  }

  /** What each agent has eaten and how often it died since the reset: int64[agents, 3]. */
  scores() {
    return this.#array(BigInt64Array, "scores", 3 * this.agents);
  }

  /** The cells of each snake from its head on, as indices into the tiles of its field. */
  bodies() {
    return Array.from(this.lengths(), (length, agent) =>
      Array.from({ length: Number(length) }, (_, segment) =>
        this.#snake.snake_segment(this.#game, agent, segment),
      ),
    );
  }

  /** The keys with which `sample` draws, int64[agents], as models/sampling.py makes them of a seed. */
  keys(seed) {
    const scatter = (z) => this.#snake.snake_mix(BigInt.asIntN(64, z + GOLDEN_GAMMA));
    const all = scatter(seed);
    return BigInt64Array.from({ length: this.agents }, (_, row) => scatter(BigInt(row) + all));
  }

  #array(kind, name, count) {
    return new kind(this.#memory.buffer, this.#snake[`snake_${name}`](this.#game), count).slice();
  }
}

function allocator(memory, base) {
  let end = base;
  return (bytes) => {
    const start = Math.ceil(end / 16) * 16;
    end = start + bytes;
    const missing = end - memory.buffer.byteLength;
    if (missing > 0) memory.grow(Math.ceil(missing / PAGE_BYTES));
    return start;
  };
}
