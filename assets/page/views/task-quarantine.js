// The rows that were not published, because ET cannot read them.

import { get, request } from "../lib/api.js";
import { h, setText, show } from "../lib/dom.js";
import { dateTime } from "../lib/format.js";
import { t } from "../lib/i18n.js";
import { download } from "../ui/download.js";
import { setError } from "../ui/errors.js";
import { toastError } from "../ui/toast.js";
import { VirtualList } from "../ui/virtual-list.js";

const PAGE = 200;
/** The largest page that the service gives. */
const LARGEST_PAGE = 500;

export class TaskQuarantine extends HTMLElement {
  #model;
  /** @type {any[]} */
  #rows = [];
  #next = /** @type {string | null} */ (null);
  #isLoading = false;
  #isStarted = false;
  #quarantined = 0;
  #empty = h("p", { class: "muted", text: t("quarantine.none") });
  #csv = h("button", { text: t("downloadCsv"), hidden: true, onclick: () => this.#download() });
  #list = new VirtualList({
    label: t("task.quarantine"),
    role: "rowgroup",
    estimate: 41,
    narrow: 58,
    create: () => h("div", { role: "row", class: "quarantine-row" },
      ...["device", "time", "key", "reason"].map((name) => h("span", { role: "cell", class: `c-${name}` }))),
    fill: (row, index) => this.#fill(row, this.#rows[index]),
    onend: () => this.#load(),
  });
  #table = h("div", { class: "table", role: "table", "aria-label": t("task.quarantine"), hidden: true });

  /** @param {import("../lib/task-model.js").TaskModel} model */
  constructor(model) {
    super();
    this.#model = model;
    model.addEventListener("task", () => this.#update());
    model.addEventListener("names", () => this.#list.refill());
    this.addEventListener("shown", () => {
      this.#isStarted = true;
      this.#update();
    });
  }

  connectedCallback() {
    const head = h("div", { role: "row", class: "quarantine-row head" },
      ...["device", "time", "key", "reason"].map((name) => h("span", { role: "columnheader", class: `c-${name}`, text: t(`quarantine.${name}`) })));
    this.#table.append(h("div", { role: "rowgroup" }, head), this.#list);
    this.append(h("div", { class: "filters" }, h("p", { class: "muted", text: t("quarantine.what") }), this.#csv), this.#empty, this.#table);
  }

  #update() {
    const count = this.#model.task?.rows.quarantined ?? 0;
    show(this.#empty, count === 0);
    show(this.#table, count > 0);
    show(this.#csv, count > 0);
    if (!this.#isStarted || count === this.#quarantined) return;
    // Rows of several devices come in between each other: the list begins anew.
    this.#quarantined = count;
    this.#rows = [];
    this.#next = "";
    this.#load();
  }

  async #load() {
    if (this.#isLoading || this.#next === null) return;
    this.#isLoading = true;
    try {
      const query = { limit: PAGE, cursor: this.#next };
      const page = await get(`${this.#model.path}/quarantine`, { query, signal: this.#model.signal });
      this.#rows.push(...page.items);
      this.#next = page.next;
    } catch (error) {
      if (this.#model.signal.aborted) return;
      setError(this.#empty, error);
      show(this.#empty, true);
      this.#next = null;
    } finally {
      this.#isLoading = false;
    }
    this.#list.update(this.#rows.length);
  }

  /** @param {HTMLElement} row @param {any} item */
  #fill(row, item) {
    const [device, time, key, reason] = /** @type {any[]} */ ([...row.children]);
    setText(device, this.#model.nameOf(item.deviceId));
    device.title = item.deviceId;
    setText(time, Number.isNaN(Date.parse(item.time)) ? item.time : dateTime(item.time));
    setText(key, item.key);
    setText(reason, item.reason);
    reason.title = item.reason;
  }

  async #download() {
    this.#csv.disabled = true;
    try {
      const parts = [];
      let cursor = /** @type {string | null} */ ("");
      while (cursor !== null) {
        const headers = { accept: "text/csv" };
        const query = { limit: LARGEST_PAGE, cursor };
        const answer = await request("GET", `${this.#model.path}/quarantine`, { query, headers, signal: this.#model.signal });
        const text = await answer.text();
        // Each page begins with the names of the columns.
        parts.push(parts.length === 0 ? text : text.slice(text.indexOf("\n") + 1));
        cursor = answer.headers.get("next-cursor");
      }
      download(`quarantine-${this.#model.id}.csv`, "text/csv", parts);
    } catch (error) {
      toastError(error);
    } finally {
      this.#csv.disabled = false;
    }
  }
}

customElements.define("dp-task-quarantine", TaskQuarantine);
