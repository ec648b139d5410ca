// Dialogs that ask something, and answer with what was chosen.

import { h } from "../lib/dom.js";
import { t } from "../lib/i18n.js";

/**
 * Asks; returns what `value` says when it is confirmed, and `null` when it is not.
 * @template T
 * @param {{ title: string, content: Node[], confirm: string, danger?: boolean, value: () => T | null }} options
 * @returns {Promise<T | null>}
 */
export function ask({ title, content, confirm, danger = false, value }) {
  return new Promise((resolve) => {
    /** @type {T | null} */
    let answer = null;
    const form = h("form", {
      onsubmit: (event) => {
        event.preventDefault();
        answer = value();
        if (answer !== null) dialog.close();
      },
    },
    h("h2", { id: "dialog-title", text: title }),
    ...content,
    h("div", { class: "actions" },
      h("button", { type: "button", text: t("back"), onclick: () => dialog.close() }),
      h("button", { type: "submit", class: danger ? "go danger" : "go", text: confirm })));
    const dialog = /** @type {HTMLDialogElement} */ (h("dialog", { "aria-labelledby": "dialog-title" }, form));
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(answer);
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}
