// Names of things, asked for once.

import { ApiError, get } from "./api.js";

/** @type {Map<string, Promise<string | null>>} */
const names = new Map();

/**
 * The name of a thing; `null` if it has none, or the service does not know its things.
 * @param {string} id
 * @returns {Promise<string | null>}
 */
export function thingName(id) {
  let found = names.get(id);
  if (!found) {
    found = get("/things", { query: { q: id, limit: 1 } })
      .then((page) => page.items.find((thing) => thing.thingId === id)?.name ?? null)
      .catch((error) => {
        // An outage of the source: the next view asks again.
        if (!(error instanceof ApiError && error.status < 500)) names.delete(id);
        return null;
      });
    names.set(id, found);
  }
  return found;
}

/** Remembers a name that another answer had. @param {string} id @param {string | null} name */
export function rememberThing(id, name) {
  names.set(id, Promise.resolve(name));
}
