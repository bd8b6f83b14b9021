/** The tab that draws names of a seed: the same ones as on the command line and in C++. */

import { Tensor } from "../engine/tensors.mjs";
import { button, element, failure, field, select } from "../parts/element.mjs";
import { spent } from "../parts/format.mjs";
import { stylesheet } from "../parts/stylesheet.mjs";

export const title = "Names";

const SYMBOLS = ".abcdefghijklmnopqrstuvwxyz"; // models/names.py
const ARGUMENTS = ["count", "seed", "max_length"];
const LONGEST = 20;
const SEED = /^-?[0-9]{1,18}$/;

function writes(archive) {
  const { inputs, outputs } = archive?.methods.generate ?? { inputs: [], outputs: [] };
  return (
    inputs.map(({ name }) => name).join() === ARGUMENTS.join() &&
    inputs.every(({ kind }) => kind === "int") &&
    outputs.length === 1 &&
    outputs[0].dtype === "int64"
  );
}

const writers = (models) => models.filter(({ archive }) => writes(archive));

/** Whether a model has a method that generates names. */
export const fits = async (models) => writers(models).length > 0;

/** Shows the tab; `argument` may name the model. */
export async function mount(panel, context, argument) {
  await stylesheet("ui/tabs/names.css");
  const { engine } = context;
  const models = writers(context.models);
  const choice = {
    model: models.find(({ name }) => name === argument) ?? models[0],
    here: engine.form !== "server",
    seed: "1",
    count: "12",
  };
  const names = element("ol", { class: "names", "aria-label": "Names" });
  const told = element("p", { class: "muted small" });
  const commands = element("pre", { tabindex: "0" });
  const problem = element("div", {});
  let turn = 0;

  async function draw() {
    const mine = ++turn;
    const { model, here, seed, count } = choice;
    try {
      const wrong = complaint(choice);
      if (wrong) throw new Error(wrong);
      const int = (value) => new Tensor("int64", [], BigInt64Array.of(BigInt(value)));
      const inputs = { count: int(count), seed: int(seed), max_length: int(LONGEST) };
      const runs = here ? await engine.browserModel(model.name, model.version) : null;
      const { outputs, microseconds } = runs
        ? await runs.call("generate", inputs)
        : await engine.call(model.name, "generate", inputs, { version: model.version });
      if (mine !== turn) return;
      const drawn = decode(Object.values(outputs)[0]);
      names.replaceChildren(...drawn.map((name) => element("li", {}, name)));
      told.textContent = `Drawn ${here ? "in this browser" : "on the server"} in ${spent(microseconds)}.`;
      problem.replaceChildren();
      context.announce(`${drawn.length} names: ${drawn.slice(0, 5).join(", ")}`);
    } catch (error) {
      if (mine !== turn) return;
      names.replaceChildren();
      told.textContent = "";
      problem.replaceChildren(failure(error));
    }
    commands.textContent = commandsOf(choice);
  }

  const set = (name) => (value) => {
    choice[name] = value;
    return draw();
  };
  const typed = (name) =>
    element("input", {
      inputmode: "numeric",
      value: choice[name],
      onchange: (event) => set(name)(event.target.value.trim()),
    });
  const seed = typed("seed");
  const another = () => {
    seed.value = String(Number.isSafeInteger(Number(seed.value)) ? Number(seed.value) + 1 : 1);
    return set("seed")(seed.value);
  };
  panel.append(
    element(
      "div",
      { class: "lead" },
      element("h1", {}, "Names that nobody had before"),
      element(
        "p",
        { class: "muted" },
        "The model draws them letter by letter, in a loop that is part of the archive. ",
        "The same seed gives the same ",
        "names here, on the command line and in C++.",
      ),
    ),
    element(
      "div",
      { class: "columns" },
      element(
        "div",
        { class: "card" },
        element(
          "div",
          { class: "fields" },
          field(
            "Model",
            select(
              models.map(({ name, version }, number) => [number, `${name} ${version}`]),
              models.indexOf(choice.model),
              (number) => set("model")(models[number]),
            ),
          ),
          engine.form === "server"
            ? field(
                "It runs",
                select(
                  [
                    ["server", "on the server"],
                    ["browser", "in this browser"],
                  ],
                  "server",
                  (place) => set("here")(place === "browser"),
                ),
              )
            : null,
          field("Seed", seed),
          field("How many", typed("count")),
        ),
        element("div", { class: "row" }, button("Next seed", another, "primary")),
        problem,
        names,
        told,
      ),
      element("div", { class: "card" }, element("h2", {}, "The same names elsewhere"), commands),
    ),
  );
  await draw();
  return () => (turn += 1);
}

function complaint({ seed, count }) {
  if (!SEED.test(seed)) return `seed: expected a whole number of up to 18 digits, got '${seed}'`;
  if (!/^[0-9]{1,5}$/.test(count)) return `how many: expected 1 to 10000, got '${count}'`;
  return "";
}

/** The names in int64[count, length]; each ends before its first 0. */
function decode(tensor) {
  const [rows, length] = tensor.shape;
  return Array.from({ length: rows }, (_, row) => {
    const symbols = Array.from(tensor.data.subarray(row * length, (row + 1) * length), Number);
    const end = symbols.indexOf(0);
    return symbols
      .slice(0, end < 0 ? length : end)
      .map((symbol) => SYMBOLS[symbol])
      .join("");
  });
}

function commandsOf({ model: { name, archive }, seed, count }) {
  const [output] = archive.methods.generate.outputs;
  return (
    `torchship script ${name} -o ${name}.pt\n` +
    `echo '{"count": ${count}, "seed": ${seed}, "max_length": ${LONGEST}}' \\\n` +
    `  | torchship-runner run ${name}.pt --method generate --input - \\\n` +
    `  | python3 -c 'import json, sys\n` +
    `for row in json.load(sys.stdin)["${output.name}"]: print("".join("${SYMBOLS}"[i] for i in row if i))'\n`
  );
}
