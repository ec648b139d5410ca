// The devices of a task, sorted and filtered. Only those on the screen are in the document.

import { debounced, h, setText, show } from "../lib/dom.js";
import { clock, duration, number, shortId, speed } from "../lib/format.js";
import { t } from "../lib/i18n.js";
import { isFinal, rowsDone } from "../lib/task-model.js";
import { bar, jobState, partOf, pill, setBar, setPill } from "../ui/parts.js";
import { VirtualList } from "../ui/virtual-list.js";

const COLUMNS = ["device", "state", "progress", "rows", "speed", "left"];
/** Devices that need attention come first. */
const STATES = ["failed", "waiting", "running", "queued", "cancelled", "succeeded"];

/** Names become known while a task runs. */
const RANK_MS = 3000;

/** What a column is sorted by, except for the names. @type {Record<string, (job: any) => number>} */
const SORT_KEYS = {
  state: (job) => STATES.indexOf(jobState(job)),
  progress: (job) => partOf(rowsDone(job), job.counted) ?? -1,
  rows: (job) => job.counted ?? -1,
  speed: (job) => job.rowsPerSecond ?? -1,
  left: (job) => (job.estimatedEnd ? Date.parse(job.estimatedEnd) : Number.MAX_SAFE_INTEGER),
};

export class TaskDevices extends HTMLElement {
  #model;
  #stop = new AbortController();
  /** @type {any[]} */
  #shown = [];
  #sort;
  #states;
  #search;
  /** @type {Map<string, HTMLButtonElement>} */
  #chips = new Map();
  /** @type {Map<string, HTMLElement>} */
  #heads = new Map();
  #status = h("span", { class: "muted", role: "status" });
  /** @type {Map<string, number>} */
  #ranks = new Map();
  #rankedAt = 0;
  #collator = new Intl.Collator(undefined, { numeric: true });
  #list = new VirtualList({
    label: t("task.devices"),
    role: "rowgroup",
    estimate: 41,
    narrow: 66,
    create: () => deviceRow(),
    fill: (row, index) => fillRow(row, this.#shown[index]),
  });

  /** @param {import("../lib/task-model.js").TaskModel} model @param {URLSearchParams} query */
  constructor(model, query) {
    super();
    this.#model = model;
    this.#sort = query.get("sort") ?? "";
    this.#states = new Set((query.get("states") ?? "").split(",").filter((state) => STATES.includes(state)));
    this.#search = h("input", { type: "search", placeholder: t("devices.search"), "aria-label": t("devices.search"), value: query.get("device") ?? "" });
  }

  connectedCallback() {
    const { signal } = this.#stop;
    this.#search.addEventListener("input", debounced(() => this.#changed(), 150));
    for (const state of STATES) {
      const chip = h("button", { type: "button", class: "chip", hidden: true, "aria-pressed": String(this.#states.has(state)) });
      chip.addEventListener("click", () => {
        if (!this.#states.delete(state)) this.#states.add(state);
        chip.setAttribute("aria-pressed", String(this.#states.has(state)));
        this.#changed();
      });
      this.#chips.set(state, chip);
    }
    for (const column of COLUMNS) {
      const button = h("button", { type: "button", class: "quiet", text: t(`devices.${column}`), onclick: () => this.#sortBy(column) });
      this.#heads.set(column, h("span", { role: "columnheader", class: `c-${column}` }, button));
    }
    const head = h("div", { role: "row", class: "device-row head" }, ...this.#heads.values());
    this.append(
      h("div", { class: "filters" }, this.#search,
        h("div", { class: "chips", role: "group", "aria-label": t("filter.state") }, ...this.#chips.values()), this.#status),
      h("div", { class: "table", role: "table", "aria-label": t("task.devices") }, h("div", { role: "rowgroup" }, head), this.#list));
    this.#model.addEventListener("jobs", () => this.#update(), { signal });
    this.#markSort();
  }

  disconnectedCallback() {
    this.#stop.abort();
  }

  /** @param {string} column */
  #sortBy(column) {
    this.#sort = { [column]: `-${column}`, [`-${column}`]: "" }[this.#sort] ?? column;
    this.#markSort();
    this.#changed();
  }

  #markSort() {
    for (const [column, head] of this.#heads) {
      const order = { [column]: "ascending", [`-${column}`]: "descending" }[this.#sort] ?? "none";
      head.setAttribute("aria-sort", order);
    }
  }

  #changed() {
    const detail = { device: this.#search.value.trim(), states: [...this.#states].join(","), sort: this.#sort };
    this.dispatchEvent(new CustomEvent("remember", { detail }));
    this.#update();
    this.#list.scrollTop = 0;
  }

  #update() {
    const { jobs } = this.#model;
    const text = this.#search.value.trim().toLowerCase();
    const counts = new Map(STATES.map((state) => [state, 0]));
    const shown = [];
    for (const job of jobs) {
      const state = jobState(job);
      counts.set(state, (counts.get(state) ?? 0) + 1);
      const isWanted = this.#states.size === 0 || this.#states.has(state);
      if (isWanted && (!text || job.deviceId.includes(text) || job.name?.toLowerCase().includes(text))) shown.push(job);
    }
    this.#order(shown);
    this.#shown = shown;
    this.#list.parentElement?.setAttribute("aria-rowcount", String(shown.length + 1));
    for (const [state, chip] of this.#chips) {
      const count = counts.get(state) ?? 0;
      show(chip, count > 0 || this.#states.has(state));
      setText(chip, `${t(`state.${state}`)} ${number(count)}`);
    }
    const isPart = shown.length !== jobs.length;
    setText(this.#status, isPart ? t("devices.shown", { shown: number(shown.length), all: number(jobs.length) }) : "");
    this.#list.update(shown.length);
  }

  /** @param {any[]} jobs */
  #order(jobs) {
    if (!this.#sort) return;
    const column = this.#sort.replace("-", "");
    const key = column === "device" ? this.#rankByName() : SORT_KEYS[column];
    if (!key) return;
    const direction = this.#sort.startsWith("-") ? -1 : 1;
    const keyed = jobs.map((job) => ({ job, key: key(job) }));
    keyed.sort((a, b) => direction * (a.key - b.key));
    keyed.forEach(({ job }, index) => (jobs[index] = job));
  }

  /** The place of a device by its name. To compare names takes long, so it is done again only now and then. */
  #rankByName() {
    const { jobs } = this.#model;
    if (jobs.length !== this.#ranks.size || performance.now() - this.#rankedAt > RANK_MS) {
      const named = jobs.map((job) => ({ id: job.deviceId, name: job.name ?? job.deviceId }));
      named.sort((a, b) => this.#collator.compare(a.name, b.name));
      this.#ranks = new Map(named.map(({ id }, index) => [id, index]));
      this.#rankedAt = performance.now();
    }
    return (/** @type {any} */ job) => this.#ranks.get(job.deviceId) ?? 0;
  }
}

function deviceRow() {
  const cell = (name, ...children) => h("span", { role: "cell", class: `c-${name}` }, ...children);
  return h("div", { role: "row", class: "device-row" },
    cell("device"), cell("state", pill()), cell("progress", bar()), cell("rows"), cell("speed"), cell("left"));
}

/** @param {HTMLElement} row @param {any} job */
function fillRow(row, job) {
  const [device, state, progress, rows, perSecond, left] = /** @type {any[]} */ ([...row.children]);
  setText(device, job.name ?? shortId(job.deviceId));
  device.title = job.deviceId;
  const shown = jobState(job);
  setPill(state.firstChild, shown);
  setBar(progress.firstChild, partOf(rowsDone(job), job.counted), shown);
  setText(rows, job.counted === null ? (job.published ? number(job.published) : "") : `${number(job.published)} / ${number(job.counted)}`);
  setText(perSecond, job.rowsPerSecond === null ? "" : t("perSecond", { speed: speed(job.rowsPerSecond) }));
  const text = remark(job);
  setText(left, text);
  left.title = text;
  left.classList.toggle("bad", job.state === "failed");
}

/** The time that is left, or what is to be said in its place. @param {any} job */
function remark(job) {
  if (job.reason) return job.reason;
  if (job.waiting) return t("devices.waiting", { n: job.waiting.outages, time: clock(job.waiting.nextAttemptAt) });
  const parts = [];
  if (job.estimatedEnd && !isFinal(job.state)) parts.push(duration((Date.parse(job.estimatedEnd) - Date.now()) / 1000));
  if (job.quarantined > 0) parts.push(t("task.quarantined", { n: job.quarantined, count: number(job.quarantined) }));
  return parts.join(" · ");
}

customElements.define("dp-task-devices", TaskDevices);
