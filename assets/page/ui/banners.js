// What concerns the whole page: the service cannot be reached, or has another version.

import { connection } from "../lib/connection.js";
import { h, setText, show } from "../lib/dom.js";
import { recent } from "../lib/format.js";
import { t } from "../lib/i18n.js";
import { session } from "../lib/session.js";

export class Banners extends HTMLElement {
  #stop = new AbortController();
  #timer = 0;
  #instance = "";
  #lostText = h("span");
  #lost = h("div", { class: "banner warn", role: "alert", hidden: true }, this.#lostText,
    h("button", { text: t("tryNow"), onclick: () => connection.tryNow() }));
  #next = h("span", { class: "muted" });
  #upgraded = h("div", { class: "banner", role: "status", hidden: true }, h("span"),
    h("button", { class: "go", text: t("reload"), onclick: () => location.reload() }));

  connectedCallback() {
    this.#stop = new AbortController();
    const { signal } = this.#stop;
    this.#lost.insertBefore(this.#next, this.#lost.lastChild);
    this.append(this.#lost, this.#upgraded);
    connection.addEventListener("change", () => this.#update(), { signal });
    session.addEventListener("change", () => this.#checkVersion(), { signal });
    this.#timer = setInterval(() => this.#countDown(), 500);
    this.#update();
    this.#checkVersion();
  }

  disconnectedCallback() {
    this.#stop.abort();
    clearInterval(this.#timer);
  }

  #update() {
    const isLost = connection.state === "lost";
    document.documentElement.toggleAttribute("data-stale", isLost);
    show(this.#lost, isLost);
    if (!isLost) return;
    const since = connection.lastAnswer;
    setText(this.#lostText, since ? t("lostSince", { time: recent(since) }) : t("neverReached"));
    this.#countDown();
  }

  #countDown() {
    if (connection.state !== "lost") return;
    const seconds = Math.max(0, Math.ceil((connection.nextTry - Date.now()) / 1000));
    setText(this.#next, t("nextTry", { seconds }));
  }

  /** A service that was restarted may bring another page. */
  async #checkVersion() {
    const instance = session.service?.instance;
    if (!instance || instance === this.#instance) return;
    this.#instance = instance;
    const answer = await fetch("", { cache: "no-store" }).catch(() => null);
    const build = /data-build="(\w+)"/.exec((await answer?.text().catch(() => "")) ?? "")?.[1];
    const isOther = Boolean(build) && build !== document.documentElement.dataset.build;
    const version = session.service.version;
    setText(/** @type {Element} */ (this.#upgraded.firstChild), t("upgraded", { version }));
    show(this.#upgraded, isOther);
  }
}

customElements.define("dp-banners", Banners);
