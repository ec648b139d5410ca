// The log of a task, live. Its texts are made here from the typed entries, with the names of devices,
// so that they follow the language of the page.

import { h, setText, show } from "../lib/dom.js";
import { clock, dateTime, number } from "../lib/format.js";
import { t } from "../lib/i18n.js";
import { eventText, severity } from "../text/events.js";
import { VirtualList } from "../ui/virtual-list.js";

/** The list scrolls for so long after the user has touched it. */
const USER_SCROLL_MS = 700;
const LEVELS = ["info", "warn", "error"];

export class TaskLog extends HTMLElement {
  #model;
  #stop = new AbortController();
  #level;
  /** The entries that are shown, as indexes. @type {any[]} */
  #shown = [];
  /** How many entries of the model are looked at. */
  #seen = 0;
  #dropped = 0;
  #isFollowing = true;
  #counts = { info: 0, warn: 0, error: 0 };
  /** @type {Map<string, HTMLButtonElement>} */
  #buttons = new Map();
  #note = h("p", { class: "muted", hidden: true });
  #follow = h("button", { class: "quiet", hidden: true, text: t("log.toEnd"), onclick: () => this.#setFollowing(true) });
  #list = new VirtualList({
    label: t("task.log"),
    role: "log",
    estimate: 22,
    measured: true,
    create: () => h("div", { class: "entry" }, h("time"), " ", h("span", { class: "level" }), h("span")),
    fill: (row, index) => this.#fill(row, this.#shown[index]),
  });

  /** @param {import("../lib/task-model.js").TaskModel} model @param {URLSearchParams} query */
  constructor(model, query) {
    super();
    this.#model = model;
    const level = query.get("log") ?? "info";
    this.#level = LEVELS.includes(level) ? level : "info";
  }

  connectedCallback() {
    const { signal } = this.#stop;
    for (const level of LEVELS) {
      const button = h("button", { type: "button", class: "chip", "aria-pressed": String(level === this.#level), onclick: () => this.#choose(level) });
      this.#buttons.set(level, button);
    }
    this.append(
      h("div", { class: "filters" }, h("h2", { class: "wide-only", text: t("task.log") }),
        h("div", { class: "chips", role: "group", "aria-label": t("log.level") }, ...this.#buttons.values()), this.#follow),
      this.#note, this.#list);
    // Each entry would be read aloud as it comes; there may be thousands a minute.
    this.#list.setAttribute("aria-live", "off");
    this.#followScrolling();
    this.#model.addEventListener("log", () => this.#update(), { signal });
    // The names of devices become known.
    this.#model.addEventListener("names", () => this.#list.refill(), { signal });
    this.addEventListener("shown", () => this.#isFollowing && this.#list.scrollToEnd());
    this.#showCounts();
  }

  disconnectedCallback() {
    this.#stop.abort();
  }

  /** @param {string} level */
  #choose(level) {
    this.#level = level;
    for (const [name, button] of this.#buttons) button.setAttribute("aria-pressed", String(name === level));
    this.dispatchEvent(new CustomEvent("remember", { detail: { log: level === "info" ? null : level } }));
    this.#again();
  }

  /** Looks at all entries anew. */
  #again() {
    this.#shown = [];
    this.#seen = 0;
    this.#counts = { info: 0, warn: 0, error: 0 };
    this.#look();
    this.#list.update(this.#shown.length);
    this.#setFollowing(true);
  }

  #update() {
    if (this.#dropped !== this.#model.dropped) {
      this.#dropped = this.#model.dropped;
      setText(this.#note, t("log.dropped", { count: number(this.#dropped) }));
      show(this.#note, true);
      return this.#again();
    }
    this.#look();
    this.#list.update(this.#shown.length, { keep: true });
    if (this.#isFollowing) this.#list.scrollToEnd();
  }

  /** New entries are followed until the user scrolls away from the end, and again from there. */
  #followScrolling() {
    let touched = 0;
    const touch = () => (touched = performance.now());
    for (const name of ["wheel", "keydown", "pointerdown", "pointermove", "touchmove"]) {
      this.#list.addEventListener(name, touch, { passive: true });
    }
    this.#list.addEventListener("scroll", () => {
      if (performance.now() - touched < USER_SCROLL_MS) this.#setFollowing(this.#list.isAtEnd);
    }, { passive: true });
  }

  /** @param {boolean} isFollowing */
  #setFollowing(isFollowing) {
    this.#isFollowing = isFollowing;
    show(this.#follow, !isFollowing);
    if (isFollowing) this.#list.scrollToEnd();
  }

  #look() {
    const { entries } = this.#model;
    const least = LEVELS.indexOf(this.#level);
    for (; this.#seen < entries.length; this.#seen += 1) {
      const entry = entries[this.#seen];
      const level = severity(entry);
      this.#counts[level] += 1;
      if (LEVELS.indexOf(level) >= least) this.#shown.push(entry);
    }
    this.#showCounts();
  }

  #showCounts() {
    const { info, warn, error } = this.#counts;
    const counts = { info: info + warn + error, warn: warn + error, error };
    for (const [level, button] of this.#buttons) setText(button, `${t(`log.${level}`)} ${number(counts[level])}`);
  }

  /** @param {HTMLElement} row @param {any} entry */
  #fill(row, entry) {
    const [time, level, text] = /** @type {any[]} */ ([...row.children]);
    const kind = severity(entry);
    row.dataset.level = kind;
    row.dataset.seq = entry.seq;
    setText(time, clock(entry.time));
    time.title = dateTime(entry.time);
    setText(level, kind === "info" ? "" : `${t(`log.word.${kind}`)} `);
    setText(text, eventText(entry, (device) => this.#model.nameOf(device)));
  }
}

customElements.define("dp-task-log", TaskLog);
