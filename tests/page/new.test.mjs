// A new patch: from the first visit to a task that has published exactly what was chosen.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { join } from "node:path";
import { test } from "node:test";

import { numberIn, Visit } from "./support/pages.mjs";
import { BRIDGE, deviceId, deviceIds, PROGRAM, TOKEN, TUNNEL, VIEWER } from "./support/service.mjs";
import { shared } from "./support/shared.mjs";

const WEEK = `since=2019-01-11T00:00:00%2B08:00&until=2019-01-18T00:00:00%2B08:00`;

/** The rows of devices in a range of the address, as the source has them. @param {string} address @param {string[]} devices */
function rowsOf(address, devices) {
  const query = new URLSearchParams(address.split("?")[1]);
  const script = `
import datetime, sqlite3, sys
path, start, end, *devices = sys.argv[1:]
ms = lambda text: datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp() * 1000
marks = ",".join("?" * len(devices))
sql = f'SELECT count(*) FROM raw_data WHERE "triggerTime" BETWEEN ? AND ? AND "deviceId" IN ({marks})'
print(sqlite3.connect(path).execute(sql, (ms(start), ms(end), *devices)).fetchone()[0])`;
  const file = join(shared.service.folder, "iota.db");
  return Number(execFileSync("python3", ["-c", script, file, query.get("from") ?? "", query.get("to") ?? "", ...devices], { encoding: "utf8" }));
}

/** The button that publishes, as soon as it says how many rows. @param {Visit} visit */
async function publishButton(visit) {
  const button = visit.page.getByRole("button", { name: /^Publish [\d,]+ rows? to/ });
  await button.and(visit.page.locator(":enabled")).waitFor();
  return button;
}

/** Draws over a part of the strips. @param {Visit} visit @param {number} from @param {number} to parts of the axis */
async function draw(visit, from, to) {
  const { page } = visit;
  // Edges snap to the buckets, which the preview says.
  await page.locator("dp-strips:not([data-loading]) .unit").filter({ hasText: "rows by" }).waitFor();
  const box = await page.locator(".axis").boundingBox();
  await page.mouse.move(box.x + box.width * from, box.y + 70);
  await page.mouse.down();
  await page.mouse.move(box.x + (box.width * (from + to)) / 2, box.y + 90, { steps: 4 });
  await page.mouse.move(box.x + box.width * to, box.y + 90, { steps: 4 });
  await page.mouse.up();
}

