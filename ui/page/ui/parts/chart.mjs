/** Small live charts, drawn by uPlot. */

import uPlot from "../vendor/uPlot.esm.js";
import { element } from "./element.mjs";
import { stylesheet } from "./stylesheet.mjs";

const POINTS = 60;
const HEIGHT = 36;

await stylesheet("ui/vendor/uPlot.min.css");

/**
 * Makes a sparkline with its present value in words: { node, add(value), close() }. `text` turns a value
 * into words. Values that are not known (NaN) leave a gap.
 */
export function sparkline(label, text) {
  const value = element("strong", { class: "mono" }, "–");
  const place = element("div", { class: "spark", "aria-hidden": "true" });
  const node = element(
    "div",
    { class: "live" },
    element("span", { class: "muted small" }, label),
    value,
    place,
  );
  const xs = Array.from({ length: POINTS }, (_, number) => number);
  const ys = Array(POINTS).fill(null);
  let plot = null;

  const draw = () => {
    const width = place.clientWidth;
    if (!width) return;
    plot ??= new uPlot(options(width, place), [xs, ys], place);
    if (plot.width !== width) plot.setSize({ width, height: HEIGHT });
    plot.setData([xs, ys]);
  };
  const recolour = () => {
    plot?.destroy();
    plot = null;
    draw();
  };
  addEventListener("themechange", recolour);
  const sizes = new ResizeObserver(draw);
  sizes.observe(place);
  return {
    node,
    add(number) {
      ys.shift();
      ys.push(Number.isFinite(number) ? number : null);
      value.textContent = Number.isFinite(number) ? text(number) : "–";
      draw();
    },
    close() {
      removeEventListener("themechange", recolour);
      sizes.disconnect();
      plot?.destroy();
    },
  };
}

function options(width, place) {
  const colour = getComputedStyle(place).color;
  return {
    width,
    height: HEIGHT,
    pxAlign: false,
    cursor: { show: false },
    legend: { show: false },
    select: { show: false },
    scales: { x: { time: false }, y: { range: (_, least, most) => [0, Math.max(most ?? 0, 1e-9) * 1.1] } },
    axes: [{ show: false }, { show: false }],
    padding: [2, 0, 2, 0],
    series: [
      {},
      {
        stroke: colour,
        fill: `color-mix(in srgb, ${colour} 15%, transparent)`,
        width: 1.5,
        points: { show: false },
      },
    ],
  };
}
