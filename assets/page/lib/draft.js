// The patch that is being put together. It outlives its view, so a look at the tasks or another
// language loses nothing; what fits is in the address too, so a link shows the same to a colleague.

import { toMs, toRfc3339 } from "./format.js";

/** Of more devices than these the address only says that they are chosen one by one. */
const MAX_LINKED_DEVICES = 30;
const HOUR = 3_600_000;

/** @typedef {{ from: number, to: number }} Span in milliseconds since 1970; both ends included */

class Draft extends EventTarget {
  /** @type {{ thingId: string, name: string | null, devices: number } | null} */
  thing = null;
  /** All devices of the thing. @type {{ deviceId: string, name: string | null }[]} */
  all = [];
  /** The devices that are shown and may be published, by id. @type {Set<string>} */
  chosen = new Set();
  /** Devices among them that are left out. @type {Set<string>} */
  left = new Set();
  /** What is shown. @type {Span} */
  window = { from: Date.now() - 7 * 24 * HOUR, to: Date.now() };
  /** What would be published. @type {Span | null} */
  range = null;
  topic = "";
  rate = "";
  reason = "";
  /** The same for the same request, so that sending it twice creates one task. */
  requestId = crypto.randomUUID?.() ?? randomId();

  /** The devices that would be published, in the order of the list. */
  get devices() {
    return this.all.filter(({ deviceId }) => this.chosen.has(deviceId) && !this.left.has(deviceId)).map(({ deviceId }) => deviceId);
  }

  /** The devices that are shown. */
  get shown() {
    return this.all.filter(({ deviceId }) => this.chosen.has(deviceId));
  }

  /** @param {string} what */
  changed(what) {
    this.requestId = crypto.randomUUID?.() ?? randomId();
    this.dispatchEvent(new Event(what));
  }

  /** Begins anew, with the same thing. */
  reset() {
    this.range = null;
    this.reason = "";
    this.changed("range");
  }

  /** The draft as the parameters of an address. */
  toQuery() {
    const { devices, all, range, window } = this;
    const areSome = devices.length !== all.length && devices.length <= MAX_LINKED_DEVICES;
    return {
      thing: this.thing?.thingId,
      device: areSome ? devices : [],
      from: range && toRfc3339(range.from),
      to: range && toRfc3339(range.to),
      since: toRfc3339(window.from),
      until: toRfc3339(window.to),
      topic: this.topic,
      rate: this.rate,
      reason: this.reason,
    };
  }

  /** Takes over what an address says, except for the thing. @param {URLSearchParams} query */
  fromQuery(query) {
    const span = (from, to) => {
      const found = { from: toMs(query.get(from) ?? ""), to: toMs(query.get(to) ?? "") };
      return found.from <= found.to ? found : null;
    };
    this.range = span("from", "to") ?? this.range;
    this.window = span("since", "until") ?? (this.range ? around(this.range) : this.window);
    for (const name of /** @type {const} */ (["topic", "rate", "reason"])) this[name] = query.get(name) ?? this[name];
  }
}

/** A range with some room on both sides. @param {Span} range @returns {Span} */
export function around({ from, to }) {
  const room = Math.max((to - from) * 0.25, HOUR / 2);
  return { from: Math.floor(from - room), to: Math.ceil(to + room) };
}

/** The last microsecond before an edge: the next bucket begins with the edge. @param {number} edge */
export function justBefore(edge) {
  return edge - 0.001;
}

/** `randomUUID` exists only where the page was loaded safely, that is by HTTPS or from this machine. */
function randomId() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

export const draft = new Draft();
