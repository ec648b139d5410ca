// What would be published, in figures, what speaks against it, and the button that does it.

import { call } from "../lib/api.js";
import { draft } from "../lib/draft.js";
import { h, setText, show } from "../lib/dom.js";
import { duration, number, range, recent, shortId, size, toRfc3339 } from "../lib/format.js";
import { t } from "../lib/i18n.js";
import { go, link } from "../lib/router.js";
import { session } from "../lib/session.js";
import { pill, setPill } from "../ui/parts.js";
import { toast, toastError } from "../ui/toast.js";

/** Overlapping tasks that are shown; the rest is counted. */
const MAX_OVERLAPS = 4;

export class PublishBar extends HTMLElement {
  #preview;
  #rows = h("strong", { class: "big" });
  #facts = h("span", { class: "muted" });
  #overlaps = h("div", { class: "overlaps" });
  #copy = h("button", { type: "button", class: "copy", text: t("publish.copy"), onclick: () => this.#copyCommand() });
  #go = h("button", { type: "button", class: "go publish", onclick: () => this.#publish() });
  #isSending = false;

  /** @param {import("../lib/preview-model.js").PreviewModel} preview */
  constructor(preview) {
    super();
    this.#preview = preview;
  }

  connectedCallback() {
    this.append(
      this.#overlaps,
      h("section", { class: "card totals", "aria-label": t("publish.label") },
        h("div", { role: "status" }, this.#rows, " ", this.#facts),
        h("div", { class: "actions" }, this.#copy, this.#go)));
  }

  update() {
    const { summary, isLoading } = this.#preview.chosen;
    const topic = draft.topic || session.service.limits.defaultTopic;
    if (draft.range === null) {
      setText(this.#rows, "");
      setText(this.#facts, t("publish.draw"));
    } else if (draft.devices.length === 0) {
      setText(this.#rows, "");
      setText(this.#facts, t("publish.noDevice"));
    } else if (!summary) {
      setText(this.#rows, "");
      setText(this.#facts, isLoading ? t("publish.counting") : "");
    } else this.#showSummary(summary);
    this.#showOverlaps(summary);
    const rows = summary?.rows ?? 0;
    const isReady = Boolean(summary) && !isLoading && rows > 0;
    const count = `${summary?.isEstimate ? "≈ " : ""}${number(rows)}`;
    setText(this.#go, isReady ? t("publish.go", { n: rows, count, topic }) : t("publish.goPlain", { topic }));
    this.#go.disabled = !isReady || this.#isSending;
    this.#copy.disabled = draft.range === null || draft.devices.length === 0;
    show(this.#go, session.isOperator);
  }

  /** @param {any} summary */
  #showSummary(summary) {
    const rows = t("rows", { n: summary.rows, count: number(summary.rows) });
    setText(this.#rows, summary.isEstimate ? `≈ ${rows}` : rows);
    const facts = [
      size(summary.bytes),
      t("tasks.deviceCount", { n: summary.devices, count: number(summary.devices) }),
      summary.estimatedSeconds !== null && t("publish.about", { time: duration(Math.max(1, summary.estimatedSeconds)) }),
      summary.sampled > 0 && t("publish.sampled", { bad: number(summary.sampleQuarantined), all: number(summary.sampled) }),
      summary.problemDevices > 0 && t("publish.problems", { n: summary.problemDevices, count: number(summary.problemDevices) }),
      !session.isOperator && t("publish.viewer"),
    ].filter(Boolean);
    setText(this.#facts, `· ${facts.join(" · ")}`);
  }

  /** @param {any} summary */
  #showOverlaps(summary) {
    const overlaps = summary?.overlaps ?? [];
    const key = JSON.stringify(overlaps);
    if (this.#overlaps.dataset.key === key) return;
    this.#overlaps.dataset.key = key;
    const more = overlaps.length - MAX_OVERLAPS;
    this.#overlaps.replaceChildren(
      ...overlaps.slice(0, MAX_OVERLAPS).map((overlap) => this.#overlap(overlap)),
      ...(more > 0 ? [h("p", { class: "muted", text: t("overlap.more", { n: more, count: number(more) }) })] : []));
  }

  /** @param {any} overlap */
  #overlap(overlap) {
    const state = pill();
    setPill(state, overlap.state);
    const names = new Map(draft.all.map(({ deviceId, name }) => [deviceId, name]));
    const named = overlap.devices.slice(0, 3).map((id) => names.get(id) ?? shortId(id)).join(t("comma"));
    const devices = overlap.deviceCount > 3 ? t("overlap.andMore", { named, count: number(overlap.deviceCount - 3) }) : named;
    const isAllNamed = overlap.deviceCount === overlap.devices.length;
    return h("div", { class: "banner warn" },
      h("span", {},
        h("a", { href: link(["tasks", overlap.taskId]), text: t("overlap.task", { id: shortId(overlap.taskId) }) }), " ", state, " ",
        t("overlap.text", { devices, range: range(overlap.from, overlap.to), topic: overlap.topic, time: recent(overlap.createdAt) }),
        overlap.reason ? ` “${overlap.reason}”` : ""),
      isAllNamed && h("button", { type: "button", text: t("overlap.leaveOut"), onclick: () => this.#leaveOut(overlap.devices) }));
  }

  /** @param {string[]} devices */
  #leaveOut(devices) {
    for (const device of devices) draft.left.add(device);
    draft.changed("devices");
  }

  #request() {
    const { range, thing, topic, rate, reason, devices } = draft;
    return {
      src: "iota",
      thingId: thing?.thingId,
      devices,
      from: toRfc3339(range?.from ?? 0),
      to: toRfc3339(range?.to ?? 0),
      ...(topic ? { topic } : {}),
      ...(rate ? { rate: Number(rate) } : {}),
      ...(reason ? { reason } : {}),
    };
  }

  async #publish() {
    this.#isSending = true;
    this.update();
    try {
      const headers = { "idempotency-key": draft.requestId };
      const task = await call("POST", "/tasks", { body: this.#request(), headers, repeat: true });
      draft.reset();
      go(["tasks", task.taskId]);
    } catch (error) {
      toastError(error);
    } finally {
      this.#isSending = false;
      this.update();
    }
  }

  async #copyCommand() {
    const { thingId, devices, from, to, topic, rate, reason } = this.#request();
    const quoted = (text) => `'${String(text).replaceAll("'", "'\\''")}'`;
    const command = ["data-patch submit", thingId, ...devices, "--from", from, "--to", to,
      ...(topic ? ["--topic", topic] : []), ...(rate ? ["--rate", rate] : []), ...(reason ? ["--reason", quoted(reason)] : [])].join(" ");
    try {
      await navigator.clipboard.writeText(command);
      toast(t("publish.copied"));
    } catch {
      // The clipboard is open to pages over HTTPS only.
      toast(command);
    }
  }
}

customElements.define("dp-publish-bar", PublishBar);
