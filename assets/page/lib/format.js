// Numbers, sizes, durations and times as people read them. Times are in the service's zone, which
// is also the zone of what is typed in.

import { locale, t } from "./i18n.js";

let zone = "UTC";
/** @type {Map<string, Intl.DateTimeFormat>} */
const formats = new Map();

/** @param {string} name of the zone, as IANA has it */
export function setZone(name) {
  zone = name;
  formats.clear();
}

export function zoneName() {
  return zone;
}

/** Made once: to make a format takes longer than to use it a hundred times. @type {Map<string, Intl.NumberFormat>} */
const numbers = new Map();

/** @param {number} value @param {number} [digits] after the point, at most */
export function number(value, digits = 0) {
  const key = `${locale()} ${digits}`;
  let format = numbers.get(key);
  if (!format) {
    format = new Intl.NumberFormat(locale(), { maximumFractionDigits: digits });
    numbers.set(key, format);
  }
  return format.format(value);
}

/** @param {number} bytes */
export function size(bytes) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  while (bytes >= 1000 && unit < units.length - 1) {
    bytes /= 1000;
    unit += 1;
  }
  return `${number(bytes, bytes < 10 && unit > 0 ? 1 : 0)} ${units[unit]}`;
}

/** @param {number} value rows a second */
export function speed(value) {
  return number(value, value < 10 ? 1 : 0);
}

/**
 * A duration in its two largest units.
 * @param {number} seconds
 */
export function duration(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return t("seconds", { n: s });
  if (s < 3600) return t("minutesSeconds", { m: Math.floor(s / 60), s: s % 60 });
  if (s < 86400) return t("hoursMinutes", { h: Math.floor(s / 3600), m: Math.floor((s % 3600) / 60) });
  return t("daysHours", { d: Math.floor(s / 86400), h: Math.floor((s % 86400) / 3600) });
}

/** The same for something that is over: with tenths of a second where they matter. @param {number} seconds */
export function exactDuration(seconds) {
  return seconds < 10 ? t("seconds", { n: Math.max(0.1, seconds).toFixed(1) }) : duration(seconds);
}

function format(key, options) {
  let found = formats.get(key);
  if (!found) {
    found = new Intl.DateTimeFormat("en-CA", { timeZone: zone, hourCycle: "h23", ...options });
    formats.set(key, found);
  }
  return found;
}

/**
 * The parts of an instant in the service's zone.
 * @param {number} ms since 1970
 */
export function parts(ms) {
  const options = { year: "numeric", month: "2-digit", day: "2-digit", hour: "2-digit", minute: "2-digit", second: "2-digit" };
  const found = { year: "", month: "", day: "", hour: "", minute: "", second: "" };
  for (const part of format("parts", options).formatToParts(Math.floor(ms))) {
    if (part.type in found) found[part.type] = part.value;
  }
  return found;
}

/** `2019-01-11 21:03:00` @param {number | string} time */
export function dateTime(time) {
  const p = parts(toMs(time));
  return `${p.year}-${p.month}-${p.day} ${p.hour}:${p.minute}:${p.second}`;
}

/** `2019-01-11 21:03` @param {number | string} time */
export function toMinute(time) {
  return dateTime(time).slice(0, 16);
}

/** `21:03:00` @param {number | string} time */
export function clock(time) {
  return dateTime(time).slice(11);
}

/** `21:03:00` of today, otherwise with the date. @param {number | string} time */
export function recent(time) {
  const text = dateTime(time);
  return text.slice(0, 10) === dateTime(Date.now()).slice(0, 10) ? text.slice(11) : text.slice(0, 16);
}

/**
 * A range; of its second time only what differs is shown. The end is included: one that lies just
 * before a full second is shown as that second.
 * @param {number | string} from
 * @param {number | string} to
 */
export function range(from, to) {
  const end = toMs(to);
  const first = dateTime(from);
  const last = dateTime(end % 1000 > 999 ? Math.ceil(end / 1000) * 1000 : end);
  const short = (text) => (text.endsWith(":00") ? text.slice(0, -3) : text);
  const same = first.slice(0, 10) === last.slice(0, 10) ? 11 : first.slice(0, 4) === last.slice(0, 4) ? 5 : 0;
  return `${short(first)} – ${short(last).slice(same)}`;
}

/** Milliseconds since 1970, with fractions. @param {number | string} time */
export function toMs(time) {
  if (typeof time === "number") return time;
  const fraction = /\.(\d{4,9})/.exec(time);
  const whole = Date.parse(time.replace(/(\.\d{3})\d+/, "$1"));
  return fraction ? whole + Number(`0.${fraction[1].slice(3)}`) : whole;
}

/** RFC 3339 in UTC, with microseconds. @param {number} ms */
export function toRfc3339(ms) {
  const us = Math.round(ms * 1000);
  const rest = us - Math.floor(us / 1e6) * 1e6;
  const text = new Date(Math.floor(us / 1e6) * 1000).toISOString().slice(0, 19);
  return rest === 0 ? `${text}Z` : `${text}.${String(rest).padStart(6, "0")}Z`;
}

/** How far the service's zone is ahead of UTC at an instant, in milliseconds. @param {number} ms */
function offset(ms) {
  const p = parts(ms);
  const local = Date.UTC(+p.year, +p.month - 1, +p.day, +p.hour, +p.minute, +p.second);
  return local - Math.floor(ms / 1000) * 1000;
}

/**
 * The instant of a local time in the service's zone, or NaN. Around a change of clocks the earlier.
 * @param {string} text `2019-01-11 21:03`, with seconds or not, with a fraction of them or not
 */
export function fromLocal(text) {
  const found = /^(\d{4})-(\d\d?)-(\d\d?)(?:[T ]+(\d\d?):(\d\d)(?::(\d\d)(\.\d{1,6})?)?)?$/.exec(text.trim());
  if (!found) return NaN;
  const [year, month, day, hour, minute, second, fraction] = found.slice(1).map((part) => Number(part ?? 0));
  const local = Date.UTC(year, month - 1, day, hour, minute, second);
  const back = new Date(local);
  const isTime = back.getUTCMonth() === month - 1 && back.getUTCHours() === hour && back.getUTCMinutes() === minute && second < 60;
  if (!isTime) return NaN;
  const first = local - offset(local);
  return local - offset(first) + fraction * 1000;
}

/** As it is typed: `2019-01-11 21:03:00`, with the fraction of the second if there is one. @param {number} ms */
export function toLocalInput(ms) {
  const us = Math.round(ms * 1000);
  const rest = us - Math.floor(us / 1e6) * 1e6;
  return dateTime(Math.floor(us / 1000)) + (rest === 0 ? "" : `.${String(rest).padStart(6, "0")}`);
}

/** The beginning of an id, which is enough to recognize it. @param {string} id */
export function shortId(id) {
  return id.length > 13 ? `${id.slice(0, 8)}…${id.slice(-4)}` : id;
}
