// What people do on the page, and what they see.

import assert from "node:assert/strict";
import { join } from "node:path";

import { complaints, SCREENSHOTS } from "./browser.mjs";
import { TOKEN } from "./service.mjs";

/** How long anything on the page may take, on a slow machine, in milliseconds. */
const PATIENCE = 20_000;

export class Visit {
  /**
   * Opens a page of its own.
   * @param {{ context: any }} browser @param {string} url with the path of the page
   */
  static async start({ context }, url) {
    const visit = new Visit();
    visit.url = url;
    visit.page = await context.newPage();
    visit.page.setDefaultTimeout(PATIENCE);
    visit.found = complaints(visit.page);
    return visit;
  }

  /** @param {string} [address] what follows `#` */
  async open(address = "") {
    await this.page.goto(`${this.url}${address ? `#${address}` : ""}`);
  }

  /** Opens a view as somebody who is signed in. @param {string} address @param {string} [token] */
  async openAs(address, token = TOKEN) {
    await this.open(address);
    await this.signIn(token);
  }

  /** @param {string} [token] */
  async signIn(token = TOKEN) {
    await this.page.fill("input[type=password]", token);
    await this.page.keyboard.press("Enter");
    await this.page.waitForSelector("dialog.sign-in", { state: "hidden" });
  }

  /** Waits for a text. @param {string | RegExp} text */
  async sees(text) {
    try {
      await this.page.getByText(text).filter({ visible: true }).first().waitFor();
    } catch (error) {
      await this.page.screenshot({ path: join(SCREENSHOTS, "not-seen.png") });
      throw error;
    }
  }

  /**
   * Types into a field. A text goes to whatever has the focus when it arrives at the browser, so one
   * that has not arrived in the field is typed again. Whether it stays there is for the test to see.
   * @param {import("playwright-core").Locator} field @param {string} text
   */
  async type(field, text) {
    for (let attempt = 1; attempt <= 3; attempt += 1) {
      await field.fill(text);
      if ((await field.inputValue()) === text) return;
      console.log(`"${text}" did not arrive, the focus is on ${await this.page.evaluate(() => document.activeElement?.outerHTML.slice(0, 120))}`);
    }
    throw new Error(`"${text}" does not arrive in its field`);
  }

  /** @param {string} name */
  async screenshot(name) {
    // What is on the screen must have settled: fonts, and bars that grow.
    await this.page.waitForTimeout(400);
    await this.page.screenshot({ path: join(SCREENSHOTS, `${name}.png`) });
  }

  /** Ends the visit. Nothing may have been complained of. */
  async end() {
    await this.page.close();
    assert.deepEqual(this.found, []);
  }
}

/** The number in a text. @param {string} text */
export function numberIn(text) {
  return Number(/[\d,]+/.exec(text)?.[0].replaceAll(",", "") ?? NaN);
}
