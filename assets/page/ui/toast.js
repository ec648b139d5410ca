// Short messages about what was just done, or could not be.

import { ApiError, Unreachable } from "../lib/api.js";
import { h } from "../lib/dom.js";
import { language, t } from "../lib/i18n.js";
import { zhErrors } from "../text/zh-errors.js";

const SHOWN_MS = 6000;

export const toasts = h("div", { class: "toasts", role: "status", "aria-live": "polite" });

/** @param {string} text @param {"info" | "error"} [kind] */
export function toast(text, kind = "info") {
  const close = h("button", { class: "quiet icon", text: "×", "aria-label": t("close"), onclick: () => message.remove() });
  const message = h("div", { class: `toast ${kind}` }, h("span", { text }), close);
  toasts.append(message);
  // An error stays until it is closed.
  if (kind === "info") setTimeout(() => message.remove(), SHOWN_MS);
  while (toasts.childElementCount > 4) toasts.firstElementChild?.remove();
}

/** Tells why something could not be done. @param {unknown} error */
export function toastError(error) {
  if (error instanceof DOMException && error.name === "AbortError") return;
  toast(errorText(error), "error");
}

/** @param {unknown} error */
export function errorText(error) {
  if (error instanceof Unreachable) return t("unreachable");
  if (error instanceof ApiError) return withReason(error);
  console.error(error);
  return String(error);
}

/** The service explains its errors in English; in another language its code is said first. @param {ApiError} error */
export function withReason(error) {
  const known = language() === "zh" ? zhErrors[error.code] : undefined;
  return known ? `${known}（${error.message}）` : error.message;
}
