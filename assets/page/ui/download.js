import { h } from "../lib/dom.js";

/**
 * Saves a file that the page has made. A link to the API cannot be used: it would need the token.
 * @param {string} name
 * @param {string} type
 * @param {BlobPart[]} parts
 */
export function download(name, type, parts) {
  const url = URL.createObjectURL(new Blob(parts, { type }));
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}
