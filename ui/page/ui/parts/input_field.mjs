/** One input of a form: a field for numbers and texts, an area or a file for tensors. */

import { kindText } from "../engine/archive.mjs";
import { readSafetensors } from "../engine/safetensors.mjs";
import { DTYPES, Tensor, countOf } from "../engine/tensors.mjs";
import { fromText, toText } from "../engine/text.mjs";
import { element, field } from "./element.mjs";
import { count, short, value as valueText } from "./format.mjs";
import { picture, pictureShape } from "./image.mjs";

const EDITABLE = 4096; // elements up to which values are shown as text

/**
 * Makes the input of a leaf with a flat name: { node, read(), write(tensor) }. `read` gives the tensor, or
 * undefined if the input is left out, and throws with what is wrong; `write` fills it.
 */
export function inputField(leaf, name, changed) {
  const named = { ...leaf, name };
  const made = leaf.kind === "tensor" ? tensorField(named, changed) : scalarField(named, changed);
  if (!leaf.optional && !leaf.state) return made;
  return leftOut(named, made, changed);
}

/** Puts a switch before an input that a call may lack. */
function leftOut({ name, state }, made, changed) {
  const given = element("input", { type: "checkbox" });
  const label = element(
    "label",
    { class: "row small" },
    given,
    state ? `give the state ${name}` : `give ${name}`,
  );
  const apply = () => (made.node.hidden = !given.checked);
  given.addEventListener("change", () => {
    apply();
    changed();
  });
  apply();
  return {
    node: element("div", { class: "field" }, label, made.node),
    read: () => (given.checked ? made.read() : undefined),
    write(tensor) {
      given.checked = Boolean(tensor);
      if (tensor) made.write(tensor);
      apply();
    },
  };
}

function scalarField(leaf, changed) {
  const { name, kind, dtype } = leaf;
  if (kind === "bool") {
    const box = element("input", { type: "checkbox", onchange: changed });
    return {
      node: element(
        "label",
        { class: "row" },
        box,
        element("span", {}, name, " ", element("code", { class: "muted" }, kind)),
      ),
      read: () => Tensor.of("bool", [], [box.checked]),
      write: (tensor) => (box.checked = tensor.at(0)),
    };
  }
  const input = element("input", {
    type: "text",
    autocomplete: "off",
    spellcheck: "false",
    oninput: changed,
  });
  if (kind !== "str") input.inputMode = kind === "int" ? "numeric" : "decimal";
  const read = () =>
    kind === "str" ? Tensor.text(input.value) : fromText(input.value, { name, dtype, shape: [] }, []);
  return {
    node: field(`${name}: ${kind}`, input),
    read: () => marked(input, read),
    write: (tensor) => (input.value = kind === "str" ? tensor.asText() : valueText(tensor.at(0), dtype)),
  };
}

function tensorField(leaf, changed) {
  const { name } = leaf;
  let held = null; // what a file gave, or what is too large to edit
  let shape = null;
  const area = element("textarea", { rows: 4, spellcheck: "false", autocomplete: "off" });
  const summary = element("p", { class: "muted small" });
  const preview = element("div", { hidden: true });
  const file = element("input", {
    type: "file",
    "aria-label": `${name} from a file (safetensors, or raw bytes)`,
  });
  const show = (tensor) => {
    summary.textContent = `${tensor.kind}${held ? `, ${summaryOf(tensor)}` : ""}`;
    preview.hidden = !pictureShape(tensor);
    if (!preview.hidden) preview.replaceChildren(picture(tensor, `${name}, first row, as a picture`));
  };
  const write = (tensor) => {
    shape = tensor.shape;
    held = tensor.count > EDITABLE ? tensor : null;
    area.hidden = Boolean(held);
    area.value = held ? "" : toText(tensor);
    area.rows = Math.min(Math.max(countOf(shape.slice(0, -1)), 2), 8);
    area.removeAttribute("aria-invalid");
    show(tensor);
  };
  const read = () => {
    if (held) return held;
    const tensor = marked(area, () => fromText(area.value, leaf, shape));
    shape = tensor.shape;
    return tensor;
  };
  area.addEventListener("input", () => {
    try {
      show(read());
    } catch (error) {
      summary.textContent = error.message;
    }
    changed();
  });
  file.addEventListener("change", async () => {
    if (!file.files.length) return;
    try {
      write(fromFile(leaf, file.files[0].name, new Uint8Array(await file.files[0].arrayBuffer()), shape));
    } catch (error) {
      summary.textContent = error.message;
    }
    changed();
  });
  const control = field(`${name}: ${kindText(leaf)}`, area);
  control.append(
    preview,
    summary,
    element("details", { class: "small" }, element("summary", {}, "from a file"), file),
  );
  return { node: control, read, write };
}

/** Reads a file: safetensors with the tensor's name or a single tensor, or else the elements' bytes. */
function fromFile(leaf, fileName, bytes, before) {
  const { name, dtype } = leaf;
  if (fileName.endsWith(".safetensors")) {
    const { tensors } = readSafetensors(bytes);
    const names = Object.keys(tensors);
    const found = tensors[name] ?? (names.length === 1 ? tensors[names[0]] : undefined);
    if (!found) throw new Error(`${fileName}: expected a tensor '${name}', got ${names.join(", ")}`);
    if (found.dtype !== dtype) throw new Error(`${fileName}: expected ${dtype}, got ${found.dtype}`);
    return found;
  }
  const size = DTYPES[dtype].array.BYTES_PER_ELEMENT;
  const shapes = [before, leaf.shape.map((wanted) => (typeof wanted === "number" ? wanted : 1))];
  for (const shape of shapes)
    if (shape && countOf(shape) * size === bytes.length) return Tensor.fromBytes(dtype, shape, bytes);
  const [first, ...rest] = shapes[0] ?? shapes[1];
  const row = countOf(rest) * size;
  if (first === undefined || typeof leaf.shape[0] === "number" || bytes.length % row)
    throw new Error(
      `${fileName}: expected rows of ${row} bytes for ${kindText(leaf)}, got ${bytes.length} bytes`,
    );
  return Tensor.fromBytes(dtype, [bytes.length / row, ...rest], bytes);
}

function summaryOf(tensor) {
  const numbers = tensor.numbers();
  let [least, most, sum] = [Infinity, -Infinity, 0];
  for (const number of numbers) {
    least = Math.min(least, number);
    most = Math.max(most, number);
    sum += number;
  }
  const mean = short(sum / numbers.length);
  return `${count(numbers.length)} values from ${short(least)} to ${short(most)}, mean ${mean}`;
}

/** Runs a reader of a control, and marks the control while what it holds is refused. */
function marked(control, read) {
  try {
    const found = read();
    control.removeAttribute("aria-invalid");
    return found;
  } catch (error) {
    control.setAttribute("aria-invalid", "true");
    throw error;
  }
}
