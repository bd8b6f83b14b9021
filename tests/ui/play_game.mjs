// Plays the page's game and prints every array after every step, as lines of JSON.
//
//   node play_game.mjs GAME.mjs GAME.wasm < REQUEST
//
// REQUEST is { rules, seed, actions }: the seed as text, the actions a list of lists.

import { readFile } from "node:fs/promises";
import { pathToFileURL } from "node:url";

const [script, module] = process.argv.slice(2);
const { Game, compileGame } = await import(pathToFileURL(script));
let text = "";
for await (const part of process.stdin) text += part;
const { rules, seed, actions } = JSON.parse(text);

const game = new Game(await compileGame(await readFile(module)), rules);
const numbers = (array) => Array.from(array, String);
const show = () =>
  console.log(
    JSON.stringify({
      obs: Buffer.from(game.observe()).toString("hex"),
      died: numbers(game.died()),
      rewards: numbers(game.rewards()),
      lengths: numbers(game.lengths()),
      headings: numbers(game.headings()),
      tiles: Buffer.from(game.tiles()).toString("hex"),
      scores: numbers(game.scores()),
      heads: game.bodies().map((cells) => cells[0]),
      bodies: game.bodies().map((cells) => cells.length),
    }),
  );

game.reset(BigInt(seed));
console.log(JSON.stringify({ keys: numbers(game.keys(BigInt(seed))) }));
show();
for (const chosen of actions) {
  game.step(chosen);
  show();
}
