// The preview as a picture: one strip a device, its rows by time, on a shared axis; and the range on
// it, which is drawn with the pointer or moved with the keys.

import { draft, justBefore } from "../lib/draft.js";
import { h, setText, show } from "../lib/dom.js";
import { dateTime, number, range as rangeText, shortId } from "../lib/format.js";
import { t } from "../lib/i18n.js";
import { themeChanged } from "../lib/theme.js";
import { ticks } from "../lib/ticks.js";
import { VirtualList } from "../ui/virtual-list.js";
import { RangeDrag } from "./range-drag.js";

const ROW = 30;
/** At least so many strips are shown, and more where the window is higher than what is around them. */
const MIN_ROWS = 8;
const AROUND = 470;
/** The part of its row that the highest bar of a device fills. */
const FULL = 0.8;
/** Pixels that a mark of the axis needs. */
const TICK = 80;
/** And its text alone. */
const LABEL = 46;

export class Strips extends HTMLElement {
  #preview;
  #stop = new AbortController();
  /** The devices that are shown. @type {{ deviceId: string, name: string | null }[]} */
  #devices = [];
  /** The width of the strips in pixels. */
  #width = 1;
  #colours = { idle: "", chosen: "" };
  #axis = h("div", { class: "axis", "aria-hidden": "true" });
  #frame = h("div", { class: "frame" });
  #overlay = h("div", { class: "overlay" });
  #band = h("div", { class: "band", hidden: true });
  #label = h("span", { class: "band-label" });
  #handles = { from: this.#handle("from"), to: this.#handle("to") };
  #note = h("p", { class: "strips-note", role: "status", hidden: true });
  #drag;
  #list = new VirtualList({
    label: t("strips.label"),
    estimate: ROW,
    create: () => this.#createRow(),
    fill: (row, index) => this.#fillRow(row, this.#devices[index]),
  });
  #resized = new ResizeObserver(() => this.update());

  /** @param {import("../lib/preview-model.js").PreviewModel} preview */
  constructor(preview) {
    super();
    this.#preview = preview;
    this.#drag = new RangeDrag({
      area: () => this.#area(),
      snap: (time) => this.snap(time),
      onmove: (range) => this.#moved(range),
      onend: (range) => this.#ended(range),
    });
  }

  connectedCallback() {
    const { signal } = this.#stop;
    this.#band.append(this.#label, this.#handles.from, this.#handles.to);
    this.#overlay.append(this.#band);
    this.#frame.append(this.#list, this.#overlay, this.#note);
    this.append(h("div", { class: "strip-row head" }, h("span", { class: "muted unit" }), this.#axis), this.#frame);
    themeChanged.addEventListener("change", () => this.#readColours(), { signal });
    this.#list.addEventListener("pointerdown", (event) => this.#pressed(event), { signal });
    this.#resized.observe(this.#list);
    this.#readColours();
  }

  disconnectedCallback() {
    this.#stop.abort();
    this.#resized.disconnect();
  }

  #readColours() {
    const style = getComputedStyle(this);
    this.#colours = { idle: style.getPropertyValue("--strip"), chosen: style.getPropertyValue("--strip-chosen") };
    this.#list.refill();
  }

  /** Where the strips are on the screen, and which time that is. */
  #area() {
    const box = this.#axis.getBoundingClientRect();
    return { left: box.left, width: Math.max(1, box.width), ...draft.window };
  }

  /**
   * The nearest edge of a bucket: so that a range that is drawn has whole buckets, whose rows are known.
   * @param {number} time
   */
  snap(time) {
    const { step } = this.#preview;
    const anchor = this.#anchor();
    return anchor + Math.round((time - anchor) / step) * step;
  }

  /** The beginning of some bucket. */
  #anchor() {
    for (const device of this.#preview.shown.devices.values()) {
      if (device.buckets.length > 0) return Date.parse(device.buckets[0].start);
    }
    return draft.window.from;
  }

  /** Shows the present state of draft and preview. */
  update() {
    const { shown } = this.#preview;
    this.#devices = draft.shown;
    this.#width = this.#area().width;
    const fitting = Math.max(MIN_ROWS, Math.floor((innerHeight - AROUND) / ROW));
    this.#list.style.height = `${Math.min(this.#devices.length, fitting) * ROW}px`;
    this.#list.update(this.#devices.length);
    const unit = shown.summary ? t(`strips.by.${shown.summary.bucketUnit}`, { n: shown.summary.bucketUnits }) : "";
    setText(/** @type {Element} */ (this.querySelector(".unit")), unit);
    this.#showAxis();
    this.#showBand(draft.range);
    const isEmpty = shown.summary !== null && shown.summary.rows === 0;
    setText(this.#note, isEmpty ? t("strips.empty") : "");
    show(this.#note, isEmpty);
    this.toggleAttribute("data-loading", shown.isLoading);
  }

  #showAxis() {
    const { from, to, width, left } = this.#area();
    // Over the strips, which end where the scroll bar begins.
    this.#overlay.style.left = `${left - this.#frame.getBoundingClientRect().left}px`;
    this.#overlay.style.width = `${width}px`;
    const isWhole = ({ at }) => ((to - at) / (to - from)) * width > LABEL;
    const marks = ticks({ from, to }, Math.floor(width / TICK)).filter(isWhole).map(({ at, text }) => {
      const mark = h("span", { text });
      mark.style.left = `${((at - from) / (to - from)) * 100}%`;
      return mark;
    });
    this.#axis.replaceChildren(...marks);
  }

  /** @param {import("../lib/draft.js").Span | null} range */
  #showBand(range) {
    const { from, to } = draft.window;
    const isSeen = range !== null && range.to >= from && range.from <= to;
    show(this.#band, isSeen);
    if (!range || !isSeen) return;
    const part = (time) => Math.min(1, Math.max(0, (time - from) / (to - from))) * 100;
    this.#band.style.left = `${part(range.from)}%`;
    this.#band.style.width = `${part(range.to) - part(range.from)}%`;
    this.#band.classList.toggle("open-left", range.from < from);
    this.#band.classList.toggle("open-right", range.to > to);
    this.#band.classList.toggle("flip", part(range.from) > 45);
    setText(this.#label, rangeText(range.from, range.to));
    for (const name of /** @type {const} */ (["from", "to"])) {
      const handle = this.#handles[name];
      handle.setAttribute("aria-valuemin", String(Math.floor(from / 1000)));
      handle.setAttribute("aria-valuemax", String(Math.ceil(to / 1000)));
      handle.setAttribute("aria-valuenow", String(Math.floor(range[name] / 1000)));
      handle.setAttribute("aria-valuetext", dateTime(range[name]));
    }
  }

  /** @param {"from" | "to"} name */
  #handle(name) {
    const handle = h("div", { class: `handle ${name}`, role: "slider", tabindex: "0", "aria-label": t(`strips.${name}`), title: t("strips.handle") });
    handle.addEventListener("pointerdown", (event) => {
      event.stopPropagation();
      if (draft.range) this.#drag.resize(event, draft.range, name);
    });
    handle.addEventListener("keydown", (event) => this.#moveByKey(event, name));
    return handle;
  }

  /** @param {KeyboardEvent} event @param {"from" | "to"} name */
  #moveByKey(event, name) {
    const { range, window } = draft;
    if (!range) return;
    const { step } = this.#preview;
    const by = event.shiftKey ? 10 * step : step;
    // The end is just before the edge of a bucket.
    const edge = name === "to" ? Math.round(range.to) : range.from;
    const to = {
      ArrowLeft: this.snap(edge - by), ArrowDown: this.snap(edge - by), ArrowRight: this.snap(edge + by), ArrowUp: this.snap(edge + by),
      PageDown: this.snap(edge - 10 * step), PageUp: this.snap(edge + 10 * step), Home: window.from, End: window.to,
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    const moved = name === "from" ? { from: Math.min(to, range.to), to: range.to } : { from: range.from, to: Math.max(justBefore(to), range.from) };
    this.#ended(moved);
  }

  /** @param {PointerEvent} event */
  #pressed(event) {
    const { left, width } = this.#area();
    const isOnStrip = event.clientX >= left - 4 && event.clientX <= left + width + 4;
    if (event.button === 0 && isOnStrip) this.#drag.draw(event, draft.range);
  }

  /** @param {import("../lib/draft.js").Span} range */
  #moved(range) {
    draft.range = range;
    this.#showBand(range);
    this.#list.refill();
  }

  /** @param {import("../lib/draft.js").Span | null} range */
  #ended(range) {
    draft.range = range;
    this.#showBand(range);
    this.#list.refill();
    draft.changed("range");
  }

  #createRow() {
    const check = h("input", { type: "checkbox" });
    check.addEventListener("change", () => {
      const id = check.dataset.device ?? "";
      if (check.checked) draft.left.delete(id);
      else draft.left.add(id);
      draft.changed("devices");
    });
    return h("div", { class: "strip-row" }, h("label", {}, check, h("span", { class: "name" })), h("span", { class: "count" }),
      h("canvas", { role: "img" }));
  }

  /** @param {HTMLElement} row @param {{ deviceId: string, name: string | null }} device */
  #fillRow(row, device) {
    const [label, count, canvas] = /** @type {any[]} */ ([...row.children]);
    const check = label.firstChild;
    check.dataset.device = device.deviceId;
    check.checked = !draft.left.has(device.deviceId);
    const name = device.name ?? shortId(device.deviceId);
    setText(label.lastChild, name);
    label.title = device.deviceId;
    row.classList.toggle("left-out", !check.checked);
    const found = this.#preview.shown.devices.get(device.deviceId);
    const exact = this.#preview.chosen.devices.get(device.deviceId);
    const problem = found?.problem ?? exact?.problem;
    const rows = draft.range ? (exact?.rows ?? (found ? this.#rowsIn(found, draft.range) : null)) : found?.rows;
    const isEstimate = draft.range ? (exact?.isEstimate ?? true) : found?.isEstimate;
    setText(count, rows === undefined || rows === null || !check.checked ? "" : `${isEstimate && exact ? "≈ " : ""}${number(rows)}`);
    count.classList.toggle("bad", Boolean(problem));
    if (problem) setText(count, "!");
    count.title = problem ?? "";
    canvas.setAttribute("aria-label", problem ? `${name}: ${problem}` : found ? describe(name, found) : name);
    this.#draw(canvas, found);
  }

  /** @param {any} device @param {import("../lib/draft.js").Span} range */
  #rowsIn(device, range) {
    let rows = 0;
    for (const bucket of device.buckets) {
      const start = Date.parse(bucket.start);
      if (start >= range.from && start <= range.to) rows += bucket.rows;
    }
    return rows;
  }

  /** @param {HTMLCanvasElement} canvas @param {any} device */
  #draw(canvas, device) {
    const width = this.#width;
    const height = ROW - 8;
    const scale = devicePixelRatio || 1;
    const pixels = [Math.round(width * scale), Math.round(height * scale)];
    if (canvas.width !== pixels[0] || canvas.height !== pixels[1]) [canvas.width, canvas.height] = pixels;
    const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.clearRect(0, 0, width, height);
    if (!device) return;
    const { from, to } = draft.window;
    const { range } = draft;
    const perMs = width / (to - from);
    const step = this.#preview.step;
    const most = device.buckets.reduce((max, bucket) => Math.max(max, bucket.rows), 1);
    // On whole pixels of the screen: bars that are narrower than one would blur into a pattern.
    const whole = (x) => Math.round(x * scale) / scale;
    const gap = step * perMs > 3 ? 1 : 0;
    for (const { start, rows } of device.buckets) {
      const at = Date.parse(start);
      const isChosen = range !== null && at + step > range.from && at <= range.to;
      context.fillStyle = isChosen ? this.#colours.chosen : this.#colours.idle;
      const bar = Math.max(2, (rows / most) * height * FULL);
      const [left, right] = [whole((at - from) * perMs), whole((at + step - from) * perMs)];
      context.fillRect(left, height - bar, Math.max(1 / scale, right - left - gap), bar);
    }
  }
}

/** @param {string} name @param {any} device */
function describe(name, device) {
  if (device.rows === 0) return t("strips.noRows", { name });
  return t("strips.rows", { name, count: number(device.rows), range: rangeText(device.first, device.last) });
}

customElements.define("dp-strips", Strips);
