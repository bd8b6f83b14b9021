/** Reads the text that the server writes for Prometheus. */

const LINE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/;
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;
const PREFIX = "torchship_request";

/** Yields each sample: { name, labels, value }. */
export function* samplesOf(text) {
  for (const line of text.split("\n")) {
    const [, name, labels = "", value] = LINE.exec(line) ?? [];
    if (!name) continue;
    const read = {};
    for (const [, label, quoted] of labels.matchAll(LABEL))
      read[label] = quoted.replace(/\\(.)/g, (_, letter) => (letter === "n" ? "\n" : letter));
    yield { name, labels: read, value: Number(value) };
  }
}

/** Counts requests by "model/version": { requests, seconds }, since the server's start. */
export function requestsOf(text) {
  const found = {};
  for (const { name, labels, value } of samplesOf(text)) {
    if (!name.startsWith(PREFIX) || !labels.model) continue;
    const entry = (found[`${labels.model}/${labels.version}`] ??= { requests: 0, seconds: 0 });
    if (name === `${PREFIX}_seconds_count`) entry.requests += value;
    if (name === `${PREFIX}_seconds_sum`) entry.seconds += value;
  }
  return found;
}

/** Turns counts that are read now and then into requests per second and seconds per request. */
export class Rates {
  #before = {};
  #read = 0;

  /** Takes what was counted at a time in milliseconds; gives by model { rate, latency }, NaN if unknown. */
  take(counts, now) {
    const elapsed = (now - this.#read) / 1000;
    const rates = {};
    for (const [key, { requests, seconds }] of Object.entries(counts)) {
      const before = this.#before[key];
      // A worker that started anew counts from 0 again.
      const made = before && requests >= before.requests ? requests - before.requests : NaN;
      rates[key] = { rate: made / elapsed, latency: (seconds - before?.seconds) / made };
    }
    this.#before = counts;
    this.#read = now;
    return rates;
  }
}
