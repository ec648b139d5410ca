// How it looks, and whether everybody can use it: both languages, both themes, a phone, and axe-core.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { test } from "node:test";

import { Visit } from "./support/pages.mjs";
import { BRIDGE, DAM, deviceIds } from "./support/service.mjs";
import { shared } from "./support/shared.mjs";

const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const PHONE = { viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true };
/** Some days with rows, of which one is chosen. */
const RANGE = "since=2019-01-11T00:00:00%2B08:00&until=2019-01-18T00:00:00%2B08:00&from=2019-01-11T16:00:00Z&to=2019-01-12T15:59:59Z";
const RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"];

/** A task of each kind, for the pictures. @type {Promise<{ failed: string, done: string }> | null} */
let made = null;

function tasks() {
  const make = async (request) => {
    const { taskId } = await shared.service.submit(request);
    await shared.service.finished(taskId);
    return taskId;
  };
  const piezometers = [...deviceIds("渗压计", 11), "00000000-0000-4000-8000-000000000001"];
  made ??= (async () => ({
    failed: await make({ thingId: DAM, devices: piezometers, reason: "公式有误，重算" }),
    done: await make({ thingId: BRIDGE, devices: deviceIds("静力水准仪", 7), reason: "ET was down, ticket 4711" }),
  }))();
  return made;
}

/** @param {any} options @param {(visit: Visit) => Promise<void>} body */
async function as(options, body) {
  const context = await shared.browser.newContext(options);
  const visit = await Visit.start({ context }, shared.url);
  try {
    await body(visit);
    await visit.end();
  } finally {
    await context.close();
  }
}

/** The texts of a module of the page. @param {string} name */
function texts(name) {
  const text = readFileSync(new URL(`../../assets/page/text/${name}.js`, import.meta.url), "utf8");
  return import(`data:text/javascript,${encodeURIComponent(text)}`);
}

/** Nothing that axe-core finds may be serious. @param {Visit} visit @param {string} where */
async function isAccessible(visit, where) {
  // By the debugger, which the page's own policy does not concern.
  await visit.page.evaluate(AXE);
  const { violations } = await visit.page.evaluate((values) => /** @type {any} */ (window).axe.run(document, { runOnly: { type: "tag", values } }), RULES);
  const found = violations.map(({ id, impact, nodes }) => `${impact} ${id}: ${nodes.map(({ html }) => html.slice(0, 160)).join(" | ")}`);
  assert.deepEqual(found, [], where);
}

/** Nothing may be wider than the screen. @param {Visit} visit @param {string} where */
async function fits(visit, where) {
  const [content, screen] = await visit.page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
  assert.ok(content <= screen, `${where}: ${content} of ${screen} pixels`);
}

/** A finger that moves from one place to another. @param {Visit} visit @param {number[]} from @param {number[]} to */
async function swipe(visit, from, to) {
  const session = await visit.page.context().newCDPSession(visit.page);
  const touch = (type, [x, y]) => session.send("Input.dispatchTouchEvent", { type, touchPoints: type === "touchEnd" ? [] : [{ x, y }] });
  await touch("touchStart", from);
  for (let step = 1; step <= 8; step += 1) await touch("touchMove", from.map((at, axis) => at + ((to[axis] - at) * step) / 8));
  await touch("touchEnd", to);
}

/** A new patch, with a range that is drawn by a finger on a phone. @param {Visit} visit @param {string} name */
async function newPatch(visit, name, isPhone = false) {
  const { page } = visit;
  const range = isPhone ? "" : "&from=2019-01-13T16:00:00Z&to=2019-01-15T03:59:59.999999Z";
  await visit.open(`/new?thing=${BRIDGE}&since=2019-01-11T00:00:00%2B08:00&until=2019-01-18T00:00:00%2B08:00${range}`);
  await page.reload();
  await page.locator("dp-strips:not([data-loading]) .unit").filter({ hasText: /rows by|行数/ }).waitFor();
  if (isPhone) {
    await page.locator(".frame").scrollIntoViewIfNeeded();
    const box = await page.locator(".frame").boundingBox();
    const y = box.y + 40;
    await swipe(visit, [box.x + box.width * 0.6, y], [box.x + box.width * 0.85, y + 3]);
  }
  await page.locator("button.publish:enabled").waitFor();
  await visit.screenshot(`${name}-new`);
  await isAccessible(visit, `${name}: new`);
  if (isPhone) await fits(visit, `${name}: new`);
  await page.locator(".select").click();
  await page.locator(".choice").first().waitFor();
  await visit.screenshot(`${name}-devices`);
  await isAccessible(visit, `${name}: devices`);
  await page.keyboard.press("Escape");
}

/** Every view. @param {Visit} visit @param {string} name */
async function everyView(visit, name, isPhone = false) {
  const { page } = visit;
  const { failed } = await tasks();
  await visit.open("/tasks");
  await page.waitForSelector("dialog.sign-in[open]");
  await isAccessible(visit, `${name}: sign-in`);
  await visit.signIn();
  await page.waitForSelector(".task-row[data-task]");
  await visit.screenshot(`${name}-tasks`);
  await isAccessible(visit, `${name}: tasks`);
  if (isPhone) await fits(visit, `${name}: tasks`);
  // Where there is room the log is beside the others, and has no tab.
  for (const part of ["devices", ...(isPhone ? ["log"] : []), "quarantine", "receipt"]) {
    await visit.open(`/tasks/${failed}?tab=${part}`);
    await page.reload();
    await page.waitForSelector(`.tab-${part}[aria-selected=true]`);
    if (part === "log") await page.waitForSelector(".entry[data-level=error]");
    if (part === "quarantine") await page.waitForSelector(".quarantine-row[data-index]");
    if (part === "receipt") await page.waitForSelector(".receipt-row[data-index]");
    if (part === "devices") await page.waitForSelector(".device-row[data-index]");
    await visit.screenshot(`${name}-task-${part}`);
    await isAccessible(visit, `${name}: ${part}`);
    if (isPhone) await fits(visit, `${name}: ${part}`);
  }
  await newPatch(visit, name, isPhone);
}

