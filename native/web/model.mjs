// @TITLE@
// Written by torchship from an archive; do not edit. Runs in browsers and in node, without a server.
//
//   import { load } from "./@FILE@.mjs";
//   const model = await load();                       // reads @FILE@.wasm beside this file
//   const outputs = model.call("forward", { x });     // typed arrays by the names of the signature

const INFO = @INFO@;

/** Loads the module from its file beside this one, or from a URL, bytes or a compiled module. */
export async function load(source = new URL("./@FILE@.wasm", import.meta.url)) {
  return new Model(await start(source), INFO);
}

@RUNTIME@
