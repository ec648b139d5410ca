// What the service says would be published: for the window that is shown, and for the range that is
// chosen. Each is asked for when it changes; an answer to an earlier question is dropped.

import { Unreachable } from "./api.js";
import { sleep } from "./dom.js";
import { draft } from "./draft.js";
import { toRfc3339 } from "./format.js";
import { objects } from "./stream.js";

const UNITS = { minute: 60_000, hour: 3_600_000, day: 86_400_000 };
/** Views are told at most so often while an answer arrives. */
const NOTIFY_MS = 100;
/** Before an answer that was cut is asked for again. */
const CUT_MS = 500;

/** One question and its answer so far. */
class Preview extends EventTarget {
  /** @type {Map<string, any>} */
  devices = new Map();
  /** @type {any} */
  summary = null;
  /** @type {unknown} */
  error = null;
  isLoading = false;
  /** The range that was asked for. @type {import("./draft.js").Span | null} */
  span = null;
  #request = new AbortController();
  #timer = 0;

  /** Forgets the answer. */
  clear() {
    this.#request.abort();
    this.devices = new Map();
    this.summary = null;
    this.error = null;
    this.isLoading = false;
    this.span = null;
    this.#tell();
  }

  /**
   * @param {string[]} devices
   * @param {import("./draft.js").Span} span
   * @param {number} delay in which another question may replace this one
   */
  async ask(devices, span, delay) {
    this.#request.abort();
    this.#request = new AbortController();
    const { signal } = this.#request;
    this.isLoading = true;
    this.summary = null;
    this.error = null;
    this.#tell();
    await sleep(delay, signal);
    if (signal.aborted) return;
    while (this.isLoading && !signal.aborted) await this.#read(devices, span, signal);
  }

  /** @param {string[]} devices @param {import("./draft.js").Span} span @param {AbortSignal} signal */
  async #read(devices, span, signal) {
    const found = new Map();
    const body = {
      src: "iota", thingId: draft.thing?.thingId, devices, from: toRfc3339(span.from), to: toRfc3339(span.to),
      ...(draft.topic ? { topic: draft.topic } : {}), ...(draft.rate ? { rate: Number(draft.rate) } : {}),
    };
    try {
      for await (const line of objects("POST", "/previews", { body, signal, repeat: true })) {
        if (line.kind === "summary") this.summary = line;
        else found.set(line.deviceId, line);
        this.span = span;
        this.devices = found;
        this.#tell();
      }
    } catch (error) {
      if (signal.aborted) return;
      // An answer that was cut is asked for again, when the service can be reached.
      if (error instanceof Unreachable) return sleep(CUT_MS, signal);
      this.error = error;
    }
    this.isLoading = false;
    this.#tell();
  }

  #tell() {
    this.#timer ||= setTimeout(() => {
      this.#timer = 0;
      this.dispatchEvent(new Event("change"));
    }, NOTIFY_MS);
  }
}

export class PreviewModel {
  shown = new Preview();
  chosen = new Preview();

  /** The window, or the devices in it, have changed. @param {number} [delay] */
  askShown(delay = 250) {
    const devices = draft.shown.map(({ deviceId }) => deviceId);
    if (devices.length === 0) return this.shown.clear();
    this.shown.ask(devices, draft.window, delay);
  }

  /** The range, or the devices, or the topic have changed. @param {number} [delay] */
  askChosen(delay = 250) {
    const { devices, range } = draft;
    if (devices.length === 0 || range === null) return this.chosen.clear();
    this.chosen.ask(devices, range, delay);
  }

  stop() {
    this.shown.clear();
    this.chosen.clear();
  }

  /** The length of a bucket in milliseconds. */
  get step() {
    const summary = this.shown.summary;
    return summary ? UNITS[summary.bucketUnit] * summary.bucketUnits : this.#lastStep;
  }

  #lastStep = UNITS.hour;

  /** Remembers the length of buckets for the time in which the next answer is not there yet. */
  keepStep() {
    this.#lastStep = this.step;
  }
}
