// The list of tasks, and one task: its devices, its log, and what can be done with it.

import assert from "node:assert/strict";
import { test } from "node:test";

import { Visit } from "./support/pages.mjs";
import { BRIDGE, DAM, deviceIds, VIEWER } from "./support/service.mjs";
import { shared } from "./support/shared.mjs";

const LEVELS = () => deviceIds("静力水准仪", 7);
const PIEZOMETERS = () => deviceIds("渗压计", 11);
const NOBODY = "00000000-0000-4000-8000-000000000001";

test("the filters of the list are in the address, and an address sets them", async () => {
  const { service } = shared;
  const [good, bad] = [
    await service.submit({ thingId: BRIDGE, devices: LEVELS(), reason: "filter: all is well" }),
    await service.submit({ thingId: BRIDGE, devices: [NOBODY], reason: "filter: no such device" }),
  ];
  for (const { taskId } of [good, bad]) await service.finished(taskId);
  const visit = await Visit.start(shared.browser, shared.url);
  const { page } = visit;
  await visit.openAs("/tasks");
  await page.fill("input[type=search]", "filter:");
  await visit.sees("2 tasks");
  await page.getByRole("button", { name: "failed", exact: true }).click();
  await visit.sees("1 task");
  await visit.screenshot("tasks-filtered");
  const address = page.url();
  assert.match(address, /#\/tasks\?state=failed&q=filter%3A$/);
  const colleague = await Visit.start(shared.browser, shared.url);
  await colleague.openAs(address.split("#")[1]);
  await colleague.sees("1 task");
  await colleague.sees("filter: no such device");
  assert.equal(await colleague.page.inputValue("input[type=search]"), "filter:");
  assert.equal(await colleague.page.getByRole("button", { name: "failed", exact: true }).getAttribute("aria-pressed"), "true");
  await colleague.end();
  await page.getByText("filter: no such device").locator("..").getByRole("link").click();
  await visit.sees("1 device failed");
  assert.match(page.url(), new RegExp(bad.taskId));
  await page.goBack();
  await visit.sees("1 task");
  await visit.end();
});

test("a task is followed to its end, with its devices and its log", async () => {
  const task = await shared.service.submit({ thingId: DAM, devices: [...PIEZOMETERS(), NOBODY], reason: "wrong formula", rate: 1500 });
  const visit = await Visit.start(shared.browser, shared.url);
  const { page } = visit;
  await visit.openAs(`/tasks/${task.taskId}`);
  await visit.sees("running");
  await visit.sees(/渗压计\d\d: \d+ of 528 published/);
  await visit.screenshot("task-running");
  await visit.sees("5,805 of 5,808 rows");
  await visit.sees(/finished: 11 of 12 devices, 5,805 rows published, 3 quarantined/);
  await page.getByRole("button", { name: /^failed 1/ }).click();
  await visit.sees("1 of 12");
  await page.getByRole("button", { name: /^failed 1/ }).click();
  // Sorted by name, downwards: 11 comes first.
  await page.getByRole("button", { name: "Device", exact: true }).click();
  await page.getByRole("button", { name: "Device", exact: true }).click();
  assert.match(page.url(), /sort=-device/);
  await page.getByRole("button", { name: /^Warnings/ }).click();
  await visit.sees(/渗压计03: \d rows? quarantined/);
  await page.waitForFunction(() => document.querySelectorAll("dp-task-log .entry:not([data-level=info])").length === document.querySelectorAll("dp-task-log .entry").length);
  await page.getByRole("tab", { name: /^Quarantine/ }).click();
  await visit.sees("its `data.data` is an array");
  await visit.screenshot("task-quarantine");
  const download = page.waitForEvent("download");
  await page.getByRole("button", { name: "Download CSV" }).filter({ visible: true }).click();
  const stream = await (await download).createReadStream();
  let csv = "";
  for await (const part of stream) csv += part;
  assert.equal(csv.trim().split("\n").length, 4, csv);
  await page.getByRole("button", { name: /^Retry 1 device/ }).click();
  await visit.sees(/retry of/);
  assert.ok(!page.url().includes(task.taskId));
  await visit.end();
});

test("a task is paused, resumed, slowed down and cancelled", async () => {
  const task = await shared.service.submit({ thingId: BRIDGE, devices: LEVELS(), rate: 40 });
  const visit = await Visit.start(shared.browser, shared.url);
  const { page } = visit;
  await visit.openAs(`/tasks/${task.taskId}`);
  await page.getByRole("button", { name: "Pause" }).click();
  await visit.sees("paused by default (127.0.0.1)");
  await page.getByRole("button", { name: "Resume" }).click();
  await visit.sees("resumed by default (127.0.0.1)");
  await page.getByRole("button", { name: /^Change the rate/ }).click();
  await page.getByLabel("Rows a second").fill("60");
  await page.keyboard.press("Enter");
  await visit.sees("at most 60 rows a second");
  await page.getByRole("button", { name: "Cancel", exact: true }).click();
  await visit.sees("Cancel this task?");
  await visit.screenshot("task-cancel");
  await page.getByRole("button", { name: "Cancel the task" }).click();
  await visit.sees("7 devices cancelled");
  assert.equal((await shared.service.finished(task.taskId)).state, "cancelled");
  await visit.end();
});

test("a receipt is shown, saved, and verified against the topic", async () => {
  const task = await shared.service.submit({ thingId: BRIDGE, devices: LEVELS(), reason: "for the receipt" });
  await shared.service.finished(task.taskId);
  const visit = await Visit.start(shared.browser, shared.url);
  const { page } = visit;
  await visit.openAs(`/tasks/${task.taskId}?tab=receipt`);
  await visit.sees("东海大桥");
  await visit.sees("What this task has published.");
  await visit.sees(/^[0-9a-f]{32}$/);
  await page.getByRole("button", { name: "Verify against the topic" }).click();
  await visit.sees(/Complete: the topic has all 3,624 rows of 7 devices/);
  assert.equal(await page.locator("dp-task-receipt .pill[data-state=complete]").count(), 7);
  await visit.screenshot("receipt-verified");
  const download = page.waitForEvent("download");
  await page.getByRole("button", { name: "Download CSV" }).filter({ visible: true }).click();
  assert.equal((await download).suggestedFilename(), `receipt-${task.taskId}.csv`);
  await visit.end();
});

test("a viewer sees everything, and steers nothing", async () => {
  const task = await shared.service.submit({ thingId: BRIDGE, devices: LEVELS(), rate: 500 });
  const visit = await Visit.start(shared.browser, shared.url);
  await visit.openAs(`/tasks/${task.taskId}`, VIEWER);
  await visit.sees(/published/);
  const names = await visit.page.locator("dp-task-actions button:visible").allTextContents();
  assert.deepEqual(names, []);
  await shared.service.call("POST", `/tasks/${task.taskId}/cancel`);
  await visit.sees("being cancelled by default");
  await visit.end();
});
