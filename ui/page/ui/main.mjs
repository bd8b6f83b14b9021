/** Starts the page: finds out which form it has, and shows the tab that the address names. */

import { element, failure } from "./parts/element.mjs";
import { askForKey } from "./parts/key_dialog.mjs";
import { startTheme } from "./parts/theme.mjs";

const TABS = ["models", "try", "play", "draw", "names", "agreement"];

const panel = document.getElementById("panel");
const bar = document.getElementById("tabs");
const said = document.getElementById("said");

let shown = { name: "", leave: () => {} };

const context = {
  engine: null,
  site: null,
  models: [],
  announce: (text) => (said.textContent = text),
  askForKey,
  refresh,
};

start();

async function start() {
  startTheme(document.getElementById("theme"));
  try {
    context.site = await (await fetch(new URL("site.json", document.baseURI))).json();
    context.engine = await engineOf(context.site);
    await refresh();
    await makeTabs();
  } catch (error) {
    panel.replaceChildren(failure(error));
    return;
  }
  addEventListener("hashchange", show);
  document.getElementById("skip").addEventListener("click", (event) => {
    event.preventDefault(); // the address names the tab
    panel.focus();
  });
  await show();
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
      if (known && known.state !== "READY") engine.forget?.(model.name, model.version);
      return { ...model, archive: await engine.archive(model.name, model.version) };
    }),
  );
  return context.models;
}

/** Makes a tab of each module that has something to show. */
async function makeTabs() {
  const modules = await Promise.all(TABS.map((name) => import(`./tabs/${name}.mjs`)));
  for (const [number, module] of modules.entries()) {
    if (!(await module.fits(context.models))) continue;
    const name = TABS[number];
    const tab = element(
      "a",
      {
        role: "tab",
        id: `tab-${name}`,
        href: `#${name}`,
        "aria-controls": "panel",
        "aria-selected": "false",
        tabindex: "-1",
      },
      module.title,
    );
    tab.module = module;
    bar.append(tab);
  }
  bar.addEventListener("keydown", moveFocus);
}

/** Arrow keys, Home and End move between tabs, and show the one they reach. */
function moveFocus(event) {
  const tabs = [...bar.children];
  const at = tabs.indexOf(document.activeElement);
  const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: -1 }[event.key];
  if (event.key === " " && at >= 0) tabs[at].click();
  else if (to !== undefined) {
    const tab = tabs.at(to % tabs.length);
    tab.focus();
    tab.click();
  } else return;
  event.preventDefault();
}

/** Shows the tab of the address: #models, or #try/NAME with what comes after as the tab's argument. */
async function show() {
  const [wanted, ...rest] = decodeURIComponent(location.hash.slice(1)).split("/");
  const tab = document.getElementById(`tab-${wanted}`) ?? bar.firstElementChild;
  const turn = (shown = { ...shown, turn: {} }).turn;
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
