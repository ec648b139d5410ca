// The head of the page: where one is, whether the service answers, who one is, language and colours.

import { connection } from "../lib/connection.js";
import { h, setText, show } from "../lib/dom.js";
import { language, setLanguage, t } from "../lib/i18n.js";
import { session } from "../lib/session.js";
import { nextTheme, theme } from "../lib/theme.js";

export class Header extends HTMLElement {
  static observedAttributes = ["current"];
  #stop = new AbortController();
  #links = new Map();
  #status = h("span", { class: "status", role: "status" }, h("i", { "aria-hidden": "true" }), h("span"));
  #who = h("span", { class: "who" });
  #signOut = h("button", { class: "quiet", text: t("signOut"), onclick: () => session.signOut() });
  #theme = h("button", { class: "quiet icon", onclick: () => this.#nextTheme() });

  connectedCallback() {
    this.#stop = new AbortController();
    const { signal } = this.#stop;
    for (const [name, href] of [["new", "#/new"], ["tasks", "#/tasks"]]) {
      this.#links.set(name, h("a", { href, text: t(`nav.${name}`) }));
    }
    const other = language() === "zh" ? "en" : "zh";
    const languageButton = h("button", {
      class: "quiet",
      lang: other === "zh" ? "zh-CN" : "en",
      text: other === "zh" ? "中文" : "English",
      "aria-label": other === "zh" ? "中文：切换语言" : "English: change language",
      onclick: () => setLanguage(other),
    });
    this.append(
      h("header", { class: "top" },
        h("a", { class: "brand", href: "#/tasks", text: "data-patch" }),
        h("nav", { "aria-label": t("nav.label") }, ...this.#links.values()),
        h("div", { class: "tools" }, this.#status, this.#who, this.#signOut, languageButton, this.#theme)),
    );
    connection.addEventListener("change", () => this.#update(), { signal });
    session.addEventListener("change", () => this.#update(), { signal });
    this.#update();
    this.#mark();
    this.#showTheme();
  }

  disconnectedCallback() {
    this.#stop.abort();
  }

  attributeChangedCallback() {
    this.#mark();
  }

  #mark() {
    const current = this.getAttribute("current");
    for (const [name, link] of this.#links) {
      const isCurrent = name === current || (name === "tasks" && current === "task");
      if (isCurrent) link.setAttribute("aria-current", name === current ? "page" : "true");
      else link.removeAttribute("aria-current");
    }
  }

  #update() {
    this.#status.dataset.state = connection.state;
    setText(this.#status.lastChild, t(`connection.${connection.state}`));
    const token = session.hasToken ? session.service?.token : null;
    show(this.#who, Boolean(token));
    show(this.#signOut, Boolean(token));
    if (token) setText(this.#who, t("who", { name: token.name, role: t(`role.${token.role}`) }));
  }

  #nextTheme() {
    nextTheme();
    this.#showTheme();
  }

  #showTheme() {
    const chosen = theme();
    setText(this.#theme, { auto: "◐", light: "☀", dark: "☾" }[chosen] ?? "◐");
    this.#theme.title = t(`theme.${chosen}`);
    this.#theme.setAttribute("aria-label", t(`theme.${chosen}`));
  }
}

customElements.define("dp-header", Header);
