/** Asks the visitor for an API key, which is kept in memory only. */

const dialog = document.getElementById("key");
const value = document.getElementById("key-value");

/** Opens the dialog with the server's words; gives the key, or null if the visitor has none. */
export function askForKey(why) {
  document.getElementById("key-why").textContent = why;
  document.getElementById("key-cancel").onclick = () => dialog.close("");
  value.value = "";
  dialog.returnValue = ""; // what Escape leaves
  dialog.showModal();
  value.focus();
  return new Promise((resolve) => {
    dialog.addEventListener(
      "close",
      () => {
        const key = dialog.returnValue === "use" ? value.value.trim() : "";
        value.value = "";
        resolve(key || null);
      },
      { once: true },
    );
  });
}
