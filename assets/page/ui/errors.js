// What is shown of an error. The service explains its errors in English. Where the page is in Chinese
// and knows the error's code, that is said in Chinese, and the service's words stand beneath.

import { ApiError, Unreachable } from "../lib/api.js";
import { h } from "../lib/dom.js";
import { language, t } from "../lib/i18n.js";
import { zhErrors } from "../text/zh-errors.js";

/**
 * The text of an error, and the service's words that explain it.
 * @param {unknown} error
 * @returns {[string, string?]}
 */
function parts(error) {
  if (error instanceof Unreachable) return [t("unreachable")];
  if (error instanceof ApiError) {
    const known = language() === "zh" ? zhErrors[error.code] : undefined;
    if (!known) return [error.message];
    const field = `field.${error.field}`;
    const name = t(field);
    return [name === field ? known : `${name}：${known}`, error.message];
  }
  console.error(error);
  return [String(error)];
}

/**
 * An error as the content of an element.
 * @param {unknown} error
 * @returns {(Node | string)[]}
 */
export function errorNodes(error) {
  const [text, detail] = parts(error);
  return detail ? [text, h("small", { class: "detail", lang: "en", text: detail })] : [text];
}

/**
 * Shows an error in an element, if it is another one: the same text again would be read aloud again.
 * @param {Element} element
 * @param {unknown} error
 */
export function setError(element, error) {
  const nodes = errorNodes(error);
  const text = nodes.map((node) => (typeof node === "string" ? node : node.textContent)).join("");
  if (element.textContent !== text) element.replaceChildren(...nodes);
}
