/** The same request as programs: one at a time, with a copy button and the files that it reads. */

import { writeSafetensors } from "../engine/safetensors.mjs";
import { INPUTS_FILE, jsonRequest, snippets } from "../engine/snippets.mjs";
import { button, element, select } from "./element.mjs";
import { copyButton, save } from "./save.mjs";

/** Makes the view: { node, show(request) }; a request is what `snippets` takes. */
export function codeView(announce) {
  let language = "";
  let request = null;
  const code = element("code");
  const files = element("span", { class: "row" });
  const place = element(
    "pre",
    { tabindex: "0", role: "region", "aria-label": "The request as a program" },
    code,
  );
  const choices = element("div", { class: "row" });
  const node = element(
    "section",
    { class: "card", "aria-labelledby": "code-title" },
    element(
      "div",
      { class: "row between" },
      element("h2", { id: "code-title" }, "The same request"),
      choices,
    ),
    place,
    element(
      "div",
      { class: "row" },
      copyButton(() => code.textContent, announce),
      files,
    ),
  );

  const show = () => {
    const all = snippets(request);
    const chosen = all.find((snippet) => snippet.language === language) ?? all[0];
    language = chosen.language;
    const choice = select(
      all.map((snippet) => snippet.language),
      language,
      (value) => {
        language = value;
        show();
        choices.querySelector("select").focus();
      },
    );
    choice.setAttribute("aria-label", "Language");
    choices.replaceChildren(choice);
    code.textContent = chosen.text;
    files.replaceChildren(
      ...chosen.files.map((name) => button(`Save ${name}`, () => save(name, contentOf(name)), "quiet")),
    );
  };
  const contentOf = (name) =>
    name === INPUTS_FILE ? writeSafetensors(request.inputs) : jsonRequest(request);
  return {
    node,
    show(next) {
      request = next;
      show();
    },
  };
}
