// The address of a view: `#/tasks?state=failed`. It is the part of the address that browsers do not
// send, so it works behind any proxy, and a link shows the same to a colleague.

/**
 * @typedef {object} Route
 * @property {string[]} path
 * @property {URLSearchParams} query
 */

/** @returns {Route} */
export function route() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  return { path: path.split("/").filter(Boolean).map(decodeURIComponent), query: new URLSearchParams(query ?? "") };
}

/**
 * The link to a view.
 * @param {string[]} path
 * @param {Record<string, any> | URLSearchParams} [query] Lists are repeated, empty values left out.
 */
export function link(path, query = {}) {
  const parameters = new URLSearchParams();
  const entries = query instanceof URLSearchParams ? [...query] : Object.entries(query);
  for (const [name, value] of entries) {
    for (const item of Array.isArray(value) ? value : [value]) {
      if (item !== null && item !== undefined && item !== "") parameters.append(name, String(item));
    }
  }
  const text = parameters.toString();
  return `#/${path.map(encodeURIComponent).join("/")}${text ? `?${text}` : ""}`;
}

/** Goes to a view. @param {string[]} path @param {Record<string, any>} [query] */
export function go(path, query) {
  location.hash = link(path, query);
}

/**
 * Writes the state of the present view into the address, without a new entry in the history.
 * @param {Record<string, any> | URLSearchParams} query
 */
export function remember(query) {
  history.replaceState(null, "", link(route().path, query));
}
