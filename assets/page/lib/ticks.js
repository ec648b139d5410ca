// Marks of a time axis, at round local times.

import { fromLocal, parts } from "./format.js";

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;

/** Distances between marks up to days. */
const STEPS = [MINUTE, 5 * MINUTE, 15 * MINUTE, 30 * MINUTE, HOUR, 3 * HOUR, 6 * HOUR, 12 * HOUR, DAY, 2 * DAY, 7 * DAY, 14 * DAY];

/**
 * The marks of a range, at most `most` of them, with their texts.
 * @param {import("./draft.js").Span} span
 * @param {number} most
 * @returns {{ at: number, text: string }[]}
 */
export function ticks({ from, to }, most) {
  const wanted = (to - from) / Math.max(1, most);
  const step = STEPS.find((candidate) => candidate >= wanted);
  return step ? regular(from, to, step) : months(from, to, Math.ceil(wanted / (30.4 * DAY)));
}

/** @param {number} from @param {number} to @param {number} step */
function regular(from, to, step) {
  // Counted from a local midnight, so that marks of hours and days lie on local ones.
  const p = parts(from);
  const midnight = fromLocal(`${p.year}-${p.month}-${p.day}T00:00`);
  const found = [];
  let day = "";
  for (let at = midnight + Math.ceil((from - midnight) / step) * step; at <= to; at += step) {
    const { month, day: date, hour, minute } = parts(at);
    const isNewDay = day !== date;
    day = date;
    const time = `${hour}:${minute}`;
    found.push({ at, text: step >= DAY || (isNewDay && time === "00:00") ? `${month}-${date}` : time });
  }
  return found;
}

/** @param {number} from @param {number} to @param {number} count of months between two marks */
function months(from, to, count) {
  const every = [1, 3, 6, 12, 24, 60, 120].find((step) => step >= count) ?? 120;
  const first = parts(from);
  const found = [];
  for (let index = Math.ceil((Number(first.year) * 12 + Number(first.month) - 1) / every) * every; ; index += every) {
    const year = String(Math.floor(index / 12)).padStart(4, "0");
    const month = String((index % 12) + 1).padStart(2, "0");
    const at = fromLocal(`${year}-${month}-01T00:00`);
    if (!(at <= to)) return found;
    if (at >= from) found.push({ at, text: every >= 12 ? year : `${year}-${month}` });
  }
}
