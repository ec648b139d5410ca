// Chromium, and what the tests look at in it.

import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

import { chromium } from "playwright-core";

const ROOT = join(dirname(fileURLToPath(import.meta.url)), "../../..");
export const SCREENSHOTS = join(ROOT, "target/page");
mkdirSync(SCREENSHOTS, { recursive: true });

const FLAGS = [
  "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--enable-precise-memory-info",
];

export class Browser {
  /** @param {any} [options] of the context */
  static async start(options = {}) {
    const browser = new Browser();
    browser.profile = mkdtempSync(join(tmpdir(), "data-patch-browser-"));
    browser.context = await chromium.launchPersistentContext(browser.profile, {
      executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
      headless: true,
      args: FLAGS,
      viewport: { width: 1280, height: 860 },
      locale: "en-GB",
      colorScheme: "light",
      timezoneId: "Asia/Shanghai",
      ...options,
    });
    return browser;
  }

  async stop() {
    await this.context.close();
    rmSync(this.profile, { recursive: true, force: true });
  }
}

/**
 * What a page must never do: log an error, throw, or ask for what the policy forbids. Failed requests
 * are logged by the browser itself and belong to the tests of outages.
 * @param {import("playwright-core").Page} page
 */
export function complaints(page) {
  /** @type {string[]} */
  const found = [];
  page.on("pageerror", (error) => found.push(`thrown: ${error.stack ?? error}`));
  page.on("console", (message) => {
    const text = message.text();
    const isNetwork = text.startsWith("Failed to load resource");
    if (["error", "warning"].includes(message.type()) && !isNetwork) found.push(`${message.type()}: ${text}`);
  });
  return found;
}