test("English and light", () => as({}, (visit) => everyView(visit, "en-light")));

test("Chinese and dark", () => as({ locale: "zh-CN", colorScheme: "dark" }, async (visit) => {
  await everyView(visit, "zh-dark");
  const texts = await visit.page.evaluate(() => document.body.innerText);
  assert.doesNotMatch(texts, /\b(Tasks|Devices|Receipt|Sign out|connected)\b/, "a text is not translated");
}));

test("a phone", () => as(PHONE, (visit) => everyView(visit, "phone", true)));

test("language and colours are chosen, and kept", () => as({}, async (visit) => {
  const { page } = visit;
  await visit.openAs(`/tasks/${(await tasks()).failed}`);
  await visit.sees(/\d rows? quarantined/);
  await page.getByRole("button", { name: /^中文/ }).click();
  await visit.sees(/\d 行被隔离/);
  assert.equal(await page.getAttribute("html", "lang"), "zh-CN");
  await page.getByRole("button", { name: "配色：跟随系统" }).click();
  await page.getByRole("button", { name: "配色：浅色" }).click();
  assert.equal(await page.getAttribute("html", "data-theme"), "dark");
  await page.reload();
  await visit.sees(/\d 行被隔离/);
  assert.equal(await page.getAttribute("html", "data-theme"), "dark");
  const back = await page.evaluate(() => getComputedStyle(document.documentElement).backgroundColor);
  assert.match(back, /^rgb\(1?\d, /, "a dark colour");
}));

test("the colours are the system's until others are chosen", () => as({ colorScheme: "dark" }, async (visit) => {
  const { page } = visit;
  await visit.openAs(`/new?thing=${BRIDGE}&${RANGE}`);
  // `--strip-chosen` of both themes.
  const [dark, light] = ["4fc9bb", "2f7f77"];
  const isDrawnIn = (colour) => page.waitForFunction((wanted) => {
    const canvas = document.querySelector("dp-strips canvas");
    if (!canvas?.width) return false;
    // A copy: the browser complains of a canvas that is read again and again.
    const copy = Object.assign(document.createElement("canvas"), { width: canvas.width, height: canvas.height });
    const context = copy.getContext("2d", { willReadFrequently: true });
    context.drawImage(canvas, 0, 0);
    const { data } = context.getImageData(0, 0, copy.width, copy.height);
    const hex = (at) => [...data.slice(at, at + 3)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
    for (let at = 0; at < data.length; at += 4) if (data[at + 3] === 255 && hex(at) === wanted) return true;
    return false;
  }, colour);
  await isDrawnIn(dark);
  await page.emulateMedia({ colorScheme: "light" });
  await isDrawnIn(light);
  assert.equal(await page.evaluate(() => getComputedStyle(document.body).colorScheme), "light");
  // Auto, light, dark: the system's no longer count.
  await page.getByRole("button", { name: "Colours: as the system" }).click();
  await page.getByRole("button", { name: "Colours: light" }).click();
  await isDrawnIn(dark);
  await page.emulateMedia({ colorScheme: "dark" });
  await page.getByRole("button", { name: "Colours: dark" }).click();
  await page.emulateMedia({ colorScheme: "light" });
  await isDrawnIn(light);
  await page.emulateMedia({ colorScheme: "dark", media: "print" });
  const back = await page.evaluate(() => getComputedStyle(document.documentElement).backgroundColor);
  assert.equal(back, "rgb(245, 247, 248)", "paper is light");
}));

test("an error is said in Chinese, and beneath it in the service's words", () => as({ locale: "zh-CN" }, async (visit) => {
  await visit.openAs(`/new?thing=${BRIDGE}&${RANGE}&topic=no%20topic`);
  const alert = visit.page.getByRole("alert").filter({ hasText: "字段有误" });
  await alert.waitFor();
  assert.equal(await alert.evaluate((element) => element.firstChild?.textContent), "Topic：字段有误");
  const detail = alert.locator("small[lang=en]");
  assert.match((await detail.textContent()) ?? "", /topic.*"no topic"/);
  const [whole, beneath] = [await alert.boundingBox(), await detail.boundingBox()];
  assert.ok(whole && beneath && beneath.y > whole.y + 10, "a line of its own");
  await visit.screenshot("zh-error");
}));

test("each code of an error is known in Chinese", async () => {
  const { zhErrors } = await texts("zh-errors");
  const codes = readFileSync(new URL("../../docs/api.md", import.meta.url), "utf8").match(/^\| \d{3} \| .*$/gm) ?? [];
  const named = codes.flatMap((line) => [...line.matchAll(/`([a-z_]+)`/g)].map(([, code]) => code));
  assert.ok(named.length > 15, `${named}`);
  assert.deepEqual(named.filter((code) => !(code in zhErrors)), []);
});

test("each text is there in both languages", async () => {
  const [{ en }, { zh }] = [await texts("en"), await texts("zh")];
  assert.deepEqual(Object.keys(zh).sort(), Object.keys(en).sort());
});
