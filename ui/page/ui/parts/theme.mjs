/** Light or dark: as the system says, until the visitor chooses. */

const STORED = "torchship.theme";
const NAMES = { auto: "◐ Auto", light: "☀ Light", dark: "☾ Dark" };
const ORDER = Object.keys(NAMES);

/** Makes a button switch the theme, and announces each change to charts as a `themechange` event. */
export function startTheme(button) {
  let theme = stored();
  const apply = () => {
    if (theme === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    button.textContent = NAMES[theme];
    button.setAttribute("aria-label", `Theme: ${theme}`);
    dispatchEvent(new Event("themechange"));
  };
  button.addEventListener("click", () => {
    theme = ORDER[(ORDER.indexOf(theme) + 1) % ORDER.length];
    keep(theme);
    apply();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", apply);
  apply();
}

function stored() {
  try {
    const found = localStorage.getItem(STORED);
    return ORDER.includes(found) ? found : "auto";
  } catch {
    return "auto"; // a browser may forbid storage
  }
}

function keep(theme) {
  try {
    localStorage.setItem(STORED, theme);
  } catch {
    // The choice then lasts until the page is left.
  }
}
