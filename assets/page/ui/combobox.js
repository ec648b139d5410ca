// A field with a list of suggestions, as the ARIA practices describe a combobox.

import { ApiError } from "../lib/api.js";
import { debounced, h, newId, setText } from "../lib/dom.js";
import { t } from "../lib/i18n.js";
import { errorNodes } from "./errors.js";

/**
 * @typedef {object} Options
 * @property {string} placeholder
 * @property {(text: string, signal: AbortSignal) => Promise<any[]>} search
 * @property {(item: any) => { main: string, more: string }} show
 * @property {(item: any) => void} onchoose
 */

export class Combobox extends HTMLElement {
  #options;
  #input;
  #list;
  /** @type {any[]} */
  #items = [];
  #active = -1;
  #request = new AbortController();
  /** What the field shows while nothing is searched. */
  #chosen = "";

  /** @param {Options} options */
  constructor(options) {
    super();
    this.#options = options;
    const id = newId();
    this.#list = h("ul", { id, role: "listbox", class: "options", hidden: true, "aria-label": options.placeholder });
    this.#input = h("input", {
      type: "text", role: "combobox", autocomplete: "off", spellcheck: "false",
      "aria-expanded": "false", "aria-controls": id, "aria-autocomplete": "list", placeholder: options.placeholder,
    });
    const soon = debounced(() => this.#search(), 150);
    this.#input.addEventListener("input", soon);
    this.#input.addEventListener("focus", () => this.#input.select());
    this.#input.addEventListener("click", () => this.#list.hidden && this.#search(""));
    this.#input.addEventListener("keydown", (event) => this.#key(event));
    this.#input.addEventListener("blur", () => {
      soon.cancel();
      this.#close();
    });
  }

  /** The input, for a label. */
  get control() {
    return this.#input;
  }

  connectedCallback() {
    if (!this.firstChild) this.append(this.#input, this.#list);
  }

  /** Shows what is chosen. @param {string} text */
  setText(text) {
    this.#chosen = text;
    if (document.activeElement !== this.#input || this.#list.hidden) this.#input.value = text;
  }

  async #search(text = this.#input.value.trim()) {
    this.#request.abort();
    this.#request = new AbortController();
    const { signal } = this.#request;
    /** @type {(Node | string)[]} */
    let note = [];
    try {
      this.#items = await this.#options.search(text, signal);
      if (this.#items.length === 0) note = [t("combobox.none")];
    } catch (error) {
      if (signal.aborted) return;
      this.#items = [];
      note = error instanceof ApiError && error.status === 404 ? [t("combobox.unavailable")] : errorNodes(error);
    }
    if (signal.aborted || document.activeElement !== this.#input) return;
    this.#active = -1;
    this.#list.replaceChildren(...this.#items.map((item, index) => this.#option(item, index)));
    if (note.length > 0) this.#list.append(h("li", { role: "option", "aria-disabled": "true", class: "muted" }, ...note));
    this.#list.hidden = false;
    this.#input.setAttribute("aria-expanded", "true");
  }

  /** @param {any} item @param {number} index */
  #option(item, index) {
    const { main, more } = this.#options.show(item);
    const option = h("li", { id: newId(), role: "option", "aria-selected": "false" }, h("span", { text: main }), h("span", { class: "muted", text: more }));
    // Before the field loses the focus.
    option.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      this.#choose(index);
    });
    return option;
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    if (event.key === "Escape" && !this.#list.hidden) {
      event.stopPropagation();
      this.#close();
    } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      if (this.#list.hidden) return void this.#search("");
      this.#move(event.key === "ArrowDown" ? 1 : -1);
    } else if (event.key === "Enter" && !this.#list.hidden && this.#items.length > 0) {
      event.preventDefault();
      this.#choose(Math.max(0, this.#active));
    }
  }

  /** @param {number} step */
  #move(step) {
    const { length } = this.#items;
    if (length === 0) return;
    this.#active = this.#active < 0 && step < 0 ? length - 1 : (this.#active + step + length) % length;
    for (const [index, option] of [...this.#list.children].entries()) {
      option.setAttribute("aria-selected", String(index === this.#active));
    }
    const active = this.#list.children[this.#active];
    active.scrollIntoView({ block: "nearest" });
    this.#input.setAttribute("aria-activedescendant", active.id);
  }

  /** @param {number} index */
  #choose(index) {
    const item = this.#items[index];
    this.#chosen = this.#options.show(item).main;
    this.#close();
    this.#options.onchoose(item);
  }

  #close() {
    this.#request.abort();
    this.#list.hidden = true;
    this.#input.setAttribute("aria-expanded", "false");
    this.#input.removeAttribute("aria-activedescendant");
    if (this.#input.value !== this.#chosen) this.#input.value = this.#chosen;
    setText(this.#list, "");
  }
}

customElements.define("dp-combobox", Combobox);
