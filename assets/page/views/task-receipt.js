// What the task has published, device by device, and whether the topic still has it.

import { get, request, Unreachable } from "../lib/api.js";
import { h, setText, show } from "../lib/dom.js";
import { dateTime, exactDuration, number, shortId } from "../lib/format.js";
import { t } from "../lib/i18n.js";
import { objects } from "../lib/stream.js";
import { isFinal } from "../lib/task-model.js";
import { bar, pill, setBar, setPill } from "../ui/parts.js";
import { download } from "../ui/download.js";
import { setError } from "../ui/errors.js";
import { toastError } from "../ui/toast.js";
import { VirtualList } from "../ui/virtual-list.js";

const COLUMNS = ["device", "published", "quarantined", "repeated", "offsets", "checksum", "verdict"];

export class TaskReceipt extends HTMLElement {
  #model;
  /** @type {any} */
  #receipt = null;
  /** @type {Map<string, any>} */
  #verdicts = new Map();
  #isLoading = false;
  #isShown = false;
  #note = h("p", { class: "muted" });
  #error = h("p", { class: "error", role: "alert", hidden: true });
  #csv = h("button", { text: t("downloadCsv"), onclick: () => this.#download() });
  #verify = h("button", { class: "go", text: t("receipt.verify"), onclick: () => this.#startVerify() });
  #progress = h("div", { class: "verify", hidden: true });
  #bar = bar(t("receipt.reading"));
  #result = h("p", { role: "status" });
  #list = new VirtualList({
    label: t("task.receipt"),
    role: "rowgroup",
    estimate: 41,
    create: () => receiptRow(),
    fill: (row, index) => this.#fill(row, this.#receipt.devices[index]),
  });

  /** @param {import("../lib/task-model.js").TaskModel} model */
  constructor(model) {
    super();
    this.#model = model;
    this.addEventListener("shown", () => {
      this.#isShown = true;
      this.#load();
    });
    model.addEventListener("task", () => this.#isShown && !this.#receipt?.isFinal && isFinal(model.task.state) && this.#load());
  }

  connectedCallback() {
    const head = h("div", { role: "row", class: "receipt-row head" },
      ...COLUMNS.map((name) => h("span", { role: "columnheader", class: `c-${name}`, text: t(`receipt.${name}`) })));
    this.#progress.append(this.#bar, this.#result);
    this.append(
      h("div", { class: "filters" }, this.#note, h("span", { class: "actions" }, this.#csv, this.#verify)),
      this.#error, this.#progress,
      h("div", { class: "table", role: "table", "aria-label": t("task.receipt") }, h("div", { role: "rowgroup" }, head), this.#list));
  }

  async #load() {
    if (this.#isLoading || this.#receipt?.isFinal) return;
    this.#isLoading = true;
    try {
      this.#receipt = await get(`${this.#model.path}/receipt`, { signal: this.#model.signal });
      show(this.#error, false);
    } catch (error) {
      if (this.#model.signal.aborted) return;
      setError(this.#error, error);
      show(this.#error, true);
      return;
    } finally {
      this.#isLoading = false;
    }
    setText(this.#note, t(this.#receipt.isFinal ? "receipt.final" : "receipt.soFar"));
    this.#list.update(this.#receipt.devices.length);
  }

  /** @param {HTMLElement} row @param {any} device */
  #fill(row, device) {
    const [name, published, quarantined, repeated, offsets, checksum, verdict] = /** @type {any[]} */ ([...row.children]);
    setText(name, device.name ?? shortId(device.deviceId));
    name.title = device.deviceId;
    setText(published, device.counted === null ? number(device.published) : `${number(device.published)} / ${number(device.counted)}`);
    setText(quarantined, device.quarantined ? number(device.quarantined) : "");
    // After a crash the rows that were sent again are not all known.
    setText(repeated, device.repeatedIsExact === false ? `≥ ${number(device.repeated)}` : device.repeated ? number(device.repeated) : "");
    const ranges = device.partitions.map((part) => `${part.partition}: ${part.firstOffset}–${part.lastOffset}`);
    setText(offsets, ranges.join(", "));
    offsets.title = [...ranges, ...(device.unlocated ? [t("receipt.unlocated", { n: device.unlocated, count: number(device.unlocated) })] : [])].join("\n");
    setText(checksum, device.checksum ?? "–");
    checksum.title = device.checksum ?? t("receipt.noChecksum");
    const found = this.#verdicts.get(device.deviceId);
    show(verdict.firstChild, Boolean(found));
    if (!found) return setText(verdict.lastChild, "");
    setPill(verdict.firstChild, found.verdict);
    const text = verdictText(found);
    setText(verdict.lastChild, text);
    verdict.title = [text, ...found.missing, ...found.altered, ...found.unexpected].join("\n");
  }

  async #startVerify() {
    this.#verify.disabled = true;
    show(this.#progress, true);
    setBar(this.#bar, 0, "running");
    setText(this.#result, t("receipt.reading"));
    this.#verdicts.clear();
    try {
      for await (const line of objects("POST", `${this.#model.path}/verify`, { signal: this.#model.signal, repeat: true })) {
        if (line.kind === "progress") {
          setBar(this.#bar, line.total ? line.read / line.total : 1, "running");
          setText(this.#result, t("receipt.read", { read: number(line.read), total: number(line.total) }));
        } else if (line.kind === "device") this.#verdicts.set(line.deviceId, line);
        else if (line.kind === "summary") this.#conclude(line);
      }
    } catch (error) {
      if (this.#model.signal.aborted) return;
      if (error instanceof Unreachable) setText(this.#result, t("receipt.cut"));
      else setError(this.#result, error);
    } finally {
      this.#verify.disabled = false;
      this.#list.refill();
    }
  }

  /** @param {any} summary */
  #conclude(summary) {
    setBar(this.#bar, 1, { complete: "succeeded", differs: "failed", unknown: "waiting" }[summary.verdict] ?? "running");
    const parameters = {
      devices: number(summary.devices), complete: number(summary.completeDevices), differing: number(summary.differingDevices),
      unknown: number(summary.unknownDevices), published: number(summary.published), found: number(summary.found),
      time: dateTime(summary.checkedAt), took: exactDuration(summary.tookMs / 1000),
    };
    setText(this.#result, t(`receipt.result.${summary.verdict}`, parameters));
  }

  async #download() {
    try {
      const headers = { accept: "text/csv" };
      const answer = await request("GET", `${this.#model.path}/receipt`, { headers, signal: this.#model.signal });
      download(`receipt-${this.#model.id}.csv`, "text/csv", [await answer.blob()]);
    } catch (error) {
      toastError(error);
    }
  }
}

function receiptRow() {
  const cells = COLUMNS.map((name) => h("span", { role: "cell", class: `c-${name}` }));
  cells[COLUMNS.length - 1].append(pill(), h("span", { class: "muted" }));
  return h("div", { role: "row", class: "receipt-row" }, ...cells);
}

/** @param {any} found */
function verdictText(found) {
  const parts = [];
  if (found.missingCount) parts.push(t("receipt.missing", { n: found.missingCount, count: number(found.missingCount) }));
  if (found.alteredCount) parts.push(t("receipt.altered", { n: found.alteredCount, count: number(found.alteredCount) }));
  if (found.unexpectedCount) parts.push(t("receipt.unexpected", { n: found.unexpectedCount, count: number(found.unexpectedCount) }));
  if (found.reason) parts.push(found.reason);
  return parts.join(" · ");
}

customElements.define("dp-task-receipt", TaskReceipt);
