/** Starts the page: finds out which form it has, and shows the tab that the address names. */

import { button, element, failure } from "./parts/element.mjs";
import { askForKey } from "./parts/key_dialog.mjs";
import { startTheme } from "./parts/theme.mjs";

const TABS = ["models", "try", "play", "draw", "names", "agreement"];

const panel = document.getElementById("panel");
const bar = document.getElementById("tabs");
const said = document.getElementById("said");

const tabs = []; // all of them, shown or not
let shown = { hash: "", leave: () => {} };

const context = {
  engine: null,
  site: null,
  models: [],
  announce: (text) => (said.textContent = text),
  askForKey,
  refresh,
};

start();

/** Shows the tab of the address as soon as it is there, and fetches the others meanwhile. */
async function start() {
  startTheme(document.getElementById("theme"));
  const [wanted] = placeOf(location.hash);
  const first = TABS.includes(wanted) ? wanted : TABS[0];
  let others;
  try {
    const module = import(`./tabs/${first}.mjs`);
    module.catch(() => {}); // makeTabs says what is wrong
    context.site = await (await fetch(new URL("site.json", document.baseURI))).json();
    context.engine = await engineOf(context.site);
    await refresh();
    await makeTabs([first]);
    others = makeTabs(TABS);
    if (!bar.children.length) await others;
  } catch (error) {
    refuse(error);
    return;
  }
  bar.addEventListener("keydown", moveFocus);
  document.getElementById("skip").addEventListener("click", (event) => {
    event.preventDefault(); // the address names the tab
    panel.focus();
  });
  show();
  try {
    await others;
  } catch (error) {
    refuse(error);
    return;
  }
  bar.removeAttribute("aria-busy");
  addEventListener("hashchange", show);
  if (location.hash !== shown.hash) show(); // it has changed before all tabs were there
}

function refuse(error) {
  panel.replaceChildren(
    failure(error),
    button("Try again", () => location.reload()),
  );
}

async function engineOf({ form, version }) {
  const here = form === "server" ? "" : ", in this browser";
  document.getElementById("form").textContent = `${version}${here}`;
  document.getElementById("docs").hidden = form !== "server";
  if (form === "server") return new (await import("./engine/server.mjs")).ServerEngine(askForKey);
  return new (await import("./engine/browser.mjs")).BrowserEngine(context.site);
}

/** Asks which models there are, and attaches the archive to each that is ready. */
async function refresh() {
  const { engine, models: before } = context;
  const found = await engine.models();
  context.models = await Promise.all(
    found.map(async (model) => {
      if (model.state !== "READY") return model;
      const known = before.find(({ name, version }) => name === model.name && version === model.version);
      if (known && (known.state !== "READY" || known.archive.sha256 !== model.sha256))
        engine.forget?.(model.name, model.version);
      return withArchive(model);
    }),
  );
  if (tabs.length) await showTabs();
  return context.models;
}

async function withArchive(model) {
  try {
    return { ...model, archive: await context.engine.archive(model.name, model.version) };
  } catch (error) {
    return { ...model, state: "UNAVAILABLE", reason: error.message }; // it went a moment ago
  }
}

/** Has a tab for each module with something to show, in their order; others go. */
async function showTabs() {
  const fitting = await Promise.all(tabs.map(({ module }) => module.fits(context.models)));
  const wanted = tabs.filter((_, number) => fitting[number]);
  for (const tab of tabs) if (!wanted.includes(tab)) tab.remove();
  wanted.forEach((tab, number) => {
    if (bar.children[number] !== tab) bar.insertBefore(tab, bar.children[number] ?? null);
  });
}

/** Makes the tabs of these names, those that there are not yet. */
async function makeTabs(names) {
  const modules = await Promise.all(names.map((name) => import(`./tabs/${name}.mjs`)));
  for (const [number, module] of modules.entries()) {
    const name = names[number];
    if (tabs.some((tab) => tab.module === module)) continue;
    const attributes = { "aria-controls": "panel", "aria-selected": "false", tabindex: "-1" };
    const tab = element(
      "a",
      { role: "tab", id: `tab-${name}`, href: `#${name}`, ...attributes },
      module.title,
    );
    tab.module = module;
    tabs.push(tab);
  }
  const order = ({ hash }) => TABS.indexOf(hash.slice(1));
  tabs.sort((one, other) => order(one) - order(other));
  await showTabs();
}

/** Arrow keys, Home and End move between tabs, and show the one they reach. */
function moveFocus(event) {
  const all = [...bar.children];
  const at = all.indexOf(document.activeElement);
  const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: -1 }[event.key];
  if (event.key === " " && at >= 0) all[at].click();
  else if (to !== undefined) {
    const tab = all.at(to % all.length);
    tab.focus();
    tab.click();
  } else return;
  event.preventDefault();
}

/** Shows the tab of the address: #models, or #try/NAME with what comes after as the tab's argument. */
async function show() {
  const [wanted, ...rest] = placeOf(location.hash);
  const tab = document.getElementById(`tab-${wanted}`) ?? bar.firstElementChild;
  const turn = (shown = { ...shown, hash: location.hash, turn: {} }).turn;
  for (const other of bar.children) {
    other.setAttribute("aria-selected", other === tab);
    other.tabIndex = other === tab ? 0 : -1;
  }
  tab.scrollIntoView({ block: "nearest", inline: "nearest" });
  panel.setAttribute("aria-labelledby", tab.id);
  document.title = `${tab.textContent} · TorchShip`;
  shown.leave();
  shown.leave = () => {};
  const place = element("div", { class: `tab-${tab.hash.slice(1)}` });
  panel.replaceChildren(place);
  try {
    const leave = await tab.module.mount(place, context, rest.join("/"));
    if (shown.turn === turn) shown.leave = leave ?? (() => {});
    else leave?.();
  } catch (error) {
    place.append(failure(error));
  }
}

function placeOf(hash) {
  try {
    return hash.slice(1).split("/").map(decodeURIComponent);
  } catch {
    return [""]; // an address that nobody has made here
  }
}
