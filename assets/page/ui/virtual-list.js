// A list of which only the rows on the screen are in the document.
//
// Rows have one height, or are measured when they are shown (`measured`); until then a row is taken
// to be as high as `estimate` says. The rows above the screen keep their place when others change.

import { h } from "../lib/dom.js";
import { moved } from "../lib/scrolling.js";

const NARROW = matchMedia("(max-width: 720px)");
/** Rows beyond the edges of the screen, so that scrolling does not show gaps. */
const MARGIN_ROWS = 6;

/** Sums of heights: sum of the first n, and the row at a height, both in log n. */
class Heights {
  #tree = new Float64Array(1);
  #values = new Float64Array(0);
  length = 0;

  /** @param {number} length @param {number} estimate for the new rows */
  resize(length, estimate) {
    const values = new Float64Array(length).fill(estimate);
    values.set(this.#values.subarray(0, Math.min(this.length, length)));
    const tree = new Float64Array(length + 1);
    for (let index = 1; index <= length; index += 1) {
      tree[index] += values[index - 1];
      const parent = index + (index & -index);
      if (parent <= length) tree[parent] += tree[index];
    }
    this.#values = values;
    this.#tree = tree;
    this.length = length;
  }

  clear() {
    this.length = 0;
    this.#values = new Float64Array(0);
    this.#tree = new Float64Array(1);
  }

  /** @param {number} index @param {number} value */
  set(index, value) {
    const difference = value - this.#values[index];
    if (difference === 0) return;
    this.#values[index] = value;
    for (let at = index + 1; at <= this.length; at += at & -at) this.#tree[at] += difference;
  }

  /** @param {number} index */
  get(index) {
    return this.#values[index];
  }

  /** The sum of the heights before a row. @param {number} index */
  before(index) {
    let sum = 0;
    for (let at = index; at > 0; at -= at & -at) sum += this.#tree[at];
    return sum;
  }

  /** The row at a height. @param {number} height */
  at(height) {
    let position = 0;
    let rest = height;
    for (let step = 2 ** Math.floor(Math.log2(Math.max(1, this.length))); step >= 1; step /= 2) {
      const next = position + step;
      if (next <= this.length && this.#tree[next] <= rest) {
        position = next;
        rest -= this.#tree[next];
      }
    }
    return Math.min(position, Math.max(0, this.length - 1));
  }
}

/**
 * @typedef {object} Options
 * @property {string} label for screen readers
 * @property {() => HTMLElement} create Makes an empty row.
 * @property {(row: HTMLElement, index: number) => void} fill Shows an item in a row.
 * @property {number} estimate The height of a row in pixels.
 * @property {number} [narrow] The same on a narrow screen.
 * @property {boolean} [measured] Whether rows differ in height.
 * @property {string} [role] of the list, `region` otherwise; rows have their own.
 * @property {() => void} [onend] Called when the end comes into view.
 */

export class VirtualList extends HTMLElement {
  #options = /** @type {Options} */ (/** @type {unknown} */ (null));
  #heights = new Heights();
  #content = h("div", { class: "rows" });
  /** @type {Map<number, HTMLElement>} */
  #shown = new Map();
  /** @type {HTMLElement[]} */
  #free = [];
  #frame = 0;
  #all = true;
  #resized = new ResizeObserver(() => this.#sizeChanged());
  #width = 0;
  /** Where the list has scrolled itself to. */
  #ownTop = 0;
  #fit = () => {
    const { length } = this.#heights;
    this.#heights.clear();
    this.update(length);
  };

  /** @param {Options} options */
  constructor(options) {
    super();
    this.#options = options;
  }

