// Small parts that several views have.

import { h, setText } from "../lib/dom.js";
import { t } from "../lib/i18n.js";

/** The state of a task or a device, as a coloured word. */
export function pill() {
  return h("span", { class: "pill" });
}

/**
 * @param {HTMLElement} element made by `pill`
 * @param {string} state
 */
export function setPill(element, state) {
  if (element.dataset.state === state) return;
  element.dataset.state = state;
  setText(element, t(`state.${state}`));
}

/** What is shown as the state of a task. @param {any} task */
export function taskState(task) {
  const isOpen = task.state === "queued" || task.state === "running";
  if (isOpen && task.cancelRequested) return "cancelling";
  if (isOpen && task.paused) return "paused";
  return task.state;
}

/** What is shown as the state of a device. @param {any} job */
export function jobState(job) {
  return job.state === "queued" && job.waiting ? "waiting" : job.state;
}

/** A bar that is filled to a part, with another part at its end for what failed. @param {string} [label] for screen readers */
export function bar(label) {
  const element = h("div", { class: "bar" }, h("i"), h("i", { class: "lost" }));
  if (label) {
    element.setAttribute("role", "progressbar");
    element.setAttribute("aria-label", label);
    element.setAttribute("aria-valuemin", "0");
    element.setAttribute("aria-valuemax", "100");
  }
  return element;
}

/**
 * @param {HTMLElement} element made by `bar`
 * @param {number | null} part from 0 to 1; `null` if it is not known
 * @param {string} state
 * @param {number} [failed] the part that failed, from 0 to 1
 */
export function setBar(element, part, state, failed = 0) {
  const percent = Math.round((part ?? 0) * (1 - failed) * 1000) / 10;
  const [fill, lost] = /** @type {HTMLElement[]} */ (/** @type {any} */ (element.children));
  fill.style.width = `${percent}%`;
  lost.style.width = `${Math.round(failed * 1000) / 10}%`;
  element.dataset.state = state;
  if (!element.hasAttribute("role")) return;
  if (part === null) element.removeAttribute("aria-valuenow");
  else element.setAttribute("aria-valuenow", String(Math.floor(percent)));
}

/** The part of a task that failed. @param {any} task */
export function failedPart(task) {
  return task.devices.failed / task.devices.total;
}

/** How much of its rows a task or device has done, from 0 to 1. @param {number} done @param {number | null} all */
export function partOf(done, all) {
  return all === null ? null : all === 0 ? 1 : Math.min(1, done / all);
}
