/** Loads a tab's own style with the tab, so that the first load stays small. */

const loading = new Map();

/** Resolves when the style sheet at an address relative to the page applies. */
export function stylesheet(path) {
  if (!loading.has(path))
    loading.set(
      path,
      new Promise((resolve, reject) => {
        const link = document.createElement("link");
        link.rel = "stylesheet";
        link.href = new URL(path, document.baseURI);
        link.onload = resolve;
        link.onerror = () => {
          loading.delete(path);
          reject(new Error(`${path} cannot be loaded`));
        };
        document.head.append(link);
      }),
    );
  return loading.get(path);
}
