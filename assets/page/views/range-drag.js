// Draws a range with the pointer: a new one, or one edge of it.

import { justBefore } from "../lib/draft.js";

/** Pixels that the pointer must move, or it is taken for a click. */
const SLOP = 4;

/**
 * @typedef {import("../lib/draft.js").Span} Span
 * @typedef {object} Options
 * @property {() => { left: number, width: number, from: number, to: number }} area
 * @property {(time: number) => number} snap
 * @property {(range: Span) => void} onmove
 * @property {(range: Span | null) => void} onend
 */

export class RangeDrag {
  #options;

  /** @param {Options} options */
  constructor(options) {
    this.#options = options;
  }

  /** Begins a new range where the pointer is. @param {PointerEvent} event @param {Span | null} present */
  draw(event, present) {
    this.#follow(event, (start, now) => ordered(this.#edge(start), this.#edge(now)), present);
  }

  /** Moves an edge of a range. @param {PointerEvent} event @param {Span} range @param {"from" | "to"} edge */
  resize(event, range, edge) {
    const other = edge === "from" ? Math.round(range.to) : range.from;
    this.#follow(event, (_, now) => ordered(other, this.#edge(now)), range);
  }

  /** The edge of a bucket that is nearest to a place. @param {number} x */
  #edge(x) {
    const { left, width, from, to } = this.#options.area();
    const time = from + ((x - left) / width) * (to - from);
    return this.#options.snap(Math.min(to, Math.max(from, time)));
  }

  /**
   * @param {PointerEvent} event
   * @param {(start: number, now: number) => Span | null} range
   * @param {Span | null} original what Escape goes back to
   */
  #follow(event, range, original) {
    const target = /** @type {HTMLElement} */ (event.currentTarget);
    const stop = new AbortController();
    const { signal } = stop;
    const start = event.clientX;
    let last = /** @type {Span | null} */ (null);
    target.setPointerCapture(event.pointerId);
    target.addEventListener("pointermove", (move) => {
      if (last === null && Math.abs(move.clientX - start) < SLOP) return;
      const found = range(start, move.clientX);
      if (!found) return;
      last = found;
      this.#options.onmove(last);
    }, { signal });
    const end = (/** @type {boolean} */ isDone) => {
      stop.abort();
      if (last !== null) this.#options.onend(isDone ? last : original);
    };
    target.addEventListener("pointerup", () => end(true), { signal });
    target.addEventListener("pointercancel", () => end(false), { signal });
    addEventListener("keydown", (key) => key.key === "Escape" && end(false), { signal });
  }
}

/** @param {number} a @param {number} b @returns {Span | null} */
function ordered(a, b) {
  if (a === b) return null;
  return { from: Math.min(a, b), to: justBefore(Math.max(a, b)) };
}
