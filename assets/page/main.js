// Puts the page together: the frame, and the view that the address names.

import { connection } from "./lib/connection.js";
import { h } from "./lib/dom.js";
import { setZone } from "./lib/format.js";
import { languageChanged, t } from "./lib/i18n.js";
import { route } from "./lib/router.js";
import { session } from "./lib/session.js";
import { call } from "./lib/api.js";
import { Banners } from "./ui/banners.js";
import { Header } from "./ui/header.js";
import { SignIn } from "./ui/sign-in.js";
import { toasts } from "./ui/toast.js";
import { NewView } from "./views/new.js";
import { TaskView } from "./views/task.js";
import { TasksView } from "./views/tasks.js";

/** How often the service is asked how it is when nothing else asks, in milliseconds. */
const HEARTBEAT = 10_000;

class App extends HTMLElement {
  #view = /** @type {HTMLElement | null} */ (null);
  #key = "";
  #main = h("main", { id: "main", tabindex: "-1" });

  connectedCallback() {
    this.#build();
    addEventListener("hashchange", () => this.#show());
    languageChanged.addEventListener("change", () => this.#build());
    session.addEventListener("change", () => this.#sessionChanged());
    setInterval(() => this.#heartbeat(), HEARTBEAT);
    document.addEventListener("visibilitychange", () => this.#heartbeat());
    if (session.hasToken) this.#heartbeat(true);
  }

  /** Builds the frame, in the present language. */
  #build() {
    this.#view = null;
    this.#main = h("main", { id: "main", tabindex: "-1" });
    const skip = h("a", { class: "skip", href: "#main", text: t("skipToContent") });
    skip.addEventListener("click", (event) => {
      event.preventDefault();
      this.#main.focus();
    });
    this.replaceChildren(skip, new Header(), new Banners(), this.#main, toasts, new SignIn());
    this.#show();
  }

  #sessionChanged() {
    const service = session.service;
    if (!service) return;
    const key = `${service.token.name} ${service.token.role} ${service.limits.timeZone}`;
    setZone(service.limits.timeZone);
    // Another token may do other things.
    if (session.hasToken && key !== this.#key) {
      this.#key = key;
      this.#view = null;
      this.#show();
    }
  }

  /** Shows the view of the address; one that is shown already is told that its parameters changed. */
  #show() {
    if (!session.service) return;
    const { path, query } = route();
    const [View, name] = viewOf(path);
    const key = `${name} ${path[1] ?? ""}`;
    if (this.#view?.dataset.key === key) return /** @type {any} */ (this.#view).addressChanged?.(query);
    const view = new View(path[1], query);
    view.dataset.key = key;
    const isFirst = this.#view === null;
    this.#view = view;
    this.#main.replaceChildren(view);
    this.querySelector("dp-header")?.setAttribute("current", name);
    document.title = name === "task" ? "data-patch" : `${t(`nav.${name}`)} · data-patch`;
    scrollTo(0, 0);
    // Whoever reads the page with a screen reader must hear that there is another view.
    if (!isFirst) this.#main.focus({ preventScroll: true });
  }

  async #heartbeat(isFirst = false) {
    const isFresh = Date.now() - connection.lastAnswer < HEARTBEAT / 2 && session.service;
    if (!session.hasToken || document.hidden || (isFresh && !isFirst)) return;
    session.update(await call("GET", "/service"));
  }
}

/** @param {string[]} path @returns {[any, string]} */
function viewOf(path) {
  if (path[0] === "tasks" && path[1]) return [TaskView, "task"];
  if (path[0] === "new") return [NewView, "new"];
  return [TasksView, "tasks"];
}

customElements.define("dp-app", App);
