/** Files for the visitor to keep. */

import { button, element } from "./element.mjs";

/** Lets the visitor save bytes or a text as a file. */
export function save(name, content) {
  const url = URL.createObjectURL(new Blob([content]));
  element("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000); // the browser reads it after the click
}

/** Makes a button that copies a text, and says so. */
export function copyButton(text, announce) {
  const made = button("Copy", async () => {
    try {
      await navigator.clipboard.writeText(text());
      made.textContent = "Copied";
      announce("Copied.");
    } catch {
      made.textContent = "Select it to copy"; // a page without TLS has no clipboard
    }
    setTimeout(() => (made.textContent = "Copy"), 2000);
  });
  return made;
}
