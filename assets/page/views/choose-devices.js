// Chooses devices of a thing: one by one, all that match, or from a list that is pasted.

import { debounced, field, h, setText } from "../lib/dom.js";
import { number } from "../lib/format.js";
import { t } from "../lib/i18n.js";
import { ask } from "../ui/dialog.js";
import { VirtualList } from "../ui/virtual-list.js";

const UUID = /[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}/gi;

/**
 * @param {{ deviceId: string, name: string | null }[]} all
 * @param {Set<string>} before
 * @param {number} most that a request may have
 * @returns {Promise<Set<string> | null>}
 */
export function chooseDevices(all, before, most) {
  const chosen = new Set(before);
  let shown = all;
  const count = h("span", { class: "muted", role: "status" });
  const search = h("input", { type: "search", placeholder: t("devices.search"), "aria-label": t("devices.search") });
  const list = new VirtualList({
    label: t("task.devices"),
    estimate: 34,
    narrow: 42,
    create: () => {
      const check = h("input", { type: "checkbox" });
      check.addEventListener("change", () => {
        if (check.checked) chosen.add(check.dataset.device ?? "");
        else chosen.delete(check.dataset.device ?? "");
        update();
      });
      return h("label", { class: "choice" }, check, h("span"), h("span", { class: "muted mono" }));
    },
    fill: (row, index) => {
      const [check, name, id] = /** @type {any[]} */ ([...row.children]);
      const device = shown[index];
      check.dataset.device = device.deviceId;
      check.checked = chosen.has(device.deviceId);
      setText(name, device.name ?? "");
      setText(id, device.deviceId);
    },
  });
  list.classList.add("choices");
  const update = () => {
    setText(count, t("new.devicesOf", { chosen: number(chosen.size), all: number(all.length) }));
    list.update(shown.length);
    list.fit();
  };
  const find = () => {
    const text = search.value.trim().toLowerCase();
    shown = all.filter(({ deviceId, name }) => !text || deviceId.includes(text) || name?.toLowerCase().includes(text));
    list.scrollTop = 0;
    update();
  };
  search.addEventListener("input", debounced(find, 120));
  // Enter in the search field would confirm the dialog.
  search.addEventListener("keydown", (event) => event.key === "Enter" && event.preventDefault());
  const each = (/** @type {(id: string) => void} */ action) => () => {
    for (const { deviceId } of shown) action(deviceId);
    update();
  };
  const result = h("small", { class: "muted", role: "status" });
  const paste = h("textarea", { rows: 3, spellcheck: "false" });
  paste.addEventListener("input", () => setText(result, pasted(paste.value, all, chosen, update)));
  const error = h("p", { class: "error", role: "alert" });
  update();
  return ask({
    title: t("choose.title"),
    content: [
      h("div", { class: "filters" }, search,
        h("span", { class: "actions" },
          h("button", { type: "button", text: t("choose.all"), onclick: each((id) => chosen.add(id)) }),
          h("button", { type: "button", text: t("choose.none"), onclick: each((id) => chosen.delete(id)) }))),
      list, count,
      h("details", { class: "more" }, h("summary", { text: t("choose.paste") }), field(t("choose.pasteField"), paste), result),
      error,
    ],
    confirm: t("choose.confirm"),
    value: () => {
      if (chosen.size <= most) return chosen;
      setText(error, t("choose.tooMany", { most: number(most) }));
      return null;
    },
  });
}

/**
 * Chooses the devices of a text, by id or by the name on a line; says how many were found.
 * @param {string} text
 * @param {{ deviceId: string, name: string | null }[]} all
 * @param {Set<string>} chosen
 * @param {() => void} update
 */
function pasted(text, all, chosen, update) {
  const known = new Set(all.map(({ deviceId }) => deviceId));
  const byName = new Map(all.map(({ deviceId, name }) => [name ?? deviceId, deviceId]));
  const names = text.split(/[\n,;\t]+/).map((part) => part.trim()).filter(Boolean);
  const found = new Set();
  let unknown = 0;
  for (const name of names) {
    const ids = name.match(UUID)?.map((id) => id.toLowerCase()) ?? [byName.get(name) ?? ""];
    for (const id of ids) {
      if (known.has(id)) found.add(id);
      else unknown += 1;
    }
  }
  if (found.size > 0) {
    chosen.clear();
    for (const id of found) chosen.add(id);
  }
  update();
  return t("choose.pasted", { found: number(found.size), unknown: number(unknown) });
}
