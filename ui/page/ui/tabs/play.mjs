/** The tab where a policy plays snake, on the server, in this browser, or in both. */

import { compileGame } from "../game/game.mjs";
import { Match, methodsThatPlay } from "../game/match.mjs";
import { Picture } from "../game/picture.mjs";
import { Steering } from "../game/steering.mjs";
import { button, element, failure, field, select } from "../parts/element.mjs";
import { count, many, spent } from "../parts/format.mjs";
import { stylesheet } from "../parts/stylesheet.mjs";

export const title = "Play";

const MOST_SNAKES = 64;
const FASTEST = 60; // steps per second
const TOLD = 250; // milliseconds between updates of figures
const SERVER = "on the server";
const BROWSER = "in this browser";
const PLACES = { server: [SERVER], browser: [BROWSER], both: [SERVER, BROWSER] };

const policies = (models) => models.filter(({ archive }) => archive && methodsThatPlay(archive).length);

/** Whether a model plays snake. */
export const fits = async (models) => policies(models).length > 0;

/** Shows the tab; `argument` may name the policy. */
export async function mount(panel, context, argument) {
  const [module] = await Promise.all([compileGame(), stylesheet("ui/tabs/play.css")]);
  const table = new Table(panel, context, module, argument);
  await table.begin();
  return () => table.leave();
}

/** The tab's controls, and the game on the table. */
class Table {
  #context;
  #module;
  #models;
  #choice;
  #match = null;
  #turn = 0;
  #running = false;
  #asked = null;
  #shownAt = 0;
  #toldAt = 0;
  #frame = 0;
  #frames = [];

