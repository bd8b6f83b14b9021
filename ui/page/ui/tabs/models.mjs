/** What the server, or the site, holds. */

import { element } from "../parts/element.mjs";

export const title = "Models";

export const fits = async () => true;

export async function mount(panel, { models }) {
  panel.append(
    element("h1", {}, "Models"),
    ...models.map((model) => element("p", {}, `${model.name} ${model.version} ${model.state} ${model.reason ?? ""}`)),
  );
}
