// The language of the page, and its texts.

import { en } from "../text/en.js";
import { zh } from "../text/zh.js";

const TEXTS = { en, zh };
const KEY = "data-patch-language";

/** Tells that the language has changed. */
export const languageChanged = new EventTarget();

/** @type {"en" | "zh"} */
let current = document.documentElement.lang.startsWith("zh") ? "zh" : "en";

export function language() {
  return current;
}

/** The language as a tag for `Intl` and `Accept-Language`. */
export function locale() {
  return language() === "zh" ? "zh-CN" : "en-GB";
}

/** @param {"en" | "zh"} chosen */
export function setLanguage(chosen) {
  current = chosen;
  document.documentElement.lang = chosen === "zh" ? "zh-CN" : "en";
  try {
    localStorage.setItem(KEY, chosen);
  } catch {
    // Storage is switched off: the choice holds until the page is closed.
  }
  languageChanged.dispatchEvent(new Event("change"));
}

/**
 * A text. Words in braces are replaced by the parameters; a text may be a function of them.
 * @param {string} key
 * @param {Record<string, any>} [parameters]
 * @returns {string}
 */
export function t(key, parameters = {}) {
  const text = TEXTS[language()][key] ?? en[key] ?? key;
  if (typeof text === "function") return text(parameters);
  return text.replace(/\{(\w+)\}/g, (whole, name) => parameters[name] ?? whole);
}
