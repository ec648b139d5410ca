// The service under test: the real program, on an SQLite source and its embedded broker. Everything is
// in a folder of its own that is thrown away.

import { execFileSync, spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { appendFileSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";

const HERE = dirname(fileURLToPath(import.meta.url));
const ROOT = join(HERE, "../../..");
export const PROGRAM = process.env.DATA_PATCH ?? join(ROOT, "target/debug/data-patch");

export const TOKEN = "123456";
export const VIEWER = "viewer-token-for-tests";
export const NIGHT = "night-duty-token-for-tests";
export const TOPIC = "savoir_data";

/** @param {number} [wanted] */
export function freePort(wanted = 0) {
  return new Promise((resolve, reject) => {
    const server = createServer().on("error", reject);
    server.listen(wanted, "127.0.0.1", () => {
      const { port } = /** @type {any} */ (server.address());
      server.close(() => resolve(port));
    });
  });
}

export class Service {
  /** @param {{ many?: number, environment?: Record<string, string> }} [options] */
  static async start({ many = 50, environment = {} } = {}) {
    const service = new Service();
    service.folder = mkdtempSync(join(tmpdir(), "data-patch-page-"));
    service.environment = environment;
    execFileSync("python3", [join(HERE, "store.py"), join(service.folder, "iota.db"), String(many)]);
    service.setTokens({ viewer: VIEWER, night: NIGHT });
    service.port = await freePort();
    await service.run();
    return service;
  }

  /** @param {{ viewer?: string, night?: string }} tokens */
  setTokens({ viewer, night }) {
    const entry = (name, role, token) =>
      `[[token]]\nname = "${name}"\nrole = "${role}"\nsha256 = "${createHash("sha256").update(token).digest("hex")}"\n`;
    const text = (viewer ? entry("dashboard", "viewer", viewer) : "") + (night ? entry("night-duty", "operator", night) : "");
    writeFileSync(join(this.folder, "tokens.toml"), text || "# none\n");
  }

  get origin() {
    return `http://127.0.0.1:${this.port}`;
  }

  /** Starts the process, and waits until it listens. */
  async run() {
    const clean = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("DATA_PATCH")));
    this.process = spawn(PROGRAM, ["serve"], {
      cwd: this.folder,
      env: {
        ...clean,
        DATA_PATCH_TOKEN: TOKEN,
        DATA_PATCH_SERVER_LISTEN: `127.0.0.1:${this.port}`,
        DATA_PATCH_SERVER_TOKENS_FILE: join(this.folder, "tokens.toml"),
        DATA_PATCH_QUEUE_URL: `sqlite://${join(this.folder, "queue.db")}`,
        DATA_PATCH_IOTA_URL: `sqlite://${join(this.folder, "iota.db")}`,
        DATA_PATCH_IOTA_THING_TABLE: "Thing",
        DATA_PATCH_KAFKA_BROKERS: "embedded",
        DATA_PATCH_KAFKA_DEFAULT_TOPIC: TOPIC,
        DATA_PATCH_KAFKA_LOOKUP_TIMEOUT_SECONDS: "1",
        DATA_PATCH_WORKER_PROGRESS_LOG_INTERVAL_MS: "200",
        DATA_PATCH_LOG_LEVEL: "warn",
        ...this.environment,
      },
      stdio: ["ignore", "ignore", "pipe"],
    });
    this.process.stderr.on("data", (data) => appendFileSync(join(this.folder, "service.log"), data));
    for (let tries = 0; tries < 600; tries += 1) {
      if (this.process.exitCode !== null) throw new Error(`the service has ended, see ${this.folder}/service.log`);
      if (await fetch(`${this.origin}/healthz`).then((answer) => answer.ok, () => false)) return;
      await sleep(50);
    }
    throw new Error("the service does not answer");
  }

  /** @param {NodeJS.Signals} [signal] */
  async kill(signal = "SIGKILL") {
    const ended = new Promise((resolve) => this.process.once("exit", resolve));
    this.process.kill(signal);
    await ended;
  }

  async stop() {
    if (this.process.exitCode === null && this.process.signalCode === null) await this.kill("SIGTERM");
    rmSync(this.folder, { recursive: true, force: true });
  }

  /**
   * Calls the HTTP API.
   * @param {string} method @param {string} path @param {any} [body] @param {string} [token]
   */
  async call(method, path, body, token = TOKEN) {
    const answer = await fetch(`${this.origin}/data-patch/api/v1${path}`, {
      method,
      headers: { authorization: `Bearer ${token}`, "content-type": "application/json" },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
    if (!answer.ok) throw new Error(`${method} ${path}: ${answer.status} ${await answer.text()}`);
    return answer.json();
  }

  /** Submits a task. @param {any} request */
  submit(request) {
    return this.call("POST", "/tasks", { src: "iota", topic: TOPIC, from: "2019-01-11 00:00:00", to: "2019-01-22 00:00:00", ...request });
  }

  /** Waits until a task is finished. @param {string} task */
  async finished(task) {
    for (let tries = 0; tries < 1200; tries += 1) {
      const view = await this.call("GET", `/tasks/${task}`);
      if (view.finishedAt) return view;
      await sleep(50);
    }
    throw new Error(`task ${task} does not end`);
  }
}

export const BRIDGE = "9d9d14b3-cf77-4cba-934b-faeaf2d153ba";
export const DAM = "7dea63f9-d15f-4ef2-8d70-d8e256d637a0";
export const TUNNEL = "3f1c2a44-5b1e-4f0e-9d0a-6f0c4a1b2c3d";

/** The ids that store.py gives: UUIDs of version 5. @param {string} name */
export function deviceId(name) {
  const oid = Buffer.from("6ba7b8129dad11d180b400c04fd430c8", "hex");
  const hash = createHash("sha1").update(oid).update(name).digest().subarray(0, 16);
  hash[6] = (hash[6] & 0x0f) | 0x50;
  hash[8] = (hash[8] & 0x3f) | 0x80;
  return hash.toString("hex").replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}

/** @param {string} prefix @param {number} count @param {number} [digits] */
export function deviceIds(prefix, count, digits = 2) {
  return Array.from({ length: count }, (_, n) => deviceId(`${prefix}${String(n + 1).padStart(digits, "0")}`));
}
