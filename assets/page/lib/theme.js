// The colours of the page: those that are chosen, or those of the system. `data-theme` always names
// which they are, so that the style has each colour once a theme. boot.js sets it before the first
// paint.

const THEMES = ["auto", "light", "dark"];
const KEY = "data-patch-theme";
const root = document.documentElement;
const systemIsDark = matchMedia("(prefers-color-scheme: dark)");

/** Tells that the colours have changed; what is drawn on a canvas must be drawn again. */
export const themeChanged = new EventTarget();

let chosen = read();

/** What is chosen: `auto`, `light` or `dark`. */
export function theme() {
  return chosen;
}

/** Chooses the next one. */
export function nextTheme() {
  chosen = THEMES[(THEMES.indexOf(chosen) + 1) % THEMES.length];
  try {
    if (chosen === "auto") localStorage.removeItem(KEY);
    else localStorage.setItem(KEY, chosen);
  } catch {
    // Storage is switched off: the choice holds until the page is closed.
  }
  apply();
}

function read() {
  try {
    const stored = localStorage.getItem(KEY) ?? "auto";
    return THEMES.includes(stored) ? stored : "auto";
  } catch {
    return "auto";
  }
}

function apply() {
  root.dataset.theme = chosen === "auto" ? (systemIsDark.matches ? "dark" : "light") : chosen;
  themeChanged.dispatchEvent(new Event("change"));
}

systemIsDark.addEventListener("change", apply);
