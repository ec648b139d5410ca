// Requests to the HTTP API. A request waits for a token, and asks again when it is refused; one that
// may be repeated also waits until the service can be reached again.

import { connection } from "./connection.js";
import { sleep } from "./dom.js";
import { locale } from "./i18n.js";
import { session } from "./session.js";

const PREFIX = "api/v1";
/** A service that does not answer for so long cannot be reached, in milliseconds. */
const ANSWER_TIMEOUT = 20_000;

/** An answer that is an error (RFC 9457). */
export class ApiError extends Error {
  /** @param {number} status @param {any} problem */
  constructor(status, problem) {
    super(problem.detail ?? problem.title ?? `HTTP ${status}`);
    this.status = status;
    this.code = problem.code ?? "";
    this.field = problem.field ?? "";
  }
}

/** The service cannot be reached. */
export class Unreachable extends Error {}

/**
 * @typedef {object} Options
 * @property {Record<string, any>} [query] Parameters; lists are repeated, empty ones left out.
 * @property {any} [body] Sent as JSON.
 * @property {Record<string, string>} [headers]
 * @property {AbortSignal} [signal]
 * @property {boolean} [repeat] Whether the request may be sent again; true for GET.
 */

/** @param {Record<string, any>} query */
export function queryText(query) {
  const parameters = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    for (const item of Array.isArray(value) ? value : [value]) {
      if (item !== null && item !== undefined && item !== "") parameters.append(name, String(item));
    }
  }
  const text = parameters.toString();
  return text ? `?${text}` : "";
}

/** A header has bytes; those of a token are UTF-8. @param {string} token */
function bearer(token) {
  return `Bearer ${String.fromCharCode(...new TextEncoder().encode(token))}`;
}

/**
 * Sends one request with this token.
 * @param {string} method @param {string} path @param {string} token @param {Options} options
 * @returns {Promise<Response>}
 */
async function send(method, path, token, { query, body, headers, signal }) {
  const timeout = new AbortController();
  const timer = setTimeout(() => timeout.abort(), ANSWER_TIMEOUT);
  const stop = () => timeout.abort();
  signal?.addEventListener("abort", stop);
  try {
    const response = await fetch(`${PREFIX}${path}${query ? queryText(query) : ""}`, {
      method,
      headers: {
        authorization: bearer(token),
        "accept-language": locale(),
        ...(body === undefined ? {} : { "content-type": "application/json" }),
        ...headers,
      },
      body: body === undefined ? undefined : JSON.stringify(body),
      signal: timeout.signal,
      cache: "no-store",
    });
    // From here on only the caller ends a stream.
    clearTimeout(timer);
    connection.answered();
    return response;
  } catch (error) {
    signal?.removeEventListener("abort", stop);
    signal?.throwIfAborted();
    connection.failed();
    throw new Unreachable(String(error));
  } finally {
    clearTimeout(timer);
  }
}

/**
 * Sends a request and returns the answer, which is not an error.
 * @param {string} method @param {string} path below the prefix @param {Options} [options]
 * @returns {Promise<Response>}
 */
export async function request(method, path, options = {}) {
  const { signal, repeat = method === "GET" } = options;
  for (;;) {
    signal?.throwIfAborted();
    const token = await session.token(signal);
    let response;
    try {
      response = await send(method, path, token, options);
    } catch (error) {
      if (!(error instanceof Unreachable && repeat)) throw error;
      await connection.restored(signal);
      continue;
    }
    if (response.ok) return response;
    const problem = await response.json().catch(() => ({}));
    if (response.status === 401) {
      session.forget(token, "refused");
      continue;
    }
    // The source or the queue is away, or too much of this kind runs: later it is different.
    if ((response.status === 503 || response.status === 429) && repeat) {
      await sleep(1000 * Number(response.headers.get("retry-after") ?? 1), signal);
      continue;
    }
    throw new ApiError(response.status, problem);
  }
}

/**
 * The JSON of an answer.
 * @param {string} method @param {string} path @param {Options} [options]
 * @returns {Promise<any>}
 */
export async function call(method, path, options = {}) {
  for (;;) {
    const response = await request(method, path, options);
    try {
      return await response.json();
    } catch (error) {
      options.signal?.throwIfAborted();
      // The connection was cut within the answer.
      connection.failed();
      if (!(options.repeat ?? method === "GET")) throw new Unreachable(String(error));
      await connection.restored(options.signal);
    }
  }
}

/** @param {string} path @param {Options} [options] */
export function get(path, options) {
  return call("GET", path, options);
}

/**
 * Asks who a token belongs to; does not change the session.
 * @param {string} token
 */
export async function identify(token) {
  const response = await send("GET", "/service", token, {});
  const answer = await response.json();
  if (!response.ok) throw new ApiError(response.status, answer);
  return answer;
}

connection.probe = async () => {
  if (session.hasToken) session.update(await (await request("GET", "/service", { repeat: false })).json());
  else if ((await fetch("", { method: "HEAD", cache: "no-store" })).ok) connection.answered();
};