  connectedCallback() {
    this.setAttribute("tabindex", "0");
    this.setAttribute("role", this.#options.role ?? "region");
    this.setAttribute("aria-label", this.#options.label);
    if (!this.#content.parentNode) this.append(this.#content);
    this.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    this.#resized.observe(this);
    NARROW.addEventListener("change", this.#fit);
  }

  disconnectedCallback() {
    this.#resized.disconnect();
    NARROW.removeEventListener("change", this.#fit);
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
  }

  get #rowHeight() {
    return (NARROW.matches ? this.#options.narrow : undefined) ?? this.#options.estimate;
  }

  /** The number of rows. */
  get length() {
    return this.#heights.length;
  }

  /** Whether the last row is in view, or nearly. */
  get isAtEnd() {
    return this.scrollHeight - this.scrollTop - this.clientHeight < 30;
  }

  /**
   * The items have changed. With `keep` those that were there are the same, and more may follow.
   * @param {number} length
   * @param {{ keep?: boolean }} [how]
   */
  update(length, { keep = false } = {}) {
    if (!keep && this.#options.measured) this.#heights.clear();
    if (length !== this.#heights.length) this.#heights.resize(length, this.#rowHeight);
    this.#schedule(!keep);
  }

  /** Makes the list as high as its rows, as far as the style sheet allows. */
  fit() {
    this.style.height = `${this.#heights.before(this.#heights.length)}px`;
  }

  /** What the rows show has changed. */
  refill() {
    this.#schedule(true);
  }

  scrollToEnd() {
    this.#render();
    // Rows that are shown for the first time may turn out to be higher.
    for (let pass = 0; pass < 3 && !this.isAtEnd; pass += 1) {
      this.scrollTop = this.scrollHeight;
      this.#ownTop = this.scrollTop;
      this.#render();
    }
  }

  /** Brings a row into view. @param {number} index */
  scrollToRow(index) {
    const [top, height] = [this.#heights.before(index), this.#heights.get(index)];
    if (top < this.scrollTop) this.scrollTop = top;
    else if (top + height > this.scrollTop + this.clientHeight) this.scrollTop = top + height - this.clientHeight;
    this.#render();
  }

  /** @param {number} index @returns {HTMLElement | undefined} */
  rowAt(index) {
    return this.#shown.get(index);
  }

  #sizeChanged() {
    const isNarrower = this.#options.measured && this.clientWidth !== this.#width;
    this.#width = this.clientWidth;
    if (isNarrower) {
      const { length } = this.#heights;
      this.#heights.clear();
      this.#heights.resize(length, this.#rowHeight);
    }
    this.#schedule(true);
  }

  #scrolled() {
    if (Math.abs(this.scrollTop - this.#ownTop) > 1) moved();
    this.#schedule(false);
  }

  /** @param {boolean} all whether rows that are shown must be filled again */
  #schedule(all) {
    this.#all ||= all;
    if (this.#frame) return;
    this.#frame = requestAnimationFrame(() => this.#render());
  }

  #render() {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    const { create, fill, measured, onend, role } = this.#options;
    const heights = this.#heights;
    const top = this.scrollTop;
    const first = Math.max(0, heights.at(top) - MARGIN_ROWS);
    const last = Math.min(heights.length, heights.at(top + this.clientHeight) + 1 + MARGIN_ROWS);
    for (const [index, row] of this.#shown) {
      if (index >= first && index < last) continue;
      row.remove();
      this.#shown.delete(index);
      this.#free.push(row);
    }
    /** @type {number[]} */
    const fresh = [];
    /** @type {Element | null} */
    let previous = null;
    for (let index = first; index < last; index += 1) {
      let row = this.#shown.get(index);
      const isNew = !row;
      if (!row) {
        row = this.#free.pop() ?? create();
        this.#shown.set(index, row);
        // In the order of the items, which is the order in which they are read aloud.
        if (previous) previous.after(row);
        else this.#content.prepend(row);
      }
      previous = row;
      if (isNew || this.#all) {
        row.dataset.index = String(index);
        // The first row of a table is its head.
        if (role === "rowgroup") row.setAttribute("aria-rowindex", String(index + 2));
        fill(row, index);
        fresh.push(index);
      }
    }
    if (measured) this.#measure(fresh);
    // Rows of one height stay where they were put.
    for (const index of measured ? this.#shown.keys() : fresh) this.#place(index);
    this.#content.style.height = `${heights.before(heights.length)}px`;
    this.#free.length = Math.min(this.#free.length, 40);
    this.#all = false;
    if (onend && last === heights.length) onend();
  }

  /** @param {number} index */
  #place(index) {
    const row = this.#shown.get(index);
    if (row) row.style.transform = `translateY(${this.#heights.before(index)}px)`;
  }

  /** @param {number[]} indexes */
  #measure(indexes) {
    let above = 0;
    const measured = indexes.map((index) => [index, this.#shown.get(index)?.offsetHeight ?? 0]);
    for (const [index, height] of measured) {
      if (height === 0) continue;
      if (this.#heights.before(index) < this.scrollTop) above += height - this.#heights.get(index);
      this.#heights.set(index, height);
    }
    if (above !== 0 && this.scrollTop > 0) {
      this.#content.style.height = `${this.#heights.before(this.#heights.length)}px`;
      this.scrollTop += above;
      this.#ownTop = this.scrollTop;
    }
  }
}

customElements.define("dp-virtual-list", VirtualList);
