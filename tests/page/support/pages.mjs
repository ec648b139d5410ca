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
