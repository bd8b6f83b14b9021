/** Draws a game on a canvas. Between two steps the snakes glide. */

import { CORPSE, FOOD, REACH } from "./game.mjs";

const GOLDEN_ANGLE = 137.508;
const MARGIN = 1; // cells of wall that are shown
const BODY = 0.82; // of a cell
const SMALLEST_EYES = 6; // pixels of a cell below which nobody sees eyes
const THEMES = {
  light: {
    ground: "#f2f6f4",
    dot: "#dde7e3",
    wall: "#b9c8c3",
    food: "#d9480f",
    corpse: "#9aa8a4",
    body: "62% 43%",
    shine: "70% 62%",
  },
  dark: {
    ground: "#0b1114",
    dot: "#162227",
    wall: "#2f4148",
    food: "#ffb454",
    corpse: "#566a70",
    body: "68% 60%",
    shine: "80% 78%",
  },
};
const DELTAS = [
  [0, -1],
  [0, 1],
  [-1, 0],
  [1, 0],
];

/** A canvas that shows the first field of a game. */
export class Picture {
  #canvas;
  #context;
  #theme;
  #before = null;
  #now = null;
  #still;
  #ground = null;

  /** The canvas is square; `still` draws steps without gliding, for visitors who want less motion. */
  constructor(canvas, still) {
    this.#canvas = canvas;
    this.#context = canvas.getContext("2d", { alpha: false });
    this.#still = still;
    this.refresh();
  }

