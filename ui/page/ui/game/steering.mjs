/** Steers one snake: by arrow keys, WASD, swipes on the field, or buttons. */

import { button, element } from "../parts/element.mjs";
import { ACTIONS, DOWN, LEFT, RIGHT, UP } from "./game.mjs";

const KEYS = {
  ArrowUp: UP,
  ArrowDown: DOWN,
  ArrowLeft: LEFT,
  ArrowRight: RIGHT,
  KeyW: UP,
  KeyS: DOWN,
  KeyA: LEFT,
  KeyD: RIGHT,
};
const ARROWS = ["↑", "↓", "←", "→"];
const SWIPE = 18; // pixels

/** What a visitor has steered to last. */
export class Steering {
  /** The last direction, 0 to 3, or null before the first one. */
  direction = null;
  #active = false;
  #leave = new AbortController();

  /** `field` is where swipes begin; `steered` is called after each turn. */
  constructor(field, steered) {
    const { signal } = this.#leave;
    const turn = (direction) => {
      this.direction = direction;
      steered(direction);
    };
    document.addEventListener("keydown", (event) => this.#keyed(event, turn), { signal });
    let from = null;
    field.addEventListener("pointerdown", ({ clientX, clientY }) => (from = [clientX, clientY]), { signal });
    field.addEventListener("pointerup", () => (from = null), { signal });
    field.addEventListener("pointercancel", () => (from = null), { signal });
    field.addEventListener(
      "pointermove",
      ({ clientX, clientY }) => {
        if (!this.#active || !from) return;
        const [x, y] = [clientX - from[0], clientY - from[1]];
        if (Math.hypot(x, y) < SWIPE) return;
        turn(Math.abs(x) > Math.abs(y) ? (x < 0 ? LEFT : RIGHT) : y < 0 ? UP : DOWN);
        from = [clientX, clientY];
      },
      { signal },
    );
    /** Buttons in the shape of a cross. */
    this.buttons = element(
      "div",
      { class: "cross", role: "group", "aria-label": "Steer", hidden: true },
      ACTIONS.map((name, direction) => {
        const made = button(ARROWS[direction], () => turn(direction), `cross-${name}`);
        made.setAttribute("aria-label", name);
        return made;
      }),
    );
    this.field = field;
  }

  get active() {
    return this.#active;
  }

  /** Begins or ends to take turns; while it takes them, swipes do not scroll the page. */
  set active(active) {
    this.#active = active;
    this.direction = null;
    this.buttons.hidden = !active;
    this.field.style.touchAction = active ? "none" : "";
  }

  /** Ends listening. */
  end() {
    this.#leave.abort();
  }

  #keyed(event, turn) {
    const direction = KEYS[event.code];
    const elsewhere = event.target.closest?.("input, select, textarea, [role=tab], dialog");
    if (
      !this.#active ||
      direction === undefined ||
      elsewhere ||
      event.ctrlKey ||
      event.metaKey ||
      event.altKey
    )
      return;
    event.preventDefault();
    turn(direction);
  }
}
