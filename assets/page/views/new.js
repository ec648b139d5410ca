// A new patch: which thing and devices, which range of time, to which topic, and why.

import { ApiError, get } from "../lib/api.js";
import { field, h, setAttribute, setText, show } from "../lib/dom.js";
import { draft } from "../lib/draft.js";
import { number, shortId } from "../lib/format.js";
import { t } from "../lib/i18n.js";
import { PreviewModel } from "../lib/preview-model.js";
import { remember } from "../lib/router.js";
import { session } from "../lib/session.js";
import { rememberThing } from "../lib/things.js";
import { Combobox } from "../ui/combobox.js";
import { setError } from "../ui/errors.js";
import { toastError } from "../ui/toast.js";
import { chooseDevices } from "./choose-devices.js";
import { PublishBar } from "./publish-bar.js";
import { RangeTools } from "./range-tools.js";
import { Strips } from "./strips.js";

/** The largest page that the service gives. */
const PAGE = 500;
/** A thing with more devices than these does not begin with all of them. */
const ALL_AT_ONCE = 200;

export class NewView extends HTMLElement {
  #stop = new AbortController();
  #preview = new PreviewModel();
  #query;
  #things = new Combobox({
    placeholder: t("new.thingPlaceholder"),
    search: async (text, signal) => (await get("/things", { query: { q: text, limit: 20 }, signal })).items,
    show: (thing) => ({
      main: thing.name ?? thing.thingId,
      more: t("tasks.deviceCount", { n: thing.devices, count: number(thing.devices) }),
    }),
    onchoose: (thing) => this.#choose(thing),
  });
  #devices = h("button", { type: "button", class: "select", onclick: () => this.#chooseDevices() });
  #topic = h("input", { type: "text", spellcheck: "false", maxlength: 249 });
  #rate = h("input", { type: "number", min: 1, step: 1, inputmode: "numeric" });
  #reason = h("input", { type: "text", maxlength: 500, placeholder: t("new.reasonPlaceholder") });
  #strips = new Strips(this.#preview);
  #tools = new RangeTools(this.#preview);
  #publish = new PublishBar(this.#preview);
  #error = h("p", { class: "error", role: "alert", hidden: true });
  #start = h("div", { class: "empty" });
  #picture = h("section", { class: "card picture", "aria-label": t("new.picture") });

  /** @param {string | undefined} _ @param {URLSearchParams} query */
  constructor(_, query) {
    super();
    this.#query = query;
  }

  connectedCallback() {
    const { signal } = this.#stop;
    const { limits } = session.service;
    this.#topic.placeholder = limits.defaultTopic;
    if (limits.topics.length > 0) this.#topic.setAttribute("list", "topics");
    this.#rate.placeholder = limits.defaultRate === null ? t("task.noLimit") : number(limits.defaultRate);
    if (limits.maxRate !== null) this.#rate.max = limits.maxRate;
    this.#picture.append(this.#tools, this.#strips);
    const thing = field(t("new.thing"), this.#things.control);
    thing.replaceChild(this.#things, this.#things.control);
    this.append(
      h("div", { class: "title-row" }, h("h1", { text: t("nav.new") })),
      h("section", { class: "card request", "aria-label": t("new.request") },
        thing,
        field(t("task.devices"), this.#devices),
        field(t("filter.topic"), this.#topic),
        field(t("new.rate"), this.#rate),
        field(t("new.reason"), this.#reason),
        this.#error,
        h("datalist", { id: "topics" }, ...limits.topics.map((topic) => h("option", { value: topic })))),
      this.#start, this.#picture, this.#publish);
    for (const [name, input] of /** @type {const} */ ([["topic", this.#topic], ["rate", this.#rate], ["reason", this.#reason]])) {
      input.addEventListener("input", () => {
        draft[name] = input.value.trim();
        draft.changed(name);
      }, { signal });
    }
    for (const preview of [this.#preview.shown, this.#preview.chosen]) {
      preview.addEventListener("change", () => this.#showPreview(), { signal });
    }
    const on = (what, action) => draft.addEventListener(what, action, { signal });
    on("window", () => this.#askShown());
    on("range", () => this.#askChosen());
    on("devices", () => this.#askChosen());
    // The topic decides what overlaps, the rate how long it takes.
    on("topic", () => this.#askChosen(600));
    on("rate", () => this.#askChosen(600));
    on("reason", () => this.#remember());
    this.#begin(this.#query);
  }

  disconnectedCallback() {
    this.#stop.abort();
    this.#preview.stop();
  }

  /** @param {URLSearchParams} query */
  addressChanged(query) {
    if ([...query].length > 0) this.#begin(query);
    else this.#remember();
  }

  /** Takes over what the address says. @param {URLSearchParams} query */
  async #begin(query) {
    draft.fromQuery(query);
    this.#topic.value = draft.topic;
    this.#rate.value = draft.rate;
    this.#reason.value = draft.reason;
    const thing = query.get("thing");
    if (!thing || thing === draft.thing?.thingId) return this.#changed();
    try {
      const page = await get("/things", { query: { q: thing, limit: 1 }, signal: this.#stop.signal });
      const found = page.items.find((item) => item.thingId === thing) ?? { thingId: thing, name: null, devices: 0 };
      await this.#choose(found, query.getAll("device"));
    } catch (error) {
      toastError(error);
    }
  }

  /** @param {any} thing @param {string[]} [devices] those of the address */
  async #choose(thing, devices = []) {
    if (draft.thing?.thingId !== thing.thingId) draft.range = this.#query.get("thing") === thing.thingId ? draft.range : null;
    draft.thing = thing;
    draft.all = [];
    draft.chosen = new Set();
    draft.left = new Set();
    rememberThing(thing.thingId, thing.name);
    this.#changed();
    try {
      await this.#loadDevices(thing.thingId);
    } catch (error) {
      return toastError(error);
    }
    if (draft.thing !== thing) return;
    const known = new Set(draft.all.map(({ deviceId }) => deviceId));
    const wanted = devices.filter((device) => known.has(device));
    if (wanted.length > 0) draft.chosen = new Set(wanted);
    else if (draft.all.length <= ALL_AT_ONCE) draft.chosen = known;
    this.#changed();
    if (draft.chosen.size === 0) await this.#chooseDevices();
  }

  /** @param {string} thing */
  async #loadDevices(thing) {
    /** @type {string | null} */
    let cursor = null;
    do {
      const page = await get(`/things/${thing}/devices`, { query: { limit: PAGE, cursor }, signal: this.#stop.signal });
      if (draft.thing?.thingId !== thing) return;
      draft.all.push(...page.items);
      cursor = page.next;
      this.#showRequest();
    } while (cursor !== null);
  }

  async #chooseDevices() {
    if (!draft.thing) return this.#things.control.focus();
    const chosen = await chooseDevices(draft.all, draft.chosen, session.service.limits.maxDevices);
    if (!chosen) return;
    draft.chosen = chosen;
    draft.left = new Set();
    this.#changed();
  }

  /** Another thing, or other devices. */
  #changed() {
    draft.changed("all");
    this.#askShown(0);
    this.#askChosen(0);
  }

  /** @param {number} [delay] */
  #askShown(delay) {
    this.#preview.keepStep();
    this.#preview.askShown(delay);
    this.#remember();
    this.#showPreview();
  }

  /** @param {number} [delay] */
  #askChosen(delay) {
    this.#preview.askChosen(delay);
    this.#remember();
    this.#showPreview();
  }

  #remember() {
    if (this.isConnected) remember(draft.toQuery());
  }

  #showRequest() {
    const { thing, all, chosen } = draft;
    this.#things.setText(thing ? (thing.name ?? shortId(thing.thingId)) : "");
    setText(this.#devices, thing ? t("devices.shown", { shown: number(chosen.size), all: number(all.length) }) : t("new.noThing"));
    this.#devices.disabled = !thing;
  }

  /** What is wrong with a field of the request, beside it. */
  #showError() {
    const error = this.#preview.chosen.error ?? this.#preview.shown.error;
    const name = error instanceof ApiError ? error.field : "";
    const inputs = { topic: this.#topic, rate: this.#rate, reason: this.#reason };
    for (const [field, input] of Object.entries(inputs)) setAttribute(input, "aria-invalid", field === name ? "true" : null);
    if (error) setError(this.#error, error);
    else setText(this.#error, "");
    show(this.#error, Boolean(error));
  }

  #showPreview() {
    this.#showRequest();
    const hasDevices = draft.chosen.size > 0;
    this.#picture.hidden = !hasDevices;
    this.#start.hidden = hasDevices;
    setText(this.#start, draft.thing ? t("new.chooseDevices") : t("new.chooseThing"));
    this.#publish.hidden = !hasDevices;
    if (!hasDevices) return;
    this.#showError();
    this.#strips.update();
    this.#tools.update();
    this.#publish.update();
  }
}

customElements.define("dp-new", NewView);
