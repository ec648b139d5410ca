// All tests of the page, one after the other, on one service and one browser.
//
//   node tests/page/run.mjs [WORD …]     only the files whose names contain one of the words

import { readdirSync } from "node:fs";
import { dirname } from "node:path";
import { fileURLToPath } from "node:url";

const words = process.argv.slice(2);
const files = readdirSync(dirname(fileURLToPath(import.meta.url))).filter((name) => name.endsWith(".test.mjs")).sort();
for (const file of files) {
  if (words.length === 0 || words.some((word) => file.includes(word))) await import(`./${file}`);
}
