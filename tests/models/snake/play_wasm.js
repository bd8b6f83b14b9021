// Plays the game compiled to WebAssembly and prints a SHA-256 of all that was seen and done.
//
// node play_wasm.js MODULE RULES SEED ACTIONS
//
// RULES are six numbers with commas between them, ACTIONS a file of int64[steps, agents]. Printed
// are the module's imports and, as test_game_source.py computes it, the digest.

const crypto = require("crypto");
const fs = require("fs");

const [path, rulesText, seed, actionsPath] = process.argv.slice(2);
const rules = rulesText.split(",").map(Number);
const module_ = new WebAssembly.Module(fs.readFileSync(path));
const { memory, __heap_base, ...snake } = new WebAssembly.Instance(module_).exports;
const agents = rules[0] * rules[1];
const actions = fs.readFileSync(actionsPath);

let end = (__heap_base.value + 15) & ~15;
function take(bytes) {
  const start = end;
  end += (bytes + 15) & ~15;
  const missing = end - memory.buffer.byteLength;
  if (missing > 0) memory.grow(Math.ceil(missing / 65536));
  return start;
}
const bytes = (start, count) => new Uint8Array(memory.buffer, start, count);

const rulesAt = take(24);
new Int32Array(memory.buffer, rulesAt, 6).set(rules);
const game = snake.snake_init(take(snake.snake_size(rulesAt)), rulesAt);
const windows = take(agents * 121);
const chosen = take(agents * 8);
const digest = crypto.createHash("sha256");

snake.snake_reset(game, BigInt(seed));
snake.snake_observe(game, windows);
digest.update(bytes(windows, agents * 121));
for (let at = 0; at < actions.length; at += agents * 8) {
  bytes(chosen, agents * 8).set(actions.subarray(at, at + agents * 8));
  if (snake.snake_step(game, chosen) !== -1) throw new Error("refused");
  snake.snake_observe(game, windows);
  digest.update(bytes(windows, agents * 121));
  digest.update(bytes(snake.snake_rewards(game), agents * 4));
  digest.update(bytes(snake.snake_died(game), agents));
  digest.update(bytes(snake.snake_lengths(game), agents * 8));
}

// What a picture needs: every snake's segments are where the tiles say so.
const stride = rules[2] + 10;
const cells = stride * (rules[3] + 10);
const lengths = new BigInt64Array(memory.buffer, snake.snake_lengths(game), agents);
const tiles = bytes(snake.snake_tiles(game), rules[0] * cells);
let shown = 0;
for (let agent = 0; agent < agents; ++agent) {
  const slot = agent % rules[1];
  for (let segment = 0; segment < Number(lengths[agent]); ++segment) {
    const cell = snake.snake_segment(game, agent, segment);
    shown += tiles[((agent - slot) / rules[1]) * cells + cell] === 4 + (slot % 4);
  }
}
console.log(
  JSON.stringify({
    imports: WebAssembly.Module.imports(module_),
    digest: digest.digest("hex"),
    segments: [shown, tiles.filter((tile) => tile >= 4).length],
  }),
);