  constructor(panel, context, module, argument) {
    this.#context = context;
    this.#module = module;
    this.#models = policies(context.models);
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    this.#choice = {
      model: Math.max(
        0,
        this.#models.findIndex(({ name }) => name === argument),
      ),
      where: context.engine.form === "server" ? "server" : "browser",
      method: "act",
      snakes: 9,
      speed: 12,
      seed: "7",
    };
    this.canvas = element("canvas", { class: "field-of-snakes", tabindex: "0", role: "application" });
    this.canvas.setAttribute(
      "aria-label",
      "A field of snakes. Space pauses; arrow keys steer, if you steer one.",
    );
    this.#layOut(panel);
    this.picture = new Picture(this.canvas, still);
    this.steering = new Steering(this.canvas, () => {});
    this.canvas.after(this.steering.buttons);
    this.#listen();
  }

  /** Opens the first game, and starts it. */
  async begin() {
    await this.#open();
    this.#setRunning(true);
    const draw = (now) => {
      this.#frame = requestAnimationFrame(draw);
      this.#tick(now);
    };
    this.#frame = requestAnimationFrame(draw);
  }

  /** Ends the game. */
  leave() {
    this.#turn += 1;
    cancelAnimationFrame(this.#frame);
    this.resized.disconnect();
    this.steering.end();
    removeEventListener("themechange", this.refresh);
    this.#match?.end();
  }

  #layOut(panel) {
    const choice = this.#choice;
    const change = (name) => (value) => {
      choice[name] = value;
      return this.#open();
    };
    this.play = button("Pause", () => this.#setRunning(!this.#running), "primary");
    this.once = button("One step", () => this.#stepOnce());
    const again = button("New game", () => this.#open());
    this.steer = element("input", { type: "checkbox", id: "steer", onchange: () => this.#setSteered() });
    const names = this.#models.map(({ name, version }, number) => [number, `${name} ${version}`]);
    const controls = [
      field(
        "Policy",
        select(names, choice.model, (value) => change("model")(Number(value))),
      ),
      this.#context.engine.form === "server"
        ? field(
            "It runs",
            select(
              [
                ["server", SERVER],
                ["browser", BROWSER],
                ["both", "in both, compared"],
              ],
              choice.where,
              change("where"),
            ),
          )
        : null,
      field(
        "Moves",
        select(
          [
            ["act", "the likeliest"],
            ["sample", "drawn at random"],
          ],
          "act",
          change("method"),
        ),
      ),
      this.#slider("Snakes", "snakes", 1, MOST_SNAKES, () => this.#open()),
      this.#slider("Steps per second", "speed", 1, FASTEST, () => {}),
      field(
        "Seed",
        element("input", {
          inputmode: "numeric",
          value: choice.seed,
          pattern: "[0-9]{1,18}",
          onchange: (event) => this.#setSeed(event.target),
        }),
      ),
    ];
    this.agreement = element("p", { class: "agreement", hidden: true });
    this.figures = element("dl", { class: "facts" });
    this.latency = element("p", { class: "muted small" });
    this.command = element("code", {});
    this.problem = element("div", {});
    panel.append(
      element(
        "div",
        { class: "lead" },
        element("h1", {}, "Snakes, each moved by the model"),
        element(
          "p",
          { class: "muted" },
          "Every snake sees 11 × 11 tiles around its head. All of them are rows of one batch, at each step.",
        ),
      ),
      element(
        "div",
        { class: "table-of-snakes" },
        element(
          "div",
          { class: "card" },
          this.canvas,
          element(
            "div",
            { class: "row" },
            this.play,
            this.once,
            again,
            element("label", { class: "row", for: "steer" }, this.steer, "Steer one yourself"),
          ),
          this.problem,
        ),
        element(
          "div",
          { class: "card" },
          element("div", { class: "fields" }, controls),
          this.figures,
          this.agreement,
          this.latency,
          element("p", { class: "muted small" }, "The same game in a terminal: ", this.command),
        ),
      ),
    );
  }

  #slider(label, name, least, most, changed) {
    const shown = element("output", { class: "mono" }, String(this.#choice[name]));
    const input = element("input", {
      type: "range",
      min: least,
      max: most,
      value: this.#choice[name],
      id: `play-${name}`,
    });
    input.addEventListener("input", () => {
      this.#choice[name] = Number(input.value);
      shown.textContent = input.value;
    });
    input.addEventListener("change", changed);
    return element(
      "div",
      { class: "field" },
      element("label", { for: input.id }, `${label} `, shown),
      input,
    );
  }

  #listen() {
    this.canvas.addEventListener("keydown", (event) => {
      if (event.code !== "Space") return;
      event.preventDefault();
      this.#setRunning(!this.#running);
    });
    this.refresh = () => this.picture.refresh();
    addEventListener("themechange", this.refresh);
    this.resized = new ResizeObserver(this.refresh);
    this.resized.observe(this.canvas);
  }

  /** Opens a new game as the controls say; one that is being opened gives way. */
  async #open() {
    const turn = (this.#turn += 1);
    const { model, where, method, snakes, seed } = this.#choice;
    const { name, version, archive } = this.#models[model];
    const { engine } = this.#context;
    this.#match?.end();
    this.#match = this.#asked = null;
    const compiled =
      where === "server" ? "" : " A server compiles it for browsers at the first time, which takes seconds.";
    const hint = engine.form === "server" ? compiled : "";
    this.problem.replaceChildren(element("p", { class: "muted" }, `The model is on its way.${hint}`));
    const players = {};
    try {
      for (const place of PLACES[where])
        players[place] =
          place === BROWSER
            ? (await engine.browserModel(name, version)).session(method)
            : await engine.session(name, method, { version });
      const match = new Match(this.#module, {
        snakes,
        seed: BigInt(seed),
        method: archive.methods[method],
        players,
      });
      if (turn !== this.#turn) return void match.end();
      this.#match = match;
      this.problem.replaceChildren();
    } catch (error) {
      for (const session of Object.values(players)) session.end();
      if (turn === this.#turn) this.#fail(error);
      return;
    }
    const drawn = method === "sample" ? " --sample" : "";
    this.command.textContent = `torchship play ${name} --seed ${seed} --snakes ${snakes}${drawn}`;
    this.steering.direction = null;
    this.picture.clear();
    this.#show();
    this.#ask();
  }

  /** Asks the players already now, so that their answer is there when the step is due. */
  #ask() {
    const match = this.#match;
    const asked = { answer: null };
    this.#asked = asked;
    match.ask().then(
      (answer) => (asked.answer = answer),
      (error) => match === this.#match && this.#fail(error),
    );
  }

  #step() {
    const { agents } = this.#match.game;
    this.#match.play(this.#asked.answer, this.steering.active ? this.#heading() : null);
    if (this.steering.active && this.#match.game.died()[0]) {
      this.steering.direction = null;
      this.#context.announce(agents === 1 ? "The snake died." : "Your snake died; here is a new one.");
    }
    this.#show();
    this.#ask();
  }

  #heading() {
    return this.steering.direction ?? Number(this.#match.game.headings()[0]);
  }

  #stepOnce() {
    this.#setRunning(false);
    if (this.#asked?.answer) this.#step();
    this.#tell();
  }

  #tick(now) {
    this.#frames.push(now);
    if (this.#frames.length > FASTEST) this.#frames.shift();
    const interval = 1000 / this.#choice.speed;
    if (this.#running && this.#asked?.answer && now - this.#shownAt >= interval - 2) {
      this.#step();
      // On the beat, unless a step came so late that the beat is lost.
      this.#shownAt = now - this.#shownAt < 2 * interval ? this.#shownAt + interval : now;
    }
    this.picture.draw(this.#running ? (now - this.#shownAt) / interval : 1, now);
    if (now - this.#toldAt >= TOLD) {
      this.#toldAt = now;
      this.#tell();
    }
  }

  #show() {
    const { game, steps, agreed, checksum } = this.#match;
    this.picture.show(game, this.steering.active ? 0 : null);
    const [head] = game.bodies()[0];
    Object.assign(this.canvas.dataset, {
      steps,
      agreed,
      moves: checksum,
      head,
      length: game.lengths()[0],
      heading: game.headings()[0],
      agents: game.agents,
      longest: Math.max(...Array.from(game.lengths(), Number)),
    });
  }

  #tell() {
    const match = this.#match;
    if (!match) return;
    const { game, steps } = match;
    const scores = Array.from(game.scores(), Number);
    const total = (of) => scores.reduce((sum, score, place) => sum + (place % 3 === of ? score : 0), 0);
    const lengths = Array.from(game.lengths(), Number);
    const facts = {
      Steps: count(steps),
      Food: count(total(0)),
      Deaths: count(total(2)),
      Longest: count(Math.max(...lengths)),
      ...(this.steering.active ? { "Your length": lengths[0], "Your food": scores[0] } : {}),
      "Frames/s":
        Math.round((this.#frames.length - 1) / ((this.#frames.at(-1) - this.#frames[0]) / 1000)) || "–",
    };
    this.figures.replaceChildren(
      ...Object.entries(facts).map(([name, value]) =>
        element("div", {}, element("dt", {}, name), element("dd", {}, String(value))),
      ),
    );
    const latencies = match.latencies();
    this.latency.textContent = latencies
      .map(({ name, p50, p99 }) => `A step ${name}: ${spent(p50)} (p50), ${spent(p99)} (p99)`)
      .join("; ");
    this.agreement.hidden = latencies.length < 2;
    this.agreement.className = `agreement badge ${match.agreed === steps ? "good" : "bad"}`;
    this.agreement.textContent = `both made the same moves: ${count(match.agreed)} of ${count(steps)}`;
  }

  #setRunning(running) {
    this.#running = running;
    this.#shownAt = performance.now();
    this.play.textContent = running ? "Pause" : "Play";
    this.canvas.dataset.running = running;
    if (running || !this.#match) return;
    this.#tell();
    this.#context.announce(`Paused after ${many(this.#match.steps, "step")}.`);
  }

  #setSteered() {
    this.steering.active = this.steer.checked;
    if (this.steer.checked) this.canvas.focus({ preventScroll: true });
    if (this.#match) this.picture.show(this.#match.game, this.steer.checked ? 0 : null);
    this.#context.announce(
      this.steer.checked ? "You steer the snake with the outline." : "The model steers all snakes.",
    );
  }

  #setSeed(input) {
    const fine = /^[0-9]{1,18}$/.test(input.value);
    input.setAttribute("aria-invalid", !fine);
    if (!fine) return void this.#context.announce("The seed: expected a whole number of up to 18 digits.");
    this.#choice.seed = input.value;
    this.#open();
  }

  #fail(error) {
    this.#match?.end();
    this.#match = this.#asked = null;
    this.problem.replaceChildren(failure(error));
  }
}
