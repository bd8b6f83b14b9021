/** Small helpers with which the page is built: elements, never markup made of data. */

/**
 * Makes an element: element("p", { class: "muted", onclick }, "text", child). Properties that begin with
 * "on" are listeners; true and false set and leave out an attribute; null children are left out.
 */
export function element(tag, properties = {}, ...children) {
  return dress(document.createElement(tag), properties, children);
}

/** Makes an SVG element in the same way. */
export function svg(tag, properties = {}, ...children) {
  return dress(document.createElementNS("http://www.w3.org/2000/svg", tag), properties, children);
}

function dress(made, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "value") made.value = value;
    else if (value !== false && value !== null && value !== undefined)
      made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

let lastId = 0;

/** Makes a field with its label: field("Version", select, "a hint"). */
export function field(label, control, hint) {
  control.id ||= `field-${++lastId}`;
  const parts = [element("label", { for: control.id }, label), control];
  if (hint) {
    const described = element("p", { class: "muted small", id: `${control.id}-hint` }, hint);
    control.setAttribute("aria-describedby", described.id);
    parts.push(described);
  }
  return element("div", { class: "field" }, parts);
}

/** Makes a choice: options are texts, or [value, text]. */
export function select(options, chosen, onchange) {
  const made = element("select", { onchange: () => onchange(made.value) });
  for (const option of options) {
    const [value, text] = Array.isArray(option) ? option : [option, option];
    made.append(element("option", { value, selected: String(value) === String(chosen) }, text));
  }
  return made;
}

/** Makes a button. */
export function button(text, onclick, kind = "") {
  return element("button", { type: "button", class: kind, onclick }, text);
}

/** Shows an error in the words of whoever refused. */
export function failure(error) {
  return element("p", { class: "failure", role: "alert" }, error.message ?? String(error));
}