  /** Takes size and theme anew. */
  refresh() {
    const ratio = Math.min(devicePixelRatio || 1, 2);
    const side = Math.max(1, Math.round(this.#canvas.clientWidth * ratio));
    if (this.#canvas.width !== side) this.#canvas.width = this.#canvas.height = side;
    const [red, green, blue] = getComputedStyle(this.#canvas)
      .backgroundColor.match(/[\d.]+/g)
      .map(Number);
    this.#theme = THEMES[red + green + blue < 384 ? "dark" : "light"];
    this.#ground = null;
  }

  /** Takes the state of the game after a step; `mine` is the snake to mark, or null. */
  show(game, mine) {
    const { rules, stride } = game;
    const place = (cell) => [(cell % stride) - REACH, Math.floor(cell / stride) - REACH];
    const bodies = game.bodies().map((cells) => cells.map(place));
    const things = { food: [], corpses: [] };
    game.tiles().forEach((tile, cell) => {
      if (tile === FOOD) things.food.push(place(cell));
      else if (tile === CORPSE) things.corpses.push(place(cell));
    });
    const headings = Array.from(game.headings(), Number);
    const died = game.died();
    if (this.#now && this.#now.side !== rules.width) this.#now = this.#ground = null;
    this.#before = this.#now;
    this.#now = { side: rules.width, bodies, headings, died, mine, ...things };
  }

  /** Forgets the game before, so that nothing glides from it. */
  clear() {
    this.#before = this.#now = null;
  }

  /** Draws with `fraction`, 0 to 1, of the way to the next step; food glows with the `time` in milliseconds. */
  draw(fraction, time) {
    if (!this.#now) return;
    const context = this.#context;
    const cell = this.#canvas.width / (this.#now.side + 2 * MARGIN);
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.drawImage((this.#ground ??= this.#drawGround(cell)), 0, 0);
    context.setTransform(cell, 0, 0, cell, MARGIN * cell, MARGIN * cell);
    const glow = this.#still ? 0 : Math.sin(time / 300) * 0.04;
    this.#dots(this.#now.corpses, 0.2, this.#theme.corpse);
    this.#dots(this.#now.food, 0.33 + glow, this.#theme.food);
    const part = this.#still ? 1 : Math.min(1, Math.max(0, fraction));
    this.#now.bodies.forEach((_, agent) => this.#deaths(agent, part));
    this.#now.bodies.forEach((body, agent) => this.#snake(agent, body, part));
  }

  #drawGround(cell) {
    const { width } = this.#canvas;
    const ground = new OffscreenCanvas(width, width);
    const context = ground.getContext("2d", { alpha: false });
    const { side } = this.#now;
    context.fillStyle = this.#theme.wall;
    context.fillRect(0, 0, width, width);
    context.fillStyle = this.#theme.ground;
    context.beginPath();
    context.roundRect(MARGIN * cell, MARGIN * cell, side * cell, side * cell, cell * 0.6);
    context.fill();
    context.fillStyle = this.#theme.dot;
    for (let y = 0; y < side; y++)
      for (let x = y % 2; x < side; x += 2)
        context.fillRect((MARGIN + x + 0.44) * cell, (MARGIN + y + 0.44) * cell, cell * 0.12, cell * 0.12);
    return ground;
  }

  #dots(places, radius, colour) {
    const context = this.#context;
    context.fillStyle = colour;
    context.beginPath();
    for (const [x, y] of places) {
      context.moveTo(x + 0.5 + radius, y + 0.5);
      context.arc(x + 0.5, y + 0.5, radius, 0, 2 * Math.PI);
    }
    context.fill();
  }

  /** A ring that fades where a snake has died. */
  #deaths(agent, part) {
    const last = this.#before?.bodies[agent];
    if (!this.#now.died[agent] || !last || part >= 1) return;
    const context = this.#context;
    const [x, y] = last[0];
    context.globalAlpha = 1 - part;
    context.strokeStyle = hue(agent, this.#theme.body);
    context.lineWidth = 0.2;
    context.beginPath();
    context.arc(x + 0.5, y + 0.5, 0.4 + 1.4 * part, 0, 2 * Math.PI);
    context.stroke();
    context.globalAlpha = 1;
  }

  #snake(agent, body, part) {
    const context = this.#context;
    const born = this.#now.died[agent] || !this.#before;
    const points = born ? body : glide(this.#before.bodies[agent], body, part);
    const size = born ? Math.min(1, 0.3 + part) : 1;
    context.lineCap = context.lineJoin = "round";
    context.beginPath();
    context.moveTo(points[0][0] + 0.5, points[0][1] + 0.5);
    for (const [x, y] of points.slice(1)) context.lineTo(x + 0.5, y + 0.5);
    // A line of no length would not be drawn.
    if (points.length === 1) context.lineTo(points[0][0] + 0.501, points[0][1] + 0.5);
    const mine = agent === this.#now.mine;
    if (mine) this.#stroke(1.25, this.#theme === THEMES.dark ? "#ffffff" : "#10201d");
    this.#stroke(BODY * size, hue(agent, this.#theme.body));
    this.#stroke(BODY * size * 0.35, hue(agent, this.#theme.shine));
    if (mine || this.#canvas.width > SMALLEST_EYES * this.#now.side)
      this.#eyes(points[0], this.#now.headings[agent], mine ? 1.3 : 1);
  }

  #stroke(width, colour) {
    this.#context.lineWidth = width;
    this.#context.strokeStyle = colour;
    this.#context.stroke();
  }

  #eyes([x, y], heading, size) {
    const context = this.#context;
    const [forward, aside] = DELTAS[heading];
    for (const side of [-1, 1]) {
      const at = [
        x + 0.5 + forward * 0.14 - aside * side * 0.18,
        y + 0.5 + aside * 0.14 + forward * side * 0.18,
      ];
      for (const [radius, colour, ahead] of [
        [0.13, "#ffffff", 0],
        [0.07, "#10201d", 0.05],
      ]) {
        context.fillStyle = colour;
        context.beginPath();
        context.arc(at[0] + forward * ahead, at[1] + aside * ahead, radius * size, 0, 2 * Math.PI);
        context.fill();
      }
    }
  }
}

/** The points of a snake between two steps: its head and its tail are on their way. */
function glide(before, body, part) {
  const between = ([x, y], [u, v]) => [x + (u - x) * part, y + (v - y) * part];
  const points = [between(before[0], body[0]), ...body.slice(1)];
  if (before.length === body.length && body.length > 1)
    points.push(between(before[before.length - 1], body[body.length - 1]));
  return points;
}

/** A colour of its own for each snake, as far as possible from those of its neighbours. */
function hue(agent, rest) {
  return `hsl(${(agent * GOLDEN_ANGLE + 165) % 360} ${rest})`;
}
