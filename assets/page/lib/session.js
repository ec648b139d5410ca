// The token: asked for once, kept for this tab until it is closed, and never in an address.

const KEY = "data-patch-token";

class Session extends EventTarget {
  /** @type {string | null} */
  #token = null;
  /** Why there is no token: none was given yet, it was refused, or the user has signed out. */
  reason = /** @type {"none" | "refused" | "signedOut"} */ ("none");
  /** What `GET /service` says: version, limits, and whose token this is. */
  service = /** @type {any} */ (null);

  constructor() {
    super();
    try {
      this.#token = sessionStorage.getItem(KEY);
    } catch {
      // Storage is switched off: the token is lost when the page is loaded again.
    }
  }

  get hasToken() {
    return this.#token !== null;
  }

  /** Whether the token may submit and steer. */
  get isOperator() {
    return this.service?.token.role === "operator";
  }

  /** @param {string} token @param {any} service what the service has said to it */
  accept(token, service) {
    this.#token = token;
    this.service = service;
    try {
      sessionStorage.setItem(KEY, token);
    } catch {
      // As above.
    }
    this.dispatchEvent(new Event("change"));
  }

  /** @param {any} service */
  update(service) {
    const before = JSON.stringify([this.service?.token, this.service?.instance]);
    this.service = service;
    if (before !== JSON.stringify([service.token, service.instance])) this.dispatchEvent(new Event("change"));
  }

  /**
   * Forgets the token, if it is still this one.
   * @param {string} token
   * @param {"refused" | "signedOut"} reason
   */
  forget(token, reason) {
    if (token !== this.#token) return;
    this.#token = null;
    this.reason = reason;
    try {
      sessionStorage.removeItem(KEY);
    } catch {
      // As above.
    }
    this.dispatchEvent(new Event("change"));
  }

  signOut() {
    if (this.#token !== null) this.forget(this.#token, "signedOut");
  }

  /**
   * The token, as soon as there is one.
   * @param {AbortSignal} [signal]
   * @returns {Promise<string>}
   */
  token(signal) {
    if (this.#token !== null) return Promise.resolve(this.#token);
    return new Promise((resolve, reject) => {
      const check = () => {
        if (this.#token === null && !signal?.aborted) return;
        this.removeEventListener("change", check);
        signal?.removeEventListener("abort", check);
        if (this.#token === null) reject(signal?.reason);
        else resolve(this.#token);
      };
      this.addEventListener("change", check);
      signal?.addEventListener("abort", check);
    });
  }
}

export const session = new Session();
