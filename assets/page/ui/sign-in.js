// Asks for the token, over whatever view is open; the view goes on behind it.

import { ApiError, identify } from "../lib/api.js";
import { field, h, setText, show } from "../lib/dom.js";
import { t } from "../lib/i18n.js";
import { session } from "../lib/session.js";
import { setError } from "./errors.js";

export class SignIn extends HTMLElement {
  #stop = new AbortController();
  #reason = h("p", { class: "muted" });
  #error = h("p", { class: "error", role: "alert", hidden: true });
  #input = h("input", { type: "password", autocomplete: "off", spellcheck: "false", name: "token" });
  #button = h("button", { class: "go", type: "submit", text: t("signIn") });
  #dialog = /** @type {HTMLDialogElement} */ (h("dialog", { class: "sign-in", "aria-labelledby": "sign-in-title" }));

  connectedCallback() {
    this.#stop = new AbortController();
    const form = h("form", { onsubmit: (event) => this.#submit(event) },
      h("h1", { id: "sign-in-title", text: t("signInTitle") }),
      this.#reason,
      field(t("token"), this.#input, t("tokenHint")),
      this.#error,
      h("div", { class: "actions" }, this.#button));
    this.#dialog.replaceChildren(form);
    // There is nothing to see without a token.
    this.#dialog.addEventListener("cancel", (event) => event.preventDefault());
    this.append(this.#dialog);
    session.addEventListener("change", () => this.#update(), { signal: this.#stop.signal });
    this.#update();
  }

  disconnectedCallback() {
    this.#stop.abort();
  }

  #update() {
    if (session.hasToken) {
      if (this.#dialog.open) this.#dialog.close();
      return;
    }
    setText(this.#reason, t(`signIn.${session.reason}`));
    if (this.#dialog.open) return;
    this.#input.value = "";
    show(this.#error, false);
    this.#dialog.showModal();
    this.#input.focus();
  }

  /** @param {Event} event */
  async #submit(event) {
    event.preventDefault();
    const token = this.#input.value.trim();
    if (!token || this.#button.disabled) return;
    this.#button.disabled = true;
    setText(this.#button, t("checking"));
    show(this.#error, false);
    try {
      session.accept(token, await identify(token));
    } catch (error) {
      const isWrong = error instanceof ApiError && error.status === 401;
      if (isWrong) setText(this.#error, t("wrongToken"));
      else setError(this.#error, error);
      show(this.#error, true);
      this.#input.select();
      this.#input.focus();
    } finally {
      this.#button.disabled = false;
      setText(this.#button, t("signIn"));
    }
  }
}

customElements.define("dp-sign-in", SignIn);
