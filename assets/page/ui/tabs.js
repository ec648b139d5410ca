// Panels of which one is shown, as the ARIA practices describe tabs. A panel may be shown apart from the
// others where there is room; its tab is then not needed.

import { h, newId, setText } from "../lib/dom.js";

/**
 * @param {string} label
 * @param {{ name: string, label: string, panel: HTMLElement, apart?: MediaQueryList }[]} parts
 * @param {string} selected
 * @param {(name: string) => void} onselect
 */
export function tabs(label, parts, selected, onselect) {
  /** @type {Map<string, { tab: HTMLButtonElement, count: HTMLElement, panel: HTMLElement }>} */
  const all = new Map();
  for (const { name, label: text, panel } of parts) {
    const count = h("span", { class: "count" });
    panel.id ||= newId();
    panel.classList.add("panel", `panel-${name}`, "card");
    const tab = h("button", { type: "button", role: "tab", class: `tab-${name}`, id: newId(), "aria-controls": panel.id }, text, count);
    panel.setAttribute("role", "tabpanel");
    panel.setAttribute("aria-labelledby", tab.id);
    tab.addEventListener("click", () => select(name, true));
    all.set(name, { tab, count, panel });
  }
  const list = h("div", { role: "tablist", class: "tabs", "aria-label": label }, ...[...all.values()].map(({ tab }) => tab));
  const element = h("div", { class: "parts" }, list, ...[...all.values()].map(({ panel }) => panel));

  /** @param {string} name @param {boolean} isUser */
  function select(name, isUser) {
    const part = parts.find((candidate) => candidate.name === name && !candidate.apart?.matches);
    const chosen = (part ?? parts[0]).name;
    for (const [key, { tab, panel }] of all) {
      tab.setAttribute("aria-selected", String(key === chosen));
      tab.tabIndex = key === chosen ? 0 : -1;
      panel.classList.toggle("selected", key === chosen);
    }
    element.dataset.selected = chosen;
    all.get(chosen)?.panel.dispatchEvent(new Event("shown"));
    if (isUser) onselect(chosen);
  }

  list.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
    const shown = [...all].filter(([, { tab }]) => tab.offsetParent !== null);
    const at = shown.findIndex(([, { tab }]) => tab === document.activeElement);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: shown.length - 1 }[event.key];
    if (to === undefined || at < 0) return;
    event.preventDefault();
    const [name, { tab }] = shown[(to + shown.length) % shown.length];
    tab.focus();
    select(name, true);
  });

  for (const { apart, panel } of parts) {
    apart?.addEventListener("change", () => panel.isConnected && select(element.dataset.selected ?? "", false));
  }
  select(selected, false);
  return {
    element,
    /** @param {string} name @param {string} text */
    setCount(name, text) {
      const part = all.get(name);
      if (part) setText(part.count, text);
    },
  };
}
