// The entries of a log as text, with the names of devices in place of their ids. Reasons come from
// the source, Kafka and the operating system, and stay in English.

import { dateTime, number } from "../lib/format.js";
import { language } from "../lib/i18n.js";

const WARNINGS = new Set([
  "overlaps", "fields_ignored", "count_mismatch", "quarantined", "waiting", "stalled", "taken_over", "cancelled", "cancel_requested",
]);

/** Whether the page has a text for this kind. @param {string} kind */
export function isKnownEvent(kind) {
  return kind in EN;
}

/** @param {any} entry @returns {"info" | "warn" | "error"} */
export function severity(entry) {
  if (entry.isError) return "error";
  return WARNINGS.has(entry.event.kind) ? "warn" : "info";
}

/**
 * @param {any} entry
 * @param {(device: string) => string} nameOf
 */
export function eventText(entry, nameOf) {
  const { event } = entry;
  const texts = language() === "zh" ? ZH : EN;
  // A kind that a newer service has: its own text.
  const make = texts[event.kind];
  return make ? make(event, event.device ? (event.name ?? nameOf(event.device)) : "") : entry.text;
}

const en = (count, one, many = `${one}s`) => `${number(count)} ${count === 1 ? one : many}`;
const who = (by) => `${by.token} (${by.address})`;
const seconds = (ms) => number(ms / 1000, ms < 10_000 ? 1 : 0);

/** @param {any} row */
const rowText = (row) => `${dateTime(row.position.timeUs / 1000)} ${row.position.key}`;

/** @type {Record<string, (event: any, device: string) => string>} */
const EN = {
  submitted: (e) => `submitted by ${who(e.by)}: ${en(e.devices, "device")}`
    + (e.retryOf ? ` of task ${e.retryOf}, tried again` : "") + (e.rate ? `, at most ${en(e.rate, "row")} a second` : "")
    + (e.reason ? ` · ${e.reason}` : ""),
  overlaps: (e) => `some of these rows are in this topic already, or will be: ${e.tasks.join(", ")}`
    + (e.more ? ` and ${en(e.more, "more task", "more tasks")}` : ""),
  fields_ignored: (e) => `unknown fields of the request were ignored: ${e.fields.join(", ")}`,
  counted: (e, device) => `${device}: ${en(e.total, "row")} to publish`,
  published: (e, device) => `${device}: ${number(e.published)} of ${number(e.total)} published`,
  count_mismatch: (e, device) => `${device}: ${number(e.counted)} counted, ${number(e.read)} read: the source was written to in between`,
  note: (e, device) => `${device}: ${e.note}`,
  quarantined: (e, device) => `${device}: ${en(e.rows, "row")} quarantined, not published: `
    + e.first.map((row) => `${rowText(row)}: ${row.reason}`).join("; ")
    + (e.rows > e.first.length ? `; and ${number(e.rows - e.first.length)} more` : ""),
  waiting: (e, device) => `${device} waits: ${e.reason}. Nothing is lost (${en(e.published, "row")} safe); next try in ${seconds(e.retryMs)} s`,
  stalled: (e, device) => `${device} waits: Kafka has acknowledged nothing for ${e.silentSeconds} s. Nothing is lost`,
  taken_over: (e, device) => `${device}: continued after ${en(e.published, "row")}; its worker was lost`,
  cancelled: (e, device) => `${device}: cancelled after ${en(e.published, "row")}`
    + (e.workerDied ? "; its worker was lost, more may be published" : "")
    + (e.unanswered ? `; up to ${en(e.unanswered, "row")} without an answer may still arrive` : ""),
  cancel_requested: (e) => `being cancelled by ${who(e.by)}`,
  paused: (e) => `paused by ${who(e.by)}`,
  resumed: (e) => `resumed by ${who(e.by)}`,
  rate_changed: (e) => `${e.rate ? `at most ${en(e.rate, "row")} a second` : "no limit of rows a second"}, set by ${who(e.by)}`,
  failed: (e, device) => `${device || "a device"} failed: ${e.reason}`,
  finished: (e) => `finished: ${number(e.succeededDevices)} of ${en(e.succeededDevices + e.failedDevices + e.cancelledDevices, "device")}, `
    + `${en(e.published, "row")} published, ${number(e.quarantined)} quarantined, in ${seconds(e.tookMs)} s`
    + (e.emptyDevices ? `; ${en(e.emptyDevices, "device")} had no row in the range` : "")
    + (e.failedDevices ? `; ${number(e.failedDevices)} failed` : "") + (e.cancelledDevices ? `; ${number(e.cancelledDevices)} cancelled` : "")
    + (e.unanswered ? `; up to ${en(e.unanswered, "row")} without an answer may still arrive` : ""),
};

