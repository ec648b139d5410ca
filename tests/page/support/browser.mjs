// Chromium, and what the tests look at in it.

import { mkdirSync, readFileSync } from "node:fs";
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
  /** @param {any} [options] of the context: language, colours, size of the window */
  static async start(options = {}) {
    const browser = new Browser();
    // Each start makes a profile of its own, and removes it at the end.
    browser.process = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", headless: true, args: FLAGS });
    browser.context = await browser.newContext(options);
    return browser;
  }

  /**
   * Runs something in a browser of its own.
   * @param {(browser: Browser) => Promise<void>} body
   */
  static async with(body) {
    const browser = await Browser.start();
    try {
      await body(browser);
    } finally {
      await browser.stop();
    }
  }

  /** What somebody else would see, with storage of their own. @param {any} [options] */
  newContext(options = {}) {
    return this.process.newContext({
      viewport: { width: 1280, height: 860 },
      locale: "en-GB",
      colorScheme: "light",
      timezoneId: "Asia/Shanghai",
      permissions: ["clipboard-read", "clipboard-write"],
      ...options,
    });
  }

  /** The memory of the processes that draw pages, in MiB: shared parts are counted in proportion. */
  async rendererMemory() {
    const session = await this.process.newBrowserCDPSession();
    const { processInfo } = await session.send("SystemInfo.getProcessInfo");
    await session.detach();
    const sizes = processInfo.filter(({ type }) => type === "renderer").map(({ id }) => {
      const rollup = readFileSync(`/proc/${id}/smaps_rollup`, "utf8");
      return Number(/^Pss:\s+(\d+)/m.exec(rollup)?.[1]) / 1024;
    });
    return Math.max(...sizes);
  }

  stop() {
    return this.process.close();
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
