// One task: its progress, its devices and its log, what was quarantined, and its receipt.

import { h, setText, show } from "../lib/dom.js";
import { dateTime, duration, exactDuration, number, range, shortId, speed } from "../lib/format.js";
import { t } from "../lib/i18n.js";
import { link, remember, route } from "../lib/router.js";
import { isFinal, TaskModel } from "../lib/task-model.js";
import { thingName } from "../lib/things.js";
import { bar, failedPart, partOf, pill, setBar, setPill, taskState } from "../ui/parts.js";
import { tabs } from "../ui/tabs.js";
import { errorNodes } from "../ui/errors.js";
import { TaskActions } from "./task-actions.js";
import { TaskDevices } from "./task-devices.js";
import { TaskLog } from "./task-log.js";
import { TaskQuarantine } from "./task-quarantine.js";
import { TaskReceipt } from "./task-receipt.js";

/** Where the log is shown beside the other parts, as the style sheet says too. */
const WIDE = matchMedia("(min-width: 1100px)");

export class TaskView extends HTMLElement {
  #model;
  #title = h("h1", {}, h("span"));
  #pill = pill();
  #facts = h("p", { class: "facts muted" });
  #bar = bar(t("task.progress"));
  #done = h("strong");
  #more = h("span", { class: "muted" });
  #speed = h("span", { class: "muted" });
  #error = h("div", { class: "banner warn", role: "alert", hidden: true });
  #body = h("div", {});
  #tabs = /** @type {any} */ (null);
  #timer = 0;

  /** @param {string} id */
  constructor(id) {
    super();
    this.#model = new TaskModel(id);
  }

  connectedCallback() {
    const model = this.#model;
    model.addEventListener("task", () => this.#update());
    model.addEventListener("error", () => this.#failed());
    const { query } = route();
    const devices = new TaskDevices(model, query);
    const log = new TaskLog(model, query);
    const quarantine = new TaskQuarantine(model);
    const receipt = new TaskReceipt(model);
    this.#tabs = tabs(t("task.parts"), [
      { name: "devices", label: t("task.devices"), panel: devices },
      { name: "log", label: t("task.log"), panel: log, apart: WIDE },
      { name: "quarantine", label: t("task.quarantine"), panel: quarantine },
      { name: "receipt", label: t("task.receipt"), panel: receipt },
    ], query.get("tab") ?? "devices", (name) => this.#remember({ tab: name === "devices" ? null : name }));
    for (const part of [devices, log]) {
      part.addEventListener("remember", (event) => this.#remember(/** @type {CustomEvent} */ (event).detail));
    }
    this.#body.append(
      h("div", { class: "card task-head" },
        h("div", { class: "title-row" }, this.#title, this.#pill, new TaskActions(model)),
        this.#facts,
        this.#bar,
        h("div", { class: "figures" }, h("span", {}, this.#done, this.#more), this.#speed)),
      this.#tabs.element);
    this.#body.hidden = true;
    this.append(this.#error, this.#body);
    // The time that is left runs on between two answers.
    this.#timer = setInterval(() => this.#showSpeed(), 1000);
    model.start();
  }

  disconnectedCallback() {
    this.#model.stop();
    clearInterval(this.#timer);
  }

  /** Keeps the state of a part in the address. @param {Record<string, string | null>} changes */
  #remember(changes) {
    const { query } = route();
    for (const [name, value] of Object.entries(changes)) {
      if (value === null || value === "") query.delete(name);
      else query.set(name, value);
    }
    remember(query);
  }

  #failed() {
    this.#error.replaceChildren(h("span", {}, ...errorNodes(this.#model.error)), h("a", { href: "#/tasks", text: t("task.toList") }));
    show(this.#error, true);
  }

  #update() {
    const { task } = this.#model;
    show(this.#body, true);
    const state = taskState(task);
    setPill(this.#pill, state);
    this.#showName(task.thingId);
    const by = task.requestedBy;
    const facts = [
      h("span", { class: "mono", title: task.taskId, text: shortId(task.taskId) }),
      range(task.from, task.to),
      `→ ${task.topic}`,
      by && t("task.by", { name: by.token, address: by.address }),
      dateTime(task.createdAt),
      task.reason && `“${task.reason}”`,
      task.rate !== null && t("task.rateLimit", { rate: number(task.rate) }),
      task.retryOf && h("a", { href: link(["tasks", task.retryOf]), text: t("task.retryOf", { id: shortId(task.retryOf) }) }),
    ].filter(Boolean);
    const key = JSON.stringify([task.rate, task.retryOf]);
    if (this.#facts.dataset.key !== key) {
      this.#facts.dataset.key = key;
      this.#facts.replaceChildren(...facts.flatMap((fact, index) => (index === 0 ? [fact] : [" · ", fact])));
    }
    const { counted, countedDevices, published, quarantined, unanswered } = task.rows;
    const { total, failed, cancelled } = task.devices;
    // While devices are not counted, the part of the devices is what is known.
    const isCounted = countedDevices + failed + cancelled >= total;
    const ended = total - task.devices.queued - task.devices.running;
    setBar(this.#bar, isCounted ? partOf(published + quarantined, counted) : ended / total, state, failedPart(task));
    setText(this.#done, isCounted
      ? t("rowsOf", { done: number(published), all: number(counted) })
      : t("rows", { n: published, count: number(published) }));
    const more = [
      !isCounted && t("task.counting", { done: number(countedDevices), all: number(total) }),
      t("task.devicesDone", { done: number(task.devices.succeeded), all: number(total) }),
      quarantined > 0 && t("task.quarantined", { n: quarantined, count: number(quarantined) }),
      failed > 0 && t("task.failed", { n: failed, count: number(failed) }),
      cancelled > 0 && t("task.cancelled", { n: cancelled, count: number(cancelled) }),
      unanswered > 0 && t("task.unanswered", { n: unanswered, count: number(unanswered) }),
    ].filter(Boolean);
    setText(this.#more, ` · ${more.join(" · ")}`);
    this.#tabs.setCount("devices", number(total));
    this.#tabs.setCount("quarantine", quarantined > 0 ? number(quarantined) : "");
    this.#showSpeed();
  }

  #showSpeed() {
    const { task } = this.#model;
    if (!task) return;
    const parts = [];
    if (isFinal(task.state) && task.finishedAt) {
      parts.push(t("task.took", { time: exactDuration((Date.parse(task.finishedAt) - Date.parse(task.createdAt)) / 1000) }));
    } else {
      if (task.rowsPerSecond !== null) parts.push(t("task.speed", { speed: speed(task.rowsPerSecond) }));
      if (task.estimatedEnd) parts.push(t("task.left", { time: duration((Date.parse(task.estimatedEnd) - Date.now()) / 1000) }));
    }
    setText(this.#speed, parts.join(" · "));
  }

  async #showName(thing) {
    const name = this.#title.firstChild;
    if (!name.textContent) setText(name, shortId(thing));
    setText(name, (await thingName(thing)) ?? shortId(thing));
    name.title = thing;
    document.title = `${name.textContent} · data-patch`;
  }
}

customElements.define("dp-task", TaskView);
