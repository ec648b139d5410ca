// The list of tasks. Its filters are in the address.

import { get } from "../lib/api.js";
import { h, setText, show, sleep } from "../lib/dom.js";
import { dateTime, number, range, recent, shortId } from "../lib/format.js";
import { t } from "../lib/i18n.js";
import { go, link, remember } from "../lib/router.js";
import { thingName } from "../lib/things.js";
import { bar, failedPart, partOf, pill, setBar, setPill, taskState } from "../ui/parts.js";
import { setError } from "../ui/errors.js";
import { VirtualList } from "../ui/virtual-list.js";
import { TaskFilters } from "./task-filters.js";

const REFRESH_MS = 3000;
const FIRST_PAGE = 50;
/** The largest page that the service gives. */
const LARGEST_PAGE = 500;

export class TasksView extends HTMLElement {
  #stop = new AbortController();
  #request = new AbortController();
  /** @type {any[]} */
  #tasks = [];
  #next = /** @type {string | null} */ (null);
  #isLoading = false;
  #filters;
  #query;
  #count = h("span", { class: "muted", role: "status" });
  #empty = h("div", { class: "empty", hidden: true });
  #error = h("p", { class: "error", role: "alert", hidden: true });
  #list = new VirtualList({
    label: t("tasks.title"),
    role: "rowgroup",
    estimate: 62,
    narrow: 104,
    create: () => taskRow(),
    fill: (row, index) => fillRow(row, this.#tasks[index]),
    onend: () => this.#loadMore(),
  });

  /** @param {string | undefined} _ @param {URLSearchParams} query */
  constructor(_, query) {
    super();
    this.#query = query;
    this.#filters = new TaskFilters(query, (changed) => this.#filterBy(changed));
  }

  connectedCallback() {
    const { signal } = this.#stop;
    const heads = ["state", "task", "range", "devices", "rows", "created"];
    const head = h("div", { role: "row", class: "task-row head" },
      ...heads.map((name) => h("span", { role: "columnheader", class: `c-${name}`, text: t(`tasks.${name}`) })));
    this.append(
      h("div", { class: "title-row" }, h("h1", { text: t("tasks.title") }), this.#count,
        h("a", { class: "button go", href: "#/new", text: t("nav.new") })),
      this.#filters,
      this.#error,
      h("div", { class: "card table", role: "table", "aria-label": t("tasks.title") },
        h("div", { role: "rowgroup" }, head), this.#list),
      this.#empty,
    );
    document.addEventListener("visibilitychange", () => !document.hidden && this.#refresh(), { signal });
    this.#load();
    this.#keepFresh();
  }

  disconnectedCallback() {
    this.#stop.abort();
    this.#request.abort();
  }

  /** @param {URLSearchParams} query */
  addressChanged(query) {
    this.#query = query;
    this.#filters.set(query);
    this.#load();
  }

  /** @param {URLSearchParams} query */
  #filterBy(query) {
    this.#query = query;
    remember(query);
    this.#load();
  }

  #parameters(limit) {
    return [...this.#query, ["limit", String(limit)]].reduce((all, [name, value]) => {
      (all[name] ??= []).push(value);
      return all;
    }, /** @type {Record<string, string[]>} */ ({}));
  }

  /**
   * A page of the list that has items, unless there are none: a page may be empty and yet not the last.
   * @param {Record<string, any>} query @param {AbortSignal} signal
   */
  async #page(query, signal) {
    let page = await get("/tasks", { query, signal });
    while (page.items.length === 0 && page.next !== null) page = await get("/tasks", { query: { ...query, cursor: page.next }, signal });
    return page;
  }

  /** Loads the list from its beginning. */
  async #load() {
    this.#request.abort();
    this.#request = new AbortController();
    this.#tasks = [];
    this.#list.scrollTop = 0;
    this.#list.setAttribute("aria-busy", "true");
    await this.#fetch(FIRST_PAGE, this.#request.signal);
    this.#list.removeAttribute("aria-busy");
  }

  /** @param {number} limit @param {AbortSignal} signal */
  async #fetch(limit, signal) {
    try {
      const page = await this.#page(this.#parameters(limit), signal);
      this.#tasks = [...page.items, ...this.#tasks.slice(Math.max(page.items.length, limit))];
      if (this.#tasks.length === page.items.length) this.#next = page.next;
      show(this.#error, false);
    } catch (error) {
      if (signal.aborted) return;
      setError(this.#error, error);
      show(this.#error, true);
    }
    this.#update();
  }

  async #loadMore() {
    if (this.#next === null || this.#isLoading) return;
    const { signal } = this.#request;
    this.#isLoading = true;
    try {
      const page = await this.#page({ ...this.#parameters(FIRST_PAGE), cursor: this.#next }, signal);
      this.#tasks.push(...page.items);
      this.#next = page.next;
      this.#update(true);
    } catch (error) {
      if (!signal.aborted) setError(this.#error, error);
    } finally {
      this.#isLoading = false;
    }
  }

  async #refresh() {
    if (this.#isLoading || this.#request.signal.aborted) return;
    await this.#fetch(Math.min(LARGEST_PAGE, Math.max(FIRST_PAGE, this.#tasks.length)), this.#request.signal);
  }

  async #keepFresh() {
    const { signal } = this.#stop;
    while (!signal.aborted) {
      await sleep(REFRESH_MS, signal);
      if (!document.hidden && !signal.aborted) await this.#refresh();
    }
  }

  #update(keep = false) {
    this.#list.update(this.#tasks.length, { keep });
    const count = number(this.#tasks.length);
    setText(this.#count, this.#next === null ? t("tasks.count", { n: this.#tasks.length, count }) : t("tasks.countMore", { count }));
    this.#list.fit();
    const isEmpty = this.#tasks.length === 0;
    show(this.#empty, isEmpty);
    show(/** @type {HTMLElement} */ (this.#list.parentElement), !isEmpty);
    if (!isEmpty) return;
    const isFiltered = [...this.#query].length > 0;
    this.#empty.replaceChildren(
      h("p", { text: t(isFiltered ? "tasks.noneMatch" : "tasks.none") }),
      isFiltered
        ? h("button", { text: t("tasks.clearFilters"), onclick: () => go(["tasks"]) })
        : h("a", { class: "button go", href: "#/new", text: t("nav.new") }),
    );
  }
}

function taskRow() {
  const cell = (name, ...children) => h("span", { role: "cell", class: `c-${name}` }, ...children);
  return h("div", { role: "row", class: "task-row" },
    cell("state", pill()),
    cell("task", h("a", { class: "thing" }), h("span", { class: "muted reason" })),
    cell("range", h("span"), h("span", { class: "muted" })),
    cell("devices", h("span"), h("span", { class: "bad" })),
    cell("rows", bar(), h("span", { class: "muted" })),
    cell("created", h("span"), h("span", { class: "muted" })));
}

/** @param {HTMLElement} row @param {any} task */
function fillRow(row, task) {
  const [state, what, span, devices, rows, created] = /** @type {any[]} */ ([...row.children]);
  const { counted, countedDevices, published, quarantined } = task.rows;
  setPill(state.firstChild, taskState(task));
  const anchor = what.firstChild;
  anchor.href = link(["tasks", task.taskId]);
  row.dataset.task = task.taskId;
  setText(anchor, shortId(task.thingId));
  thingName(task.thingId).then((name) => {
    if (name && row.dataset.task === task.taskId) setText(anchor, name);
  });
  setText(what.lastChild, task.reason ?? shortId(task.taskId));
  setText(span.firstChild, range(task.from, task.to));
  setText(span.lastChild, `→ ${task.topic}`);
  setText(devices.firstChild, t("tasks.deviceCount", { n: task.devices.total, count: number(task.devices.total) }));
  setText(devices.lastChild, task.devices.failed > 0 ? t("tasks.failedCount", { count: number(task.devices.failed) }) : "");
  const isCounted = countedDevices >= task.devices.total - task.devices.failed - task.devices.cancelled;
  setBar(rows.firstChild, isCounted ? partOf(published + quarantined, counted) : null, taskState(task), failedPart(task));
  setText(rows.lastChild, isCounted && counted !== published
    ? t("rowsOf", { done: number(published), all: number(counted) }) : t("rows", { n: published, count: number(published) }));
  setText(created.firstChild, recent(task.createdAt));
  created.firstChild.title = dateTime(task.createdAt);
  setText(created.lastChild, task.requestedBy?.token ?? "");
}

customElements.define("dp-tasks", TasksView);
