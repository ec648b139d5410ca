// The filters of the list of tasks: states, text, thing, device, topic, and when a task was created.

import { debounced, field, h } from "../lib/dom.js";
import { fromLocal, toLocalInput, toMs, toRfc3339 } from "../lib/format.js";
import { t } from "../lib/i18n.js";

const STATES = ["queued", "running", "succeeded", "failed", "cancelled"];
const TEXTS = ["topic", "thing", "device"];
const TIMES = ["since", "until"];

export class TaskFilters extends HTMLElement {
  /** @type {Map<string, HTMLButtonElement>} */
  #states = new Map();
  /** @type {Map<string, HTMLInputElement>} */
  #inputs = new Map();
  #details = /** @type {HTMLDetailsElement} */ (h("details", { class: "more" }));
  #onchange;

  /** @param {URLSearchParams} query @param {(query: URLSearchParams) => void} onchange */
  constructor(query, onchange) {
    super();
    this.#onchange = onchange;
    for (const state of STATES) {
      const button = h("button", { type: "button", class: "chip", "aria-pressed": "false", text: t(`state.${state}`) });
      button.addEventListener("click", () => {
        button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"));
        this.#changed();
      });
      this.#states.set(state, button);
    }
    const soon = debounced(() => this.#changed(), 300);
    const input = (name, properties) => {
      const element = h("input", { ...properties, oninput: soon });
      this.#inputs.set(name, element);
      return element;
    };
    this.#search = input("q", { type: "search", placeholder: t("filter.q"), "aria-label": t("filter.q") });
    const others = TEXTS.map((name) => field(t(`filter.${name}`), input(name, { type: "text", spellcheck: "false" })));
    const times = TIMES.map((name) => field(t(`filter.${name}`), input(name, { type: "text", spellcheck: "false", placeholder: "2019-01-11 21:03" })));
    this.#details.append(h("summary", { text: t("filter.more") }), h("div", { class: "fields" }, ...others, ...times));
    this.set(query);
  }

  #search;

  connectedCallback() {
    if (this.firstChild) return;
    this.append(
      h("div", { class: "filters" }, this.#search,
        h("div", { class: "chips", role: "group", "aria-label": t("filter.state") }, ...this.#states.values())),
      this.#details);
  }

  /** Shows the filters of an address. @param {URLSearchParams} query */
  set(query) {
    const states = query.getAll("state");
    for (const [state, button] of this.#states) button.setAttribute("aria-pressed", String(states.includes(state)));
    for (const [name, input] of this.#inputs) {
      const value = query.get(name) ?? "";
      const time = TIMES.includes(name) ? toMs(value) : NaN;
      const shown = Number.isNaN(time) ? value : toLocalInput(time);
      if (document.activeElement !== input) input.value = shown;
    }
    if ([...TEXTS, ...TIMES].some((name) => query.get(name))) this.#details.open = true;
  }

  #changed() {
    const query = new URLSearchParams();
    for (const [state, button] of this.#states) {
      if (button.getAttribute("aria-pressed") === "true") query.append("state", state);
    }
    for (const [name, input] of this.#inputs) {
      const text = input.value.trim();
      const time = TIMES.includes(name) ? fromLocal(text) : NaN;
      const value = TIMES.includes(name) ? (Number.isNaN(time) ? "" : toRfc3339(time)) : text;
      if (value) query.set(name, value);
    }
    this.#onchange(query);
  }
}

customElements.define("dp-task-filters", TaskFilters);
