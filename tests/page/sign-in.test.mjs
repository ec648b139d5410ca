// The token: asked for once, kept for the tab, and asked for again when it is refused.

import assert from "node:assert/strict";
import { test } from "node:test";

import { Visit } from "./support/pages.mjs";
import { NIGHT, TOKEN, VIEWER } from "./support/service.mjs";
import { shared } from "./support/shared.mjs";

test("a wrong token is refused, the right one is asked for once", async () => {
  const visit = await Visit.start(shared.browser, shared.url);
  const { page } = visit;
  await visit.open("/tasks?state=failed");
  await visit.sees("Enter the token of the service");
  await visit.screenshot("sign-in");
  await page.fill("input[type=password]", "wrong");
  await page.keyboard.press("Enter");
  await visit.sees("This token is wrong");
  await visit.screenshot("wrong-token");
  await visit.signIn();
  await visit.sees("default (operator)");
  assert.match(page.url(), /#\/tasks\?state=failed$/, "the view is kept");
  assert.ok(!page.url().includes(TOKEN));
  await page.reload();
  await visit.sees("default (operator)");
  const stores = await page.evaluate(() => [JSON.stringify({ ...localStorage }), document.cookie, JSON.stringify({ ...sessionStorage })]);
  assert.ok(!stores[0].includes(TOKEN) && !stores[1].includes(TOKEN) && stores[2].includes(TOKEN), "for this tab only");
  await visit.end();
  const other = await Visit.start(shared.browser, shared.url);
  await other.open();
  await other.sees("Enter the token of the service");
  await other.end();
});

test("a token that is removed is asked for again, and the view is kept", async () => {
  const visit = await Visit.start(shared.browser, shared.url);
  await visit.openAs("/tasks?q=nothing-has-this", NIGHT);
  await visit.sees("No task matches");
  shared.service.setTokens({ viewer: VIEWER });
  await visit.sees("does not accept your token any more");
  await visit.screenshot("token-removed");
  assert.equal(await visit.page.inputValue("input[type=search]"), "nothing-has-this");
  await visit.signIn();
  await visit.sees("default (operator)");
  await visit.sees("No task matches");
  assert.match(visit.page.url(), /q=nothing-has-this/);
  shared.service.setTokens({ viewer: VIEWER, night: NIGHT });
  await visit.end();
});

test("signing out forgets the token", async () => {
  const visit = await Visit.start(shared.browser, shared.url);
  await visit.openAs("/tasks", VIEWER);
  await visit.sees("dashboard (viewer)");
  await visit.page.getByRole("button", { name: "Sign out" }).click();
  await visit.sees("You have signed out");
  assert.equal(await visit.page.evaluate(() => sessionStorage.length), 0);
  await visit.end();
});

test("the policy forbids what is not the page's own, and each visit notices", async () => {
  const visit = await Visit.start(shared.browser, shared.url);
  await visit.open();
  await visit.sees("Enter the token of the service");
  const ran = await visit.page.evaluate(async () => {
    const script = document.createElement("script");
    script.textContent = "window.injected = true";
    document.head.append(script);
    await fetch("http://127.0.0.1:9/").catch(() => {});
    return /** @type {any} */ (window).injected ?? false;
  });
  assert.equal(ran, false);
  for (const what of ["inline script", "127.0.0.1:9"]) {
    assert.ok(visit.found.some((text) => text.includes("Content Security Policy") && text.includes(what)), `${what}: ${visit.found}`);
  }
  visit.found.length = 0;
  await visit.end();
});
