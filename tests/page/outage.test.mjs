// Outages: a connection that is cut, a service that is restarted, one that comes back in another version.

import assert from "node:assert/strict";
import { test } from "node:test";

import { Visit } from "./support/pages.mjs";
import { BRIDGE, deviceIds } from "./support/service.mjs";
import { shared } from "./support/shared.mjs";

test("a restart of the service loses nothing: the log goes on after its last entry", async () => {
  const { service } = shared;
  const task = await service.submit({ thingId: BRIDGE, devices: deviceIds("静力水准仪", 7), rate: 300 });
  const visit = await Visit.start(shared.browser, shared.url);
  const { page } = visit;
  await visit.openAs(`/tasks/${task.taskId}`);
  await visit.sees(/of 528 published/);
  await service.kill("SIGKILL");
  await visit.sees("The service cannot be reached. What you see is of");
  await visit.screenshot("not-connected");
  assert.equal(await page.locator("html").getAttribute("data-stale"), "", "what is old looks old");
  await service.run();
  await page.getByRole("alert").filter({ hasText: "cannot be reached" }).waitFor({ state: "hidden" });
  await visit.sees("connected");
  await service.call("PATCH", `/tasks/${task.taskId}`, { rate: null });
  await visit.sees(/finished: 7 of 7 devices/);
  const view = await service.finished(task.taskId);
  await page.waitForFunction((count) => document.querySelector("dp-task-log .chip")?.textContent?.endsWith(` ${count}`), String(view.lastSeq));
  await visit.end();
});

test("what was asked for while the service was away is done when it is back", async () => {
  const { service } = shared;
  const task = await service.submit({ thingId: BRIDGE, devices: deviceIds("静力水准仪", 7), rate: 20 });
  const visit = await Visit.start(shared.browser, shared.url);
  await visit.openAs(`/tasks/${task.taskId}`);
  await visit.sees(/of 528 published/);
  await service.kill("SIGTERM");
  await visit.page.getByRole("button", { name: "Pause" }).click();
  await visit.sees("The service cannot be reached");
  await service.run();
  await visit.page.getByRole("button", { name: "Try now" }).click({ timeout: 1000 }).catch(() => {});
  await visit.sees(/paused by default/);
  await service.call("POST", `/tasks/${task.taskId}/cancel`);
  await visit.end();
});

test("a service of another version is noticed after its restart, and its page is offered", async () => {
  const { service } = shared;
  const visit = await Visit.start(shared.browser, shared.url);
  await visit.openAs("/tasks");
  await visit.sees("default (operator)");
  await service.kill("SIGTERM");
  await visit.sees("The service cannot be reached");
  // The index of another version names another build; nothing else of it is needed here.
  await visit.page.route(shared.url, async (route) => {
    const answer = await route.fetch();
    await route.fulfill({ response: answer, body: (await answer.text()).replace(/data-build="\w+"/, 'data-build="0123"') });
  });
  await service.run();
  await visit.sees("This page is of the version before");
  await visit.screenshot("upgraded");
  await visit.page.unroute(shared.url);
  await visit.page.getByRole("button", { name: "Reload" }).click();
  await visit.sees("default (operator)");
  await visit.page.getByText("This page is of the version before").waitFor({ state: "hidden" });
  await visit.end();
});

test("a network that is cut and comes back leaves no gap in the log", async () => {
  const { service } = shared;
  const task = await service.submit({ thingId: BRIDGE, devices: deviceIds("静力水准仪", 7), rate: 400 });
  const context = await shared.browser.newContext();
  try {
    const visit = await Visit.start({ context }, shared.url);
    await visit.openAs(`/tasks/${task.taskId}`);
    await visit.sees(/of 528 published/);
    await context.setOffline(true);
    await visit.sees("The service cannot be reached");
    await context.setOffline(false);
    await service.call("PATCH", `/tasks/${task.taskId}`, { rate: null });
    await visit.sees(/finished: 7 of 7 devices/);
    const { lastSeq } = await service.finished(task.taskId);
    await visit.page.waitForFunction((count) => document.querySelector("dp-task-log .chip")?.textContent?.endsWith(` ${count}`), String(lastSeq));
    const entries = visit.page.locator("dp-task-log .entry");
    const seqs = await entries.evaluateAll((rows) => rows.map((row) => Number(/** @type {HTMLElement} */ (row).dataset.seq)));
    assert.deepEqual(seqs, seqs.map((_, index) => seqs[0] + index), "in order, none missing, none twice");
    await visit.end();
  } finally {
    await context.close();
  }
});

test("a patch that is published while the service is away is published once", async () => {
  const { service } = shared;
  const visit = await Visit.start(shared.browser, shared.url);
  const { page } = visit;
  const range = "from=2019-01-12T16:00:00Z&to=2019-01-13T15:59:59.999999Z";
  await visit.openAs(`/new?thing=${BRIDGE}&${range}&reason=published-once`);
  const button = page.getByRole("button", { name: "Publish 336 rows to" });
  await button.waitFor();
  await service.kill("SIGTERM");
  await button.click();
  await visit.sees("The service cannot be reached");
  await service.run();
  await page.waitForURL(/#\/tasks\/[0-9a-f-]{36}/);
  await visit.sees("336 of 336 rows");
  assert.equal((await service.call("GET", "/tasks?q=published-once")).items.length, 1);
  await visit.end();
});