/** The task that was created is shown; waits for its end. @param {Visit} visit */
async function published(visit) {
  await visit.page.waitForURL(/#\/tasks\/[0-9a-f-]{36}/);
  const id = /tasks\/([0-9a-f-]{36})/.exec(visit.page.url())?.[1] ?? "";
  return shared.service.finished(id);
}

test("from the first visit to a published patch with the mouse", async () => {
  const visit = await Visit.start(shared.browser, shared.url);
  const { page } = visit;
  await visit.openAs("");
  await page.getByRole("link", { name: "New patch" }).first().click();
  await visit.sees("Choose the thing");
  await page.getByRole("combobox", { name: "Thing" }).click();
  await page.getByRole("option", { name: /东海大桥/ }).click();
  await visit.sees("7 of 7");
  await visit.sees("There are no rows in this time");
  await visit.screenshot("new-empty");
  await page.getByRole("button", { name: "Show the data" }).click();
  await visit.sees(/rows by \d* ?hours?/);
  await draw(visit, 0.24, 0.6);
  const button = await publishButton(visit);
  const rows = numberIn((await button.textContent()) ?? "");
  assert.equal(rows, rowsOf(page.url(), deviceIds("静力水准仪", 7)));
  await visit.screenshot("new-chosen");
  await button.click();
  const task = await published(visit);
  assert.equal(task.rows.published, rows);
  await visit.sees(`${rows.toLocaleString("en")} of ${rows.toLocaleString("en")} rows`);
  await visit.end();
});

test("from the first visit to a published patch with the keyboard", async () => {
  const visit = await Visit.start(shared.browser, shared.url);
  const { page } = visit;
  const press = async (...keys) => {
    for (const key of keys) await page.keyboard.press(key);
  };
  /** Tab, until something with this name has the focus. @param {RegExp} name */
  const tabTo = async (name) => {
    for (let tabs = 0; tabs < 60; tabs += 1) {
      const found = await page.evaluate(() => {
        const element = document.activeElement;
        const label = element?.getAttribute("aria-label") ?? /** @type {any} */ (element)?.labels?.[0]?.textContent ?? element?.textContent ?? "";
        return label.trim();
      });
      if (name.test(found)) return;
      await press("Tab");
    }
    assert.fail(`nothing named ${name} can be reached`);
  };
  await visit.open();
  await page.waitForSelector("dialog.sign-in[open]");
  await page.keyboard.type(TOKEN);
  await press("Enter");
  await page.waitForSelector("dialog.sign-in", { state: "hidden" });
  await tabTo(/^New patch$/);
  await press("Enter");
  await visit.sees("Choose the thing");
  await tabTo(/^Thing$/);
  await page.keyboard.type("东海");
  await page.getByRole("option", { name: /东海大桥/ }).waitFor();
  await press("ArrowDown", "Enter");
  await visit.sees("7 of 7");
  await tabTo(/^From/);
  await page.keyboard.type("2019-01-13 00:00");
  await press("Tab");
  await page.keyboard.type("2019-01-14 23:59:59");
  await press("Tab");
  await publishButton(visit);
  await tabTo(/^End of the range$/);
  const before = page.url();
  await press("ArrowRight", "ArrowRight");
  await page.waitForFunction((url) => location.href !== url, before);
  await tabTo(/^Copy as command$/);
  const button = await publishButton(visit);
  const rows = numberIn((await button.textContent()) ?? "");
  assert.equal(rows, rowsOf(page.url(), deviceIds("静力水准仪", 7)));
  assert.ok(rows > 672 - 72, "two days, and two bars more");
  await press("Tab", "Enter");
  const task = await published(visit);
  assert.equal(task.rows.published, rows);
  await visit.end();
});

test("drawing over a gap chooses exactly its rows, and the edges can be moved", async () => {
  const visit = await Visit.start(shared.browser, shared.url);
  const { page } = visit;
  const levels = deviceIds("静力水准仪", 7);
  await visit.openAs(`/new?thing=${BRIDGE}&${WEEK}`);
  // 静力水准仪04 has nothing from the beginning of 01-14 to noon of 01-15: 3/7 to 4.5/7 of the week.
  await draw(visit, 3 / 7, 4.5 / 7);
  await publishButton(visit);
  const query = new URLSearchParams(page.url().split("?")[1]);
  assert.deepEqual([query.get("from"), query.get("to")], ["2019-01-13T16:00:00Z", "2019-01-15T03:59:59.999999Z"]);
  const rows = await page.locator(".strip-row:not(.head) .count").allTextContents();
  assert.deepEqual(rows.map(Number), [72, 72, 72, 0, 72, 72, 72]);
  assert.equal(numberIn((await (await publishButton(visit)).textContent()) ?? ""), rowsOf(page.url(), levels));
  await visit.screenshot("new-gap");
  // The right edge, a day further.
  const handle = await page.getByRole("slider", { name: "End of the range" }).boundingBox();
  const axis = await page.locator(".axis").boundingBox();
  await page.mouse.move(handle.x + handle.width / 2, handle.y + 20);
  await page.mouse.down();
  await page.mouse.move(handle.x + handle.width / 2 + axis.width / 7, handle.y + 20, { steps: 6 });
  await page.mouse.up();
  await page.waitForFunction(() => location.hash.includes("2019-01-16T03%3A59%3A59.999999Z"));
  assert.equal(numberIn((await (await publishButton(visit)).textContent()) ?? ""), rowsOf(page.url(), levels));
  // Escape leaves the range as it was.
  await page.mouse.move(axis.x + 20, axis.y + 60);
  await page.mouse.down();
  await page.mouse.move(axis.x + 200, axis.y + 60, { steps: 4 });
  await page.keyboard.press("Escape");
  await page.mouse.up();
  assert.match(page.url(), /2019-01-16T03%3A59%3A59\.999999Z/);
  // A colleague sees the same.
  const colleague = await Visit.start(shared.browser, shared.url);
  await colleague.openAs(page.url().split("#")[1]);
  const button = await publishButton(colleague);
  assert.equal(await button.textContent(), await (await publishButton(visit)).textContent());
  await colleague.end();
  await visit.end();
});

test("zooming shows smaller buckets, with the keys and the wheel", async () => {
  const visit = await Visit.start(shared.browser, shared.url);
  const { page } = visit;
  await visit.openAs(`/new?thing=${BRIDGE}&${WEEK}`);
  await visit.sees("rows by hour");
  await page.locator("dp-strips dp-virtual-list").focus();
  for (let times = 0; times < 4; times += 1) await page.keyboard.press("+");
  await visit.sees(/rows by \d+ minutes/);
  await visit.screenshot("new-zoomed");
  await page.keyboard.press("-");
  const before = page.url();
  await page.keyboard.press(".");
  await page.waitForFunction((url) => location.href !== url, before);
  const axis = await page.locator(".axis").boundingBox();
  await page.mouse.move(axis.x + 100, axis.y + 60);
  await page.keyboard.down("Control");
  for (let times = 0; times < 12; times += 1) await page.mouse.wheel(0, 100);
  await page.keyboard.up("Control");
  await visit.sees(/rows by (\d+ )?hours?/);
  await visit.end();
});

test("devices are searched, chosen, and pasted", async () => {
  const visit = await Visit.start(shared.browser, shared.url);
  const { page } = visit;
  await visit.openAs(`/new?thing=${TUNNEL}&${WEEK}`);
  // So many are not taken all at once: the list opens by itself.
  const dialog = page.getByRole("dialog");
  await dialog.getByText("0 of 10,000 devices").waitFor();
  await dialog.getByRole("searchbox").fill("0123");
  await dialog.getByText("应变计00123").waitFor();
  await dialog.getByRole("button", { name: "Choose all" }).click();
  await dialog.getByText(/^1\d of 10,000 devices$/).waitFor();
  await visit.screenshot("new-devices");
  await dialog.getByText("Paste a list").click();
  await dialog.getByLabel("Ids or names, one a line").fill(`应变计00007\n${deviceId("应变计00008")}\nnobody`);
  await dialog.getByText("2 found, 1 not known here").waitFor();
  await dialog.getByRole("button", { name: "Take these" }).click();
  await visit.sees("2 of 10,000");
  await draw(visit, 0.001, 0.9);
  assert.equal(numberIn((await (await publishButton(visit)).textContent()) ?? ""), 4);
  await page.getByRole("checkbox", { name: "应变计00007" }).click();
  await page.getByRole("button", { name: "Publish 2 rows to" }).waitFor();
  await visit.end();
});

test("a preview of 10,000 devices is shown as it comes", async () => {
  const visit = await Visit.start(shared.browser, shared.url);
  const { page } = visit;
  await visit.openAs(`/new?thing=${TUNNEL}&${WEEK}`);
  const dialog = page.getByRole("dialog");
  await dialog.getByText("0 of 10,000 devices").waitFor();
  await dialog.getByRole("button", { name: "Choose all" }).click();
  await dialog.getByRole("button", { name: "Take these" }).click();
  await visit.sees("10,000 of 10,000");
  await draw(visit, 0.001, 0.5);
  assert.equal(numberIn((await (await publishButton(visit)).textContent()) ?? ""), 20_000);
  const elements = await page.evaluate(() => document.querySelectorAll("*").length);
  assert.ok(elements < 1000, `${elements} elements`);
  await visit.screenshot("new-large");
  await visit.end();
});

test("what overlaps is named, and left out with a click", async () => {
  const { service } = shared;
  const levels = deviceIds("静力水准仪", 7);
  const earlier = await service.submit({ thingId: BRIDGE, devices: levels.slice(0, 2), topic: "anxinyun_data", from: "2019-01-12 00:00:00", to: "2019-01-12 12:00:00", reason: "day shift" });
  await service.finished(earlier.taskId);
  const visit = await Visit.start(shared.browser, shared.url);
  await visit.openAs(`/new?thing=${BRIDGE}&${WEEK}&topic=anxinyun_data&from=2019-01-11T16:00:00Z&to=2019-01-12T15:59:59Z`);
  await visit.sees(/has 静力水准仪01, 静力水准仪02 of/);
  await visit.screenshot("new-overlap");
  const all = numberIn((await (await publishButton(visit)).textContent()) ?? "");
  await visit.page.getByRole("button", { name: "Leave them out" }).click();
  await visit.sees("5 devices");
  const rest = await publishButton(visit);
  await visit.page.waitForFunction((text) => document.querySelector(".publish")?.textContent !== text, `Publish ${all} rows to anxinyun_data`);
  assert.equal(numberIn((await rest.textContent()) ?? ""), rowsOf(visit.page.url(), levels.slice(2)));
  await visit.end();
});

test("the command that is copied publishes the same", async () => {
  const visit = await Visit.start(shared.browser, shared.url);
  const { page } = visit;
  await visit.openAs(`/new?thing=${BRIDGE}&${WEEK}&from=2019-01-11T16:00:00Z&to=2019-01-12T15:59:59.999999Z&reason=it's the ticket's`);
  const rows = numberIn((await (await publishButton(visit)).textContent()) ?? "");
  await page.getByRole("button", { name: "Copy as command" }).click();
  await visit.sees("The command is copied");
  const command = await page.evaluate(() => navigator.clipboard.readText());
  const env = { ...process.env, DATA_PATCH_URL: shared.service.origin, DATA_PATCH_TOKEN: TOKEN };
  const printed = execFileSync("sh", ["-c", command.replace(/^data-patch/, `"${PROGRAM}"`)], { env, encoding: "utf8" });
  assert.match(printed, new RegExp(`task finished: 7 of 7 devices, ${rows} rows published`));
  assert.match(printed, /reason: it's the ticket's/);
  await visit.end();
});

test("times and topics that are wrong are named, and a viewer cannot publish", async () => {
  const visit = await Visit.start(shared.browser, shared.url);
  const { page } = visit;
  await visit.openAs(`/new?thing=${BRIDGE}&${WEEK}`);
  const [from, to] = [page.getByLabel(/^From/), page.getByLabel("To, included")];
  const values = async () => [await from.inputValue(), await to.inputValue()];
  await visit.type(from, "13.1.2019");
  await visit.type(to, "2019-01-12");
  await page.keyboard.press("Tab");
  await visit.sees("Write times as 2019-01-11 21:03:00");
  // The answer for what is shown arrives later than that, and shows everything anew.
  await page.waitForFunction(() => document.querySelector("dp-strips canvas[aria-label*=rows]"));
  assert.deepEqual(await values(), ["13.1.2019", "2019-01-12"], "what is typed stays");
  await visit.type(from, "2019-01-13");
  await page.keyboard.press("Tab");
  await visit.sees("ends before it begins");
  assert.deepEqual(await values(), ["2019-01-13", "2019-01-12"], "what is typed stays");
  await visit.type(from, "2019-01-11");
  await page.keyboard.press("Tab");
  await publishButton(visit);
  await page.getByLabel("Topic").fill("no topic");
  await page.getByRole("alert").filter({ hasText: /topic.*"no topic"/ }).waitFor();
  assert.equal(await page.getByLabel("Topic").getAttribute("aria-invalid"), "true");
  await visit.screenshot("new-wrong-topic");
  await visit.end();
  const viewer = await Visit.start(shared.browser, shared.url);
  await viewer.openAs(`/new?thing=${BRIDGE}&${WEEK}&from=2019-01-11T16:00:00Z&to=2019-01-12T15:59:59Z`, VIEWER);
  await viewer.sees("your token may not publish");
  assert.equal(await viewer.page.locator("button.publish:visible").count(), 0);
  await viewer.end();
});
