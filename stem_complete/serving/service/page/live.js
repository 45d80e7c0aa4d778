// Live scans: which there are, and the one that is looked at, as it comes.

import { events, get } from "./api.js";
import { coverageText } from "./values.js";

const NPZ = "application/x-npz";
const LOOK_MS = 2000;
const MOST_PAUSE_MS = 30_000;

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

export class Live {
  /** @param parts list and none, elements; begin(), show(bytes, source), say(text), fail(error). */
  constructor(parts) {
    Object.assign(this, parts);  // of which `begin` stops it
    this.watched = null;  // id
    this.watching = null;  // AbortController
    setInterval(() => {
      // What fails here is told when it is asked for.
      if (document.visibilityState === "visible") this.look().catch(() => {});
    }, LOOK_MS);
  }

  /** Lists what there is. */
  async look() {
    const scans = await (await get("v1/scans")).json();
    this.none.hidden = scans.length > 0;
    const told = JSON.stringify([scans, this.watched]);
    if (told === this.told) return;
    this.told = told;
    const focused = document.activeElement?.dataset?.scan;
    this.list.replaceChildren(...scans.map((scan) => this.#item(scan)));
    this.list.querySelector(`[data-scan="${focused}"]`)?.focus();
  }

  #item(scan) {
    const [item, button, state] = ["li", "button", "span"].map((tag) => document.createElement(tag));
    const missing = scan.missing.length ? `, ${scan.missing.length} missing` : "";
    state.textContent = `${scan.shape.join(" × ")} px, ${scan.chunks} chunks${missing}${scan.finished ? ", finished" : ", scanning"}`;
    Object.assign(button, { type: "button", onclick: () => this.watch(scan) });
    button.dataset.scan = scan.id;
    button.append(scan.title || `Scan ${scan.id.slice(0, 6)}`, state);
    if (scan.id === this.watched) button.setAttribute("aria-current", "true");
    item.append(button);
    return item;
  }

  /** Looks at none any more. */
  stop() {
    this.watching?.abort();
    this.watched = this.watching = null;
    this.look().catch(() => {});
  }

  /** Shows a scan as it comes, and once more with a self-check when it is finished. */
  async watch(scan) {
    this.begin();
    this.watched = scan.id;
    const own = this.watching = new AbortController();
    const name = scan.title || `live-${scan.id.slice(0, 6)}`;
    this.say(`Watching ${name}`);
    this.look().catch(() => {});
    for (let waitMs = 1000; !own.signal.aborted; waitMs = Math.min(2 * waitMs, MOST_PAUSE_MS)) {
      try {
        for await (const [event, told] of events(`v1/scans/${scan.id}/events`, own.signal)) {
          waitMs = 1000;
          if (event === "removed") return this.say(`${name} was removed`);
          if (event === "waiting") this.say(`${name}: too little was measured yet`);
          if (event === "preview") {
            await this.#fetch(scan, name, false, own.signal);
            this.say(`${name}: ${told.version} chunks, coverage ${coverageText(told.coverage)}`);
          }
          if (event === "finished") {
            this.say(`${name} is finished, checking`);
            await this.#fetch(scan, name, true, own.signal);
            return this.say(`${name} is finished`);
          }
        }
      } catch (error) {
        if (own.signal.aborted) return undefined;
        if (error.status !== undefined && error.status < 500) return this.fail(error, () => this.watch(scan));
      }
      // The connection broke, or the service is started anew.
      this.say(`${name}: asking again`);
      await pause(waitMs);
    }
    return undefined;
  }

  async #fetch(scan, name, selfCheck, signal) {
    const ask = async (accept, shows, asked) => {
      const query = new URLSearchParams({ self_check: selfCheck, ...(shows && { show: shows }) });
      return (await get(`v1/scans/${scan.id}/preview?${query}`, accept, asked)).arrayBuffer();
    };
    const bytes = await ask(NPZ, null, signal);
    if (!signal.aborted) this.show(bytes, { name, ask });
  }
}
