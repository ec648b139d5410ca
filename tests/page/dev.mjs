// Serves the page from assets/page, as it is on the disk now, and everything else from a service: for
// work on the page without building the program each time.
//
//   node tests/page/dev.mjs http://127.0.0.1:18010 [PORT]

import { readdirSync, readFileSync } from "node:fs";
import { createServer, request } from "node:http";
import { dirname, extname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";

const ASSETS = join(dirname(fileURLToPath(import.meta.url)), "../../assets/page");
const TYPES = { ".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml" };
const SECURITY = {
  "content-security-policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  "x-content-type-options": "nosniff",
};

/** @param {string} folder @returns {string[]} */
function modules(folder) {
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) return modules(path);
    return /(?<!boot|main)\.js$/.test(entry.name) ? [relative(ASSETS, path)] : [];
  });
}

function index() {
  const links = modules(ASSETS).map((name) => `<link rel="modulepreload" href="assets/dev/${name}">`).join("\n");
  const text = readFileSync(join(ASSETS, "index.html"), "utf8");
  return text.replaceAll("{{preload}}", links).replaceAll("{{build}}", "dev").replaceAll("{{version}}", "dev");
}

/** @param {string} service @param {number} port */
export function serve(service, port = 0) {
  const server = createServer((incoming, answer) => {
    const path = new URL(incoming.url ?? "/", "http://x").pathname;
    const send = (type, body) => answer.writeHead(200, { "content-type": type, "cache-control": "no-store", ...SECURITY }).end(body);
    try {
      if (path === "/data-patch/") return send(TYPES[".html"], index());
      const asset = /^\/data-patch\/assets\/dev\/([\w/.-]+)$/.exec(path)?.[1];
      if (asset && !asset.includes("..")) return send(TYPES[extname(asset)] ?? "text/plain", readFileSync(join(ASSETS, asset)));
    } catch (error) {
      return answer.writeHead(404).end(String(error));
    }
    const outgoing = request(service + incoming.url, { method: incoming.method, headers: incoming.headers }, (response) => {
      answer.writeHead(response.statusCode ?? 502, response.headers);
      response.pipe(answer);
      response.on("error", () => answer.destroy());
    });
    outgoing.on("error", () => answer.destroy());
    answer.on("close", () => outgoing.destroy());
    incoming.pipe(outgoing);
  });
  return new Promise((resolve) => server.listen(port, "127.0.0.1", () => resolve(server)));
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const server = await serve(process.argv[2] ?? "http://127.0.0.1:18010", Number(process.argv[3] ?? 18080));
  console.log(`http://127.0.0.1:${server.address().port}/data-patch/`);
}
