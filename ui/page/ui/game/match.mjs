/** A game that a policy plays, in one engine or in two at once that should make the same moves. */

import { Tensor } from "../engine/tensors.mjs";
import { Game, REACH, rulesFor } from "./game.mjs";

const SIDE = 2 * REACH + 1;
const KEPT = 500; // durations of the last steps
const FNV_OFFSET = 0x811c9dc5;
const FNV_PRIME = 0x01000193;

/** Returns the methods, of act and sample, with which an archive plays this game. */
export function methodsThatPlay(archive) {
  return ["act", "sample"].filter((name) => {
    const method = archive.methods[name];
    const sees = method?.inputs.find((leaf) => leaf.name === "obs");
    const known = method?.inputs.every((leaf) => ["obs", "reset", "key"].includes(leaf.name) || leaf.state);
    const moves = method?.outputs.find((leaf) => leaf.name === "actions");
    const window = sees?.shape.slice(-2).every((size) => size === SIDE) && sees.shape.length === 3;
    return known && sees.dtype === "uint8" && window && moves?.dtype === "int64";
  });
}

/** One game. `players` are sessions of a policy by the name of where they run. */
export class Match {
  #players;
  #inputs;
  #first;
  #durations;
  #checksum = FNV_OFFSET;

  /** `module` is what compileGame returns, `method` the archive's method that the sessions step. */
  constructor(module, { snakes, seed, method, players }) {
    this.game = new Game(module, rulesFor(snakes));
    this.game.reset(seed);
    this.#players = players;
    this.#inputs = method.inputs.map((leaf) => leaf.name);
    this.#first = this.#inputs.includes("key")
      ? { key: new Tensor("int64", [snakes], this.game.keys(seed)) }
      : {};
    this.#durations = Object.fromEntries(Object.keys(players).map((name) => [name, []]));
    this.steps = 0;
    /** Steps in which all players chose the same moves for all snakes. */
    this.agreed = 0;
  }

  /** Asks all players what they do now; `play` takes the answer. */
  async ask() {
    const { agents } = this.game;
    const inputs = { obs: new Tensor("uint8", [agents, SIDE, SIDE], this.game.observe()), ...this.#first };
    if (this.#inputs.includes("reset")) inputs.reset = new Tensor("bool", [agents], this.game.died());
    this.#first = {};
    const answers = await Promise.all(
      Object.entries(this.#players).map(async ([name, session]) => {
        const { outputs, microseconds } = await session.step(inputs);
        const durations = this.#durations[name];
        durations.push(microseconds);
        if (durations.length > KEPT) durations.shift();
        return outputs.actions.data;
      }),
    );
    const [moves, ...others] = answers;
    const same = others.every((other) => other.every((move, agent) => move === moves[agent]));
    return { moves, same };
  }

  /** Plays what was answered; agent 0 goes where `steered` says, if that is not null. */
  play({ moves, same }, steered = null) {
    for (const move of moves) this.#checksum = Math.imul(this.#checksum ^ Number(move), FNV_PRIME);
    const actions = BigInt64Array.from(moves);
    if (steered !== null) actions[0] = BigInt(steered);
    this.game.step(actions);
    this.steps += 1;
    this.agreed += same;
  }

  /** FNV-1a (32 bits) of all moves that the first player chose, in hexadecimal digits. */
  get checksum() {
    return (this.#checksum >>> 0).toString(16).padStart(8, "0");
  }

  /** Median and 99th percentile of each player's last steps: [{ name, p50, p99 }], in microseconds. */
  latencies() {
    return Object.entries(this.#durations).map(([name, durations]) => {
      const sorted = [...durations].sort((a, b) => a - b);
      const at = (part) => sorted[Math.min(sorted.length - 1, Math.floor(part * sorted.length))];
      return { name, p50: at(0.5), p99: at(0.99) };
    });
  }

  /** Ends the sessions. */
  async end() {
    await Promise.allSettled(Object.values(this.#players).map((session) => session.end()));
  }
}
