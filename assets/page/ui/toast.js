// Short messages about what was just done, or could not be.

import { h } from "../lib/dom.js";
import { t } from "../lib/i18n.js";
import { errorNodes } from "./errors.js";

const SHOWN_MS = 6000;

export const toasts = h("div", { class: "toasts", role: "status", "aria-live": "polite" });

/** @param {string | (Node | string)[]} content @param {"info" | "error"} [kind] */
export function toast(content, kind = "info") {
  const close = h("button", { class: "quiet icon", text: "×", "aria-label": t("close"), onclick: () => message.remove() });
  const message = h("div", { class: `toast ${kind}` }, h("span", {}, ...[content].flat()), close);
  toasts.append(message);
  // An error stays until it is closed.
  if (kind === "info") setTimeout(() => message.remove(), SHOWN_MS);
  while (toasts.childElementCount > 4) toasts.firstElementChild?.remove();
}

/** Tells why something could not be done. @param {unknown} error */
export function toastError(error) {
  if (error instanceof DOMException && error.name === "AbortError") return;
  toast(errorNodes(error), "error");
}
