// Answers with digits as the page makes them: one line of JSON for each on standard input.
//
//   node digits.mjs DIGIT.mjs < REQUESTS
//
// A request is { width, height, ink } or { width, height, rgba }, the bytes in hexadecimal digits.

import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const { digitOf, inkOf } = await import(pathToFileURL(process.argv[2]));
const bytes = (text) => new Uint8Array(Buffer.from(text, "hex"));

for await (const line of createInterface({ input: process.stdin })) {
  const { width, height, ink, rgba } = JSON.parse(line);
  const found = ink === undefined ? inkOf(bytes(rgba), width, height) : bytes(ink);
  const digit = found && digitOf(found, width, height);
  console.log(JSON.stringify(digit && Buffer.from(digit).toString("hex")));
}
