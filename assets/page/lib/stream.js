// Answers that arrive bit by bit: lines of JSON, and server-sent events. `EventSource` cannot send a
// token, so its protocol is read here.

import { ApiError, request, Unreachable } from "./api.js";
import { sleep } from "./dom.js";

/** The service sends a comment every 15 s; a stream that is silent for longer is broken. */
const SILENCE = 40_000;

/**
 * The lines of an answer.
 * @param {Response} response
 * @param {AbortSignal} signal
 * @returns {AsyncGenerator<string>}
 */
async function* lines(response, signal) {
  const body = /** @type {ReadableStream<any>} */ (response.body);
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  const stop = () => reader.cancel().catch(() => {});
  signal.addEventListener("abort", stop);
  let timer = 0;
  let rest = "";
  try {
    for (;;) {
      timer = setTimeout(stop, SILENCE);
      const { done, value } = await reader.read();
      clearTimeout(timer);
      signal.throwIfAborted();
      if (done) {
        if (rest) yield rest;
        return;
      }
      const found = (rest + value).split("\n");
      rest = found.pop() ?? "";
      yield* found;
    }
  } finally {
    clearTimeout(timer);
    signal.removeEventListener("abort", stop);
    stop();
  }
}

/**
 * The objects of an answer in NDJSON, which is complete when it ends with a summary.
 * @param {string} method @param {string} path
 * @param {{ body?: any, signal: AbortSignal, repeat?: boolean }} options
 * @returns {AsyncGenerator<any>}
 */
export async function* objects(method, path, options) {
  const { signal } = options;
  const headers = { accept: "application/x-ndjson" };
  const response = await request(method, path, { ...options, headers });
  let last = null;
  try {
    for await (const line of lines(response, signal)) {
      if (!line.trim()) continue;
      last = JSON.parse(line);
      if (last.kind === "error") throw new ApiError(response.status, { code: "ended_early", ...last });
      yield last;
    }
  } catch (error) {
    signal.throwIfAborted();
    if (!(error instanceof TypeError || error instanceof SyntaxError)) throw error;
  }
  if (last?.kind === "summary") return;
  // Cut, by a restart for example. Whether the service is there, the next request finds out.
  throw new Unreachable("the answer ended early");
}

/**
 * The server-sent events of a path, from the one after `last` to the end, over any number of
 * connections.
 * @param {string} path
 * @param {{ last: number, signal: AbortSignal }} options
 * @returns {AsyncGenerator<{ id: number, data: any }>}
 */
export async function* events(path, { last, signal }) {
  for (;;) {
    const headers = { accept: "text/event-stream", "last-event-id": String(last) };
    const response = await request("GET", path, { headers, signal });
    if (response.status === 204) return;
    try {
      let event = { id: last, data: "" };
      for await (const line of lines(response, signal)) {
        if (line.startsWith("id:")) event.id = Number(line.slice(3));
        else if (line.startsWith("data:")) event.data += line.slice(5);
        else if (line === "" && event.data) {
          last = event.id;
          const data = JSON.parse(event.data);
          yield { id: event.id, data };
          if (data.state) return;
          event = { id: last, data: "" };
        }
      }
    } catch (error) {
      signal.throwIfAborted();
      if (!(error instanceof TypeError || error instanceof SyntaxError)) throw error;
    }
    // The stream was cut, by a restart for example: another request finds out how the service is.
    await sleep(300, signal);
    signal.throwIfAborted();
  }
}