/** @type {Record<string, (event: any, device: string) => string>} */
const ZH = {
  submitted: (e) => `由 ${who(e.by)} 提交：${number(e.devices)} 个设备` + (e.retryOf ? `，重试任务 ${e.retryOf}` : "")
    + (e.rate ? `，限速每秒 ${number(e.rate)} 行` : "") + (e.reason ? ` · ${e.reason}` : ""),
  overlaps: (e) => `部分数据已在或将在该 topic 中重复出现：任务 ${e.tasks.join("、")}` + (e.more ? `，另有 ${number(e.more)} 个任务` : ""),
  fields_ignored: (e) => `请求中有未知字段，已忽略：${e.fields.join("、")}`,
  counted: (e, device) => `${device}：共有 ${number(e.total)} 行待发布`,
  published: (e, device) => `${device}：已发布 ${number(e.published)} / ${number(e.total)} 行`,
  count_mismatch: (e, device) => `${device}：统计时有 ${number(e.counted)} 行，读取时有 ${number(e.read)} 行，其间有数据写入`,
  note: (e, device) => `${device}：${e.note}`,
  quarantined: (e, device) => `${device}：${number(e.rows)} 行被隔离，没有发布：`
    + e.first.map((row) => `${rowText(row)}：${row.reason}`).join("；")
    + (e.rows > e.first.length ? `；另有 ${number(e.rows - e.first.length)} 行` : ""),
  waiting: (e, device) => `${device} 正在等待：${e.reason}。没有丢失数据（${number(e.published)} 行已确认），${seconds(e.retryMs)} 秒后重试`,
  stalled: (e, device) => `${device} 正在等待：Kafka 已有 ${e.silentSeconds} 秒没有确认。没有丢失数据`,
  taken_over: (e, device) => `${device}：工作进程中断，从第 ${number(e.published)} 行之后继续`,
  cancelled: (e, device) => `${device}：已取消，已发布 ${number(e.published)} 行` + (e.workerDied ? "；其工作进程此前中断，之后可能还有一些" : "")
    + (e.unanswered ? `；最多还有 ${number(e.unanswered)} 行未得到答复，可能仍会到达` : ""),
  cancel_requested: (e) => `${who(e.by)} 正在取消任务`,
  paused: (e) => `${who(e.by)} 暂停了任务`,
  resumed: (e) => `${who(e.by)} 恢复了任务`,
  rate_changed: (e) => (e.rate ? `${who(e.by)} 将限速改为每秒 ${number(e.rate)} 行` : `${who(e.by)} 取消了限速`),
  failed: (e, device) => `${device || "有一个设备"}失败：${e.reason}`,
  finished: (e) => `任务结束：${number(e.succeededDevices)} / ${number(e.succeededDevices + e.failedDevices + e.cancelledDevices)} 个设备成功，`
    + `发布 ${number(e.published)} 行，隔离 ${number(e.quarantined)} 行，用时 ${seconds(e.tookMs)} 秒`
    + (e.emptyDevices ? `；${number(e.emptyDevices)} 个设备在该时间段没有数据` : "")
    + (e.failedDevices ? `；${number(e.failedDevices)} 个设备失败` : "") + (e.cancelledDevices ? `；${number(e.cancelledDevices)} 个设备被取消` : "")
    + (e.unanswered ? `；最多还有 ${number(e.unanswered)} 行未得到答复，可能仍会到达` : ""),
};
