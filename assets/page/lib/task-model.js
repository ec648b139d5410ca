// Everything that is known about one task: the task itself, its devices, its log. It follows the
// service until it is stopped, and tells its views when something has changed.
//
// A small task is asked for as a whole. For a large one the devices come page by page, round and
// round; in between, the log tells what became of each device, and the running ones are asked for.

import { call, get } from "./api.js";
import { sleep } from "./dom.js";
import { isScrolling } from "./scrolling.js";
import { events } from "./stream.js";
import { isKnownEvent } from "../text/events.js";

const TASK_MS = 1000;
const PAGE = 500;
/** Between two pages of a large task. */
const PAGE_MS = 500;
/** Views are told at most so often. */
const NOTIFY_MS = 250;
/** And so often while a list is scrolled. */
const NOTIFY_SCROLLING_MS = 1000;
/** A page that nobody looks at does not keep a connection for long. */
const HIDDEN_MS = 30_000;
/** Entries of the log that are kept; of more, the oldest are dropped. */
export const MAX_ENTRIES = 50_000;

const FINAL = ["succeeded", "failed", "cancelled"];

/** @param {string} state */
export function isFinal(state) {
  return FINAL.includes(state);
}

/**
 * An entry as it is kept: without the text that the page makes itself, and with the id of its device only
 * once in memory.
 * @param {any} entry @param {Map<string, any>} devices
 */
function compact({ seq, time, isError, event, state, text }, devices) {
  const device = event.device && devices.get(event.device)?.deviceId;
  if (device) event.device = device;
  return isKnownEvent(event.kind) ? { seq, time, isError, event, state } : { seq, time, isError, event, state, text };
}

/** Rows of a device that need no more work. @param {any} job */
export function rowsDone(job) {
  return job.published + job.quarantined;
}

export class TaskModel extends EventTarget {
  /** @type {any} */
  task = null;
  /** The devices, in the order of the request. @type {any[]} */
  jobs = [];
  /** Whether every device was asked for at least once. */
  areJobsComplete = false;
  /** The log. @type {any[]} */
  entries = [];
  /** Entries that were dropped. */
  dropped = 0;
  /** Why the task cannot be shown. @type {unknown} */
  error = null;

  #stop = new AbortController();
  /** @type {Map<string, any>} */
  #byDevice = new Map();
  #changed = new Set();
  #timer = 0;
  #notifiedAt = 0;
  #isEnded = false;
  #refreshNow = () => {};

  /** @param {string} id */
  constructor(id) {
    super();
    this.id = id;
  }

  get path() {
    return `/tasks/${encodeURIComponent(this.id)}`;
  }

  get signal() {
    return this.#stop.signal;
  }

  start() {
    const parts = [this.#followTask(), this.#followJobs(), this.#followLog()];
    for (const part of parts) {
      part.catch((error) => {
        if (this.signal.aborted) return;
        this.error = error;
        this.#tell("error");
      });
    }
  }

  stop() {
    this.#stop.abort();
    clearTimeout(this.#timer);
  }

  /** The name of a device; its id as long as the name is not known. @param {string} device */
  nameOf(device) {
    return this.#byDevice.get(device)?.name ?? device;
  }

  /** Takes over an answer of the service. @param {any} task */
  set(task) {
    this.task = task;
    this.#tell("task");
  }

  /** Asks for task and devices without waiting for the next time. */
  refresh() {
    this.#refreshNow();
  }

  /** @param {string} what */
  #tell(what) {
    this.#changed.add(what);
    this.#timer ||= setTimeout(() => this.#notify(), NOTIFY_MS);
  }

  #notify() {
    if (isScrolling() && performance.now() - this.#notifiedAt < NOTIFY_SCROLLING_MS) {
      this.#timer = setTimeout(() => this.#notify(), NOTIFY_MS);
      return;
    }
    this.#timer = 0;
    this.#notifiedAt = performance.now();
    const changed = [...this.#changed];
    this.#changed.clear();
    for (const name of changed) this.dispatchEvent(new Event(name));
  }

  /** Waits for the next time to ask, which is later while nobody looks. @param {number} ms */
  async #pause(ms) {
    const early = new AbortController();
    this.#refreshNow = () => early.abort();
    const stop = () => early.abort();
    this.signal.addEventListener("abort", stop);
    await sleep(ms, early.signal);
    this.signal.removeEventListener("abort", stop);
    while (document.hidden && !this.signal.aborted) await sleep(500, this.signal);
    this.signal.throwIfAborted();
  }

