// What can be done with a task: change its rate, pause, resume, cancel, retry. Only for operators.

import { field, h, setText, show } from "../lib/dom.js";
import { number } from "../lib/format.js";
import { t } from "../lib/i18n.js";
import { go } from "../lib/router.js";
import { session } from "../lib/session.js";
import { isFinal } from "../lib/task-model.js";
import { ask } from "../ui/dialog.js";
import { toast, toastError } from "../ui/toast.js";

export class TaskActions extends HTMLElement {
  #model;
  #rate = h("button", { onclick: () => this.#askRate() });
  #pause = h("button", { text: t("task.pause"), onclick: () => this.#steer("pause") });
  #resume = h("button", { text: t("task.resume"), class: "go", onclick: () => this.#steer("resume") });
  #cancel = h("button", { text: t("task.cancel"), class: "danger", onclick: () => this.#askCancel() });
  #retry = h("button", { class: "go", onclick: () => this.#retryFailed() });
  #again = h("button", { text: t("task.again"), onclick: () => this.#retryAll() });

  /** @param {import("../lib/task-model.js").TaskModel} model */
  constructor(model) {
    super();
    this.#model = model;
    model.addEventListener("task", () => this.#update());
  }

  connectedCallback() {
    this.className = "actions";
    this.append(this.#rate, this.#pause, this.#resume, this.#cancel, this.#retry, this.#again);
    for (const button of this.children) /** @type {HTMLElement} */ (button).hidden = true;
  }

  #update() {
    const { task } = this.#model;
    const may = session.isOperator;
    const isOpen = !isFinal(task.state) && !task.cancelRequested;
    const again = task.devices.failed + task.devices.cancelled;
    setText(this.#rate, task.rate === null ? t("task.noLimit") : t("task.rate", { rate: number(task.rate) }));
    this.#rate.setAttribute("aria-label", t("task.changeRate", { rate: this.#rate.textContent }));
    show(this.#rate, may && isOpen);
    show(this.#pause, may && isOpen && !task.paused);
    show(this.#resume, may && isOpen && task.paused);
    show(this.#cancel, may && isOpen);
    setText(this.#retry, t("task.retry", { n: again, count: number(again) }));
    show(this.#retry, may && isFinal(task.state) && again > 0);
    show(this.#again, may && isFinal(task.state) && again === 0);
  }

  /** @param {"pause" | "resume" | "cancel"} action */
  async #steer(action) {
    const had = this.contains(document.activeElement);
    try {
      await this.#model.steer(action);
      this.#update();
      // The button that was pressed is gone.
      const next = { pause: this.#resume, resume: this.#pause, cancel: null }[action];
      if (had && next && !next.hidden) next.focus();
    } catch (error) {
      toastError(error);
    }
  }

  async #askCancel() {
    const { rows } = this.#model.task;
    const yes = await ask({
      title: t("task.cancelTitle"),
      content: [h("p", { text: t("task.cancelText", { n: rows.published, count: number(rows.published) }) })],
      confirm: t("task.cancelConfirm"),
      danger: true,
      value: () => true,
    });
    if (yes) await this.#steer("cancel");
  }

  async #askRate() {
    const { task } = this.#model;
    const { maxRate } = session.service.limits;
    const input = h("input", { type: "number", min: 1, max: maxRate ?? undefined, step: 1, inputmode: "numeric", value: task.rate ?? "" });
    const hint = maxRate === null ? t("task.rateHint") : t("task.rateHintMax", { max: number(maxRate) });
    const chosen = await ask({
      title: t("task.rateTitle"),
      content: [field(t("task.rateField"), input, hint)],
      confirm: t("task.rateConfirm"),
      value: () => ({ rate: input.value === "" ? null : Number(input.value) }),
    });
    if (!chosen) return;
    try {
      await this.#model.setRate(chosen.rate);
      toast(t("task.rateSet"));
    } catch (error) {
      toastError(error);
    }
  }

  async #retryFailed() {
    await this.#retryWith("failed");
  }

  async #retryAll() {
    const { devices } = this.#model.task;
    const yes = await ask({
      title: t("task.againTitle"),
      content: [h("p", { text: t("task.againText", { n: devices.total, count: number(devices.total) }) })],
      confirm: t("task.againConfirm"),
      value: () => true,
    });
    if (yes) await this.#retryWith("all");
  }

  /** @param {"failed" | "all"} devices */
  async #retryWith(devices) {
    this.#retry.disabled = true;
    try {
      const created = await this.#model.retry(devices);
      go(["tasks", created.taskId]);
    } catch (error) {
      toastError(error);
    } finally {
      this.#retry.disabled = false;
    }
  }
}

customElements.define("dp-task-actions", TaskActions);
