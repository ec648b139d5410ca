// What is above the strips: the range in figures, and which part of time is shown.

import { around, draft } from "../lib/draft.js";
import { field, h, setAttribute, setText, show } from "../lib/dom.js";
import { fromLocal, toLocalInput, zoneName } from "../lib/format.js";
import { t } from "../lib/i18n.js";

const HOUR = 3_600_000;
const DAY = 24 * HOUR;
/** What the shortest and the longest window are. */
const [SHORTEST, LONGEST] = [10 * 60_000, 60 * 365 * DAY];
/** Before this no store has readings. */
const FIRST_YEAR = Date.UTC(2000, 0, 1);
const PRESETS = /** @type {const} */ ([["day", DAY], ["week", 7 * DAY], ["month", 30 * DAY], ["year", 365 * DAY]]);

export class RangeTools extends HTMLElement {
  #preview;
  #stop = new AbortController();
  // Not `datetime-local`: browsers show that in the order and the 12 hours of their own language.
  #from = timeInput();
  #to = timeInput();
  #error = h("p", { class: "error", role: "alert", hidden: true });
  #fit = h("button", { type: "button", text: t("zoom.range"), onclick: () => draft.range && this.#show(around(draft.range)) });
  #all = h("button", { type: "button", text: t("zoom.data"), onclick: () => this.#findData() });
  #isSearching = false;
  #shownRange = "null";
  /** What is wrong with the times that were typed. */
  #problem = "";

  /** @param {import("../lib/preview-model.js").PreviewModel} preview */
  constructor(preview) {
    super();
    this.#preview = preview;
  }

  connectedCallback() {
    const { signal } = this.#stop;
    for (const input of [this.#from, this.#to]) input.addEventListener("change", () => this.#typed());
    // A range that is drawn replaces what was typed.
    draft.addEventListener("range", () => this.#mark("", []), { signal });
    const button = (name, text, action) => h("button", { type: "button", class: "icon", text, title: t(name), "aria-label": t(name), onclick: action });
    const presets = h("select", { "aria-label": t("zoom.preset"), onchange: () => this.#showLast(Number(presets.value)) },
      h("option", { value: "", text: t("zoom.preset") }),
      ...PRESETS.map(([name, length]) => h("option", { value: length, text: t(`zoom.${name}`) })));
    this.append(
      h("div", { class: "range-fields" },
        field(t("range.from", { zone: zoneName() }), this.#from),
        field(t("range.to"), this.#to)),
      h("div", { class: "zoom", role: "group", "aria-label": t("zoom.label") },
        button("zoom.earlier", "←", () => this.#pan(-0.5)),
        button("zoom.later", "→", () => this.#pan(0.5)),
        button("zoom.out", "−", () => this.zoom(2)),
        button("zoom.in", "+", () => this.zoom(0.5)),
        this.#fit, this.#all, presets),
      this.#error);
    // The keys of the zoom, wherever the focus is, except where they are typed.
    this.parentElement?.addEventListener("keydown", (event) => this.#key(event));
    this.parentElement?.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
  }

  disconnectedCallback() {
    this.#stop.abort();
  }

  update() {
    const { range } = draft;
    const key = JSON.stringify(range);
    if (key !== this.#shownRange) {
      // What is being typed stays, until the range changes.
      this.#shownRange = key;
      this.#from.value = range ? toLocalInput(range.from) : "";
      this.#to.value = range ? toLocalInput(range.to) : "";
    }
    show(this.#fit, range !== null);
    setText(this.#error, this.#problem);
    show(this.#error, this.#problem !== "");
    if (this.#isSearching && this.#preview.shown.summary) this.#found();
  }

  #typed() {
    const [from, to] = [fromLocal(this.#from.value), fromLocal(this.#to.value)];
    const wrong = [this.#from, this.#to].filter((input) => input.value.trim() && Number.isNaN(fromLocal(input.value)));
    this.#mark(wrong.length > 0 ? t("range.format") : from > to ? t("range.order") : "", wrong);
    this.update();
    if (this.#problem || Number.isNaN(from) || Number.isNaN(to)) return;
    draft.range = { from, to };
    draft.changed("range");
    const { window } = draft;
    if (from < window.from || to > window.to) this.#show(around(draft.range));
  }

  /** @param {string} problem @param {HTMLInputElement[]} inputs that have it */
  #mark(problem, inputs) {
    this.#problem = problem;
    for (const input of [this.#from, this.#to]) setAttribute(input, "aria-invalid", inputs.includes(input) ? "true" : null);
  }

  /** @param {import("../lib/draft.js").Span} window */
  #show(window) {
    draft.window = window;
    draft.changed("window");
  }

  /** @param {number} length in milliseconds */
  #showLast(length) {
    if (length) this.#show({ from: Date.now() - length, to: Date.now() });
  }

  /** @param {number} part of the window */
  #pan(part) {
    const { from, to } = draft.window;
    const by = (to - from) * part;
    this.#show({ from: from + by, to: to + by });
  }

  /**
   * Shows more or less.
   * @param {number} factor
   * @param {number} [at] the part of the window that stays where it is
   */
  zoom(factor, at = 0.5) {
    const { from, to } = draft.window;
    const length = Math.min(LONGEST, Math.max(SHORTEST, (to - from) * factor));
    const fixed = from + (to - from) * at;
    this.#show({ from: Math.floor(fixed - length * at), to: Math.ceil(fixed + length * (1 - at)) });
  }

  /** Looks for the time in which there are rows: first in all of it, then closer. */
  #findData() {
    this.#isSearching = true;
    this.#show({ from: FIRST_YEAR, to: Date.now() + DAY });
  }

  #found() {
    const devices = [...this.#preview.shown.devices.values()].filter((device) => device.first);
    this.#isSearching = false;
    if (devices.length === 0) return;
    const from = Math.min(...devices.map((device) => Date.parse(device.first)));
    const to = Math.max(...devices.map((device) => Date.parse(device.last)));
    this.#show({ from: from - HOUR, to: to + HOUR });
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    const target = /** @type {HTMLElement} */ (event.target);
    if (event.ctrlKey || event.metaKey || event.altKey || target.matches("input:not([type=checkbox]), select")) return;
    const action = { "+": () => this.zoom(0.5), "=": () => this.zoom(0.5), "-": () => this.zoom(2), ",": () => this.#pan(-0.5), ".": () => this.#pan(0.5), 0: () => this.#fit.click() }[event.key];
    if (!action) return;
    event.preventDefault();
    action();
  }

  /** With Ctrl the wheel zooms, as in maps. @param {WheelEvent} event */
  #wheel(event) {
    if (!event.ctrlKey) return;
    event.preventDefault();
    const box = this.parentElement?.querySelector(".axis")?.getBoundingClientRect();
    if (!box) return;
    const at = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
    this.zoom(event.deltaY > 0 ? 1.25 : 0.8, at);
  }
}

function timeInput() {
  return h("input", { type: "text", inputmode: "numeric", spellcheck: "false", autocomplete: "off", placeholder: "2019-01-11 21:03:00" });
}

customElements.define("dp-range-tools", RangeTools);
