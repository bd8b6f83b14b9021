// Swagger UI in the place of the plain page; with API keys on, once the visitor has given one.
// The key is in memory only: Swagger UI keeps nothing unless it is told to.

const place = document.getElementById("swagger-ui");
const form = document.getElementById("key-form");
const said = document.getElementById("said");

/** Where the server is, whatever prefix a proxy has put before this page. */
const base = new URL(".", document.baseURI).href.replace(/\/$/, "");

async function load(key) {
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  const answer = await fetch(`${base}/openapi.json`, { headers, cache: "no-store" });
  const content = await answer.json();
  if (!answer.ok) {
    throw new Error(content.error ?? `openapi.json: ${answer.status} ${answer.statusText}`);
  }
  return content;
}

function show(spec, key) {
  const ui = globalThis.SwaggerUIBundle({
    spec: { ...spec, servers: [{ url: base }] },
    domNode: place,
    deepLinking: true,
    validatorUrl: null,
    onComplete() {
      for (const [name, scheme] of Object.entries(spec.components?.securitySchemes ?? {})) {
        if (key && scheme.scheme === "bearer") ui.preauthorizeApiKey(name, key);
      }
    },
  });
}

/** Shows the document, or says why it cannot; the plain page stays where it is then. */
async function open(key) {
  said.textContent = "";
  try {
    if (!globalThis.SwaggerUIBundle) {
      throw new Error("Swagger UI did not load: this page shows the API without it.");
    }
    show(await load(key), key);
    return true;
  } catch (error) {
    said.textContent = error.message;
    return false;
  }
}

if (form) {
  form.hidden = false;
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (await open(form.elements.key.value)) form.remove();
  });
} else {
  await open();
}