  async #followTask() {
    for (;;) {
      this.set(await get(this.path, { signal: this.signal }));
      if (isFinal(this.task.state)) return;
      await this.#pause(TASK_MS);
    }
  }

  async #followJobs() {
    for (;;) {
      // A task that ends while its devices are asked for is asked once more.
      const wasEnded = this.#isEnded || (this.task !== null && isFinal(this.task.state));
      await this.#loadJobs();
      this.areJobsComplete = true;
      this.#tell("jobs");
      if (wasEnded) return;
      await this.#pause(TASK_MS);
    }
  }

  /** All devices, page by page. */
  async #loadJobs() {
    /** @type {string | null} */
    let cursor = null;
    let index = 0;
    do {
      const page = await get(`${this.path}/jobs`, { query: { limit: PAGE, cursor }, signal: this.signal });
      for (const job of page.items) {
        if (job.name !== this.jobs[index]?.name) this.#tell("names");
        this.jobs[index] = job;
        this.#byDevice.set(job.deviceId, job);
        index += 1;
      }
      this.#tell("jobs");
      cursor = page.next;
      // The first time everything is wanted at once.
      if (cursor !== null && this.areJobsComplete) {
        await this.#loadRunning();
        await this.#pause(PAGE_MS);
      }
    } while (cursor !== null);
  }

  /** The devices that change, of a task that is too large for one page. */
  async #loadRunning() {
    const page = await get(`${this.path}/jobs`, { query: { state: "running", limit: PAGE }, signal: this.signal });
    for (const job of page.items) Object.assign(this.#byDevice.get(job.deviceId) ?? {}, job);
    this.#tell("jobs");
  }

  async #followLog() {
    let last = 0;
    while (!this.#isEnded) {
      const visible = new AbortController();
      const hide = this.#whileVisible(visible);
      try {
        for await (const { id, data } of events(`${this.path}/events`, { last, signal: visible.signal })) {
          last = id;
          this.#add(data);
          if (data.state) this.#isEnded = true;
        }
        this.#isEnded = true;
      } catch (error) {
        this.signal.throwIfAborted();
        if (!visible.signal.aborted) throw error;
      } finally {
        hide();
      }
      while (document.hidden && !this.#isEnded) await sleep(200, this.signal);
      this.signal.throwIfAborted();
    }
    // The counts at the end.
    this.set(await get(this.path, { signal: this.signal }));
    this.refresh();
  }

  /** Ends a stream when the page was hidden for a while. @param {AbortController} stream */
  #whileVisible(stream) {
    let timer = 0;
    const check = () => {
      clearTimeout(timer);
      if (document.hidden) timer = setTimeout(() => stream.abort(), HIDDEN_MS);
    };
    const stop = () => stream.abort();
    document.addEventListener("visibilitychange", check);
    this.signal.addEventListener("abort", stop);
    check();
    return () => {
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", check);
      this.signal.removeEventListener("abort", stop);
    };
  }

  /** @param {any} entry */
  #add(entry) {
    this.entries.push(compact(entry, this.#byDevice));
    if (this.entries.length > MAX_ENTRIES * 1.1) {
      const excess = this.entries.length - MAX_ENTRIES;
      this.entries.splice(0, excess);
      this.dropped += excess;
    }
    this.#tell("log");
    this.#apply(entry.event);
  }

  /** What an entry says about its device; the next answer says it again, exactly. @param {any} event */
  #apply(event) {
    const job = event.device ? this.#byDevice.get(event.device) : null;
    if (!job || isFinal(job.state)) return;
    if (event.kind === "counted") {
      Object.assign(job, { name: event.name ?? job.name, counted: event.total });
      this.#tell("names");
    } else if (event.kind === "published") {
      job.published = Math.max(job.published, event.published);
      if (job.state === "queued") job.state = "running";
      if (rowsDone(job) >= event.total) Object.assign(job, { state: "succeeded", rowsPerSecond: null, estimatedEnd: null });
    } else if (event.kind === "failed") Object.assign(job, { state: "failed", reason: event.reason, waiting: null });
    else if (event.kind === "cancelled") job.state = "cancelled";
    else return;
    this.#tell("jobs");
  }

  /**
   * Steers the task; repeating it is harmless, so it is sent again when the answer is lost.
   * @param {"cancel" | "pause" | "resume"} action
   */
  async steer(action) {
    this.set(await call("POST", `${this.path}/${action}`, { repeat: true }));
    this.refresh();
  }

  /** @param {number | null} rate */
  async setRate(rate) {
    this.set(await call("PATCH", this.path, { body: { rate }, repeat: true }));
  }

  /** A new task for devices of this one; returns it. @param {"failed" | "all" | string[]} devices */
  retry(devices) {
    return call("POST", `${this.path}/retry`, { body: { devices }, repeat: true });
  }
}
