// Whether the service can be reached. One probe asks for it while it cannot; everybody else waits
// for its result, so a service that comes back is not met by a crowd of requests.

import { sleep } from "./dom.js";

const DELAYS = [500, 1000, 2000, 4000, 8000, 10000];

class Connection extends EventTarget {
  /** @type {"starting" | "ok" | "lost"} */
  state = "starting";
  /** When the service answered last, in milliseconds since 1970. */
  lastAnswer = 0;
  /** When the probe tries next. */
  nextTry = 0;
  /** @type {() => Promise<void>} */
  probe = async () => {};
  #waiting = /** @type {AbortController | null} */ (null);

  /** The service has answered. */
  answered() {
    this.lastAnswer = Date.now();
    if (this.state !== "ok") {
      this.state = "ok";
      this.dispatchEvent(new Event("change"));
    }
  }

  /** A request found no service. */
  failed() {
    if (this.state === "lost") return;
    this.state = "lost";
    this.dispatchEvent(new Event("change"));
    this.#tryUntilAnswered();
  }

  /** Tries at once and not at the next time. */
  tryNow() {
    this.#waiting?.abort();
  }

  async #tryUntilAnswered() {
    for (let attempt = 0; this.state === "lost"; attempt += 1) {
      const delay = DELAYS[Math.min(attempt, DELAYS.length - 1)] * (0.8 + 0.4 * Math.random());
      this.nextTry = Date.now() + delay;
      this.dispatchEvent(new Event("change"));
      this.#waiting = new AbortController();
      await sleep(delay, this.#waiting.signal);
      await this.probe().catch(() => {});
    }
  }

  /**
   * Waits until the service answers, or `signal` is aborted.
   * @param {AbortSignal} [signal]
   * @returns {Promise<void>}
   */
  restored(signal) {
    if (this.state !== "lost") return Promise.resolve();
    return new Promise((resolve) => {
      const check = () => {
        if (this.state === "lost" && !signal?.aborted) return;
        this.removeEventListener("change", check);
        signal?.removeEventListener("abort", check);
        resolve();
      };
      this.addEventListener("change", check);
      signal?.addEventListener("abort", check);
    });
  }
}

export const connection = new Connection();
addEventListener("online", () => connection.tryNow());
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) connection.tryNow();
});
