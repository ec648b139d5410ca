// One service and one browser for all tests: to start them takes longer than most tests.

import { after, before } from "node:test";

import { serve } from "../dev.mjs";
import { Browser } from "./browser.mjs";
import { Service } from "./service.mjs";

/** The devices of the large thing. */
export const MANY = 10_000;

/** @type {{ service: Service, browser: Browser, url: string }} */
export const shared = /** @type {any} */ ({});

/** @type {any} */
let dev = null;

before(async () => {
  shared.service = await Service.start({ many: MANY });
  shared.browser = await Browser.start();
  // For work on the page: its files as they are on the disk, and not as they are in the program.
  if (process.env.PAGE_FROM_DISK) dev = await serve(shared.service.origin);
  shared.url = `${dev ? `http://127.0.0.1:${dev.address().port}` : shared.service.origin}/data-patch/`;
});

after(async () => {
  await shared.browser?.stop();
  dev?.closeAllConnections();
  dev?.close();
  await shared.service?.stop();
});
