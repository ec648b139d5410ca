// Small helpers around the DOM.

/**
 * Makes an element. Properties that begin with `on` are listeners; `class`, `text` and `data` are
 * short forms; everything else is an attribute, left out if it is `false`, `null` or `undefined`.
 * @param {string} tag
 * @param {Record<string, any>} [properties]
 * @param {...(Node | string | null | undefined | false)} children
 * @returns {any}
 */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "class") element.className = value;
    else if (name === "text") element.textContent = value;
    else if (name === "data") Object.assign(element.dataset, value);
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else setAttribute(element, name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/**
 * Sets or removes an attribute.
 * @param {Element} element
 * @param {string} name
 * @param {any} value
 */
export function setAttribute(element, name, value) {
  if (value === false || value === null || value === undefined) element.removeAttribute(name);
  else element.setAttribute(name, value === true ? "" : String(value));
}

/**
 * Sets the text of an element, if it differs: the same text again would be read aloud again.
 * @param {Element} element
 * @param {string} text
 */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/**
 * Shows or hides an element.
 * @param {any} element
 * @param {boolean} isShown
 */
export function show(element, isShown) {
  if (element.hidden === isShown) element.hidden = !isShown;
}

/** An id that is unique in the document. */
let lastId = 0;
export function newId() {
  lastId += 1;
  return `dp-${lastId}`;
}

/**
 * A labelled form field.
 * @param {string} label
 * @param {any} control
 * @param {string} [hint]
 */
export function field(label, control, hint) {
  control.id ||= newId();
  const parts = [h("label", { for: control.id, text: label }), control];
  if (hint) {
    const id = newId();
    control.setAttribute("aria-describedby", id);
    parts.push(h("small", { id, class: "muted", text: hint }));
  }
  return h("div", { class: "field" }, ...parts);
}

/**
 * Calls `action` once after the last of several calls within `delay` milliseconds.
 * @param {() => void} action
 * @param {number} delay
 */
export function debounced(action, delay) {
  let timer = 0;
  const call = () => {
    clearTimeout(timer);
    timer = setTimeout(action, delay);
  };
  call.cancel = () => clearTimeout(timer);
  return call;
}

/**
 * Waits; ends early, without an error, when `signal` is aborted.
 * @param {number} milliseconds
 * @param {AbortSignal} [signal]
 * @returns {Promise<void>}
 */
export function sleep(milliseconds, signal) {
  return new Promise((resolve) => {
    if (signal?.aborted) return resolve();
    const done = () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, milliseconds);
    signal?.addEventListener("abort", done);
  });
}
