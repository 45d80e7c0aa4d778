// Jobs of many scans: sent, watched, and their results, each as it comes.

import { Problem, ask, get, isScan, send, typed } from "./api.js";
import { save } from "./result.js";
import { jobText } from "./words.js";

const NPZ = "application/x-npz", ZIP = "application/zip";
const KEPT = "stem-complete-jobs";
const DWELL = /[-_. ]*(dwell|mask)s?([-_. ]*maps?)?/i;
const LOOK_MS = 1000;
const TRIES = 5;

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const stemOf = (file) => file.name.replace(/\.[^.]*$/, "");

function made(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

const button = (textContent, onclick) => made("button", { type: "button", textContent, onclick });

/** All files that were dropped, those in folders too. */
export async function filesOf(transfer) {
  // Both before anything is waited for, as the list is emptied then.
  const files = [...transfer.files];
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.some((entry) => entry.isDirectory)) return files;
  return (await Promise.all(entries.map(filesBelow))).flat();
}

async function filesBelow(entry) {
  const asked = (of, method) => new Promise((resolve, reject) => of[method](resolve, reject));
  if (entry.isFile) return [await asked(entry, "file")];
  const reader = entry.createReader();
  const found = [];
  for (;;) {
    const some = await asked(reader, "readEntries");  // a hundred at once
    if (!some.length) return found;
    found.push(...(await Promise.all(some.map(filesBelow))).flat());
  }
}

/**
 * The scans among files, with their dwell maps, and names that the service takes: {scans, others}.
 * A dwell map is called as its scan is, with `dwell` or `mask`; a single one is that of all.
 */
export function paired(files, dwell = null) {
  const known = files.filter((file) => isScan(file.name));
  const isScanItself = (file) => !DWELL.test(stemOf(file));
  const hasScans = known.some(isScanItself);
  const dwells = dwell || !hasScans ? [] : known.filter((file) => !isScanItself(file));
  const used = new Set();
  const names = new Set();
  const scans = known.filter((file) => !dwells.includes(file)).map((file) => {
    const own = dwells.find((each) => stemOf(each).replace(DWELL, "") === stemOf(file));
    const its = dwell ?? own ?? (dwells.length === 1 ? dwells[0] : null);
    used.add(its);
    return { file, dwell: its, name: nameOf(file, names) };
  });
  const others = files.filter((file) => !known.includes(file) || (dwells.includes(file) && !used.has(file)));
  return { scans, others: others.map((file) => file.name) };
}

function nameOf(file, taken) {
  const stem = stemOf(file).replace(/[^A-Za-z0-9._-]+/g, "_").replace(/^[^A-Za-z0-9]+/, "").slice(0, 90) || "scan";
  let name = stem;
  for (let number = 2; taken.has(name); number += 1) name = `${stem}-${number}`;
  taken.add(name);
  return name;
}

/** What work gives, which is done again if the service is busy. */
async function patiently(work) {
  for (let left = TRIES; ; left -= 1) {
    try {
      return await work();
    } catch (error) {
      if (!error.retryAfterS || !left) throw error;
      await pause(1000 * error.retryAfterS);
    }
  }
}

/** Jobs that this tab started. */
export class Jobs {
  /** @param parts section and list, elements; begin(), show(bytes, source), look(), say(text), fail(error). */
  constructor(parts) {
    Object.assign(this, parts);
    this.jobs = [];
  }

  /** Shows the jobs that were started before the page was loaded anew. */
  resume() {
    if (this.jobs.length) return;
    for (const { id, title } of JSON.parse(sessionStorage.getItem(KEPT) ?? "[]")) {
      const job = this.#add(title);
      job.id = id;
      job.watch();
    }
  }

  /** Starts a job with all scans among files. */
  async start(files, title, query, dwell) {
    const { scans, others } = paired(files, dwell);
    if (!scans.length) {
      throw new Problem({
        expected: "scans of TIFF, NPY, NPZ, HDF5, PNG, CSV, TSV or Parquet", found: others.slice(0, 5).join(", ") || "none",
        fix: "choose other files",
      });
    }
    await this.#add(title ?? `${scans.length} scans`).start(scans, others, query);
  }

  #add(title) {
    const job = new Job(title, this);
    this.jobs.push(job);
    this.list.prepend(job.item);
    this.section.hidden = false;
    return job;
  }

  /** Keeps in mind which there are, until the tab is closed. */
  keep() {
    const kept = this.jobs.filter((job) => job.id).map(({ id, title }) => ({ id, title }));
    sessionStorage.setItem(KEPT, JSON.stringify(kept));
  }

  /** Shows a job no more. */
  forget(job) {
    this.jobs = this.jobs.filter((each) => each !== job);
    job.item.remove();
    this.section.hidden = !this.jobs.length;
    this.keep();
  }
}

class Job {
  constructor(title, jobs) {
    Object.assign(this, { title, jobs, id: null, told: null, sending: new AbortController(), listed: new Set() });
    this.state = made("span");
    this.progress = made("progress", { max: 1, value: 0 });
    this.progress.setAttribute("aria-label", `Progress of ${title}`);
    this.results = made("ul", { className: "list results" });
    this.cancelling = this.#button("Cancel", () => this.#cancel());
    this.saving = this.#button("Download all", () => this.#save());
    this.removing = this.#button("Remove", () => this.#remove());
    this.saving.hidden = this.removing.hidden = true;
    this.item = made(
      "li", {}, made("p", {}, made("strong", { textContent: title }), this.state), this.progress, this.results,
      made("p", { className: "row" }, this.cancelling, this.saving, this.removing),
    );
  }

  #button(text, act) {
    const own = button(text, async () => {
      own.disabled = true;
      try {
        await act();
      } catch (error) {
        this.jobs.fail(error);
      } finally {
        own.disabled = false;
      }
    });
    own.setAttribute("aria-label", `${text}: ${this.title}`);
    return own;
  }

  /** Sends scans one by one, those that the service takes, and starts the job with these. */
  async start(scans, others, query) {
    const { signal } = this.sending;
    this.#list(others, "no scan");
    let refusal = null;
    try {
      this.id = (await (await ask("POST", `v1/jobs?${query}`)).json()).id;
      this.jobs.keep();
      let num = 0;
      for (const [i, { file, dwell, name }] of scans.entries()) {
        this.#tell(`sending ${i + 1} of ${scans.length}`, i / scans.length);
        const form = new FormData();
        form.append("scan", typed(file));
        if (dwell) form.append("dwell", typed(dwell));
        try {
          await patiently(() => send(`v1/jobs/${this.id}/scans/${name}`, form, "application/json", { method: "PUT", signal }));
          num += 1;
        } catch (error) {
          if (![413, 415, 422].includes(error.status)) throw error;
          refusal ??= error;
          this.#list([file.name], error.message);
        }
      }
      if (!num) throw refusal;
      await ask("POST", `v1/jobs/${this.id}/start`);
    } catch (error) {
      await this.#remove();
      throw error;
    }
    this.jobs.say(`Started ${this.title}`);
    this.watch();
  }

  /** Shows how far it is, until it is over. */
  async watch() {
    while (this.item.isConnected) {
      if (document.visibilityState === "visible") {
        try {
          this.#show(await (await get(`v1/jobs/${this.id}`)).json());
        } catch (error) {
          if (error.status === 404) return this.jobs.forget(this);
          this.#tell("asking again");  // the service is started anew, or wants a token
        }
        if (["done", "failed", "cancelled"].includes(this.told?.state)) return undefined;
      }
      await pause(LOOK_MS);
    }
    return undefined;
  }

  #tell(text, share = null) {
    this.state.textContent = text;
    if (share !== null) this.progress.value = share;
  }

  #show(told) {
    const isOver = !["open", "queued", "running"].includes(told.state);
    if (isOver && this.told && told.state !== this.told.state) this.jobs.say(`${this.title}: ${jobText(told)}`);
    this.told = told;
    this.#tell(jobText(told), told.settled / (told.scans || 1));
    this.progress.hidden = this.cancelling.hidden = isOver;
    this.saving.hidden = !told.results.length;
    this.removing.hidden = !isOver;
    for (const name of told.completed.filter((each) => !this.listed.has(each))) {
      this.listed.add(name);
      const open = button(name, () => this.#open(name, open));
      open.setAttribute("aria-label", `Open ${name}`);
      this.results.append(made("li", {}, open));
    }
    for (const [name, why] of Object.entries(told.failed)) this.#list([name], why);
  }

  #list(names, why) {
    for (const name of names.filter((each) => !this.listed.has(each))) {
      this.listed.add(name);
      this.results.append(made("li", { className: "failed" }, name, made("span", { textContent: why })));
    }
  }

  async #open(name, from) {
    this.jobs.begin();
    const fetched = async (accept, shows) => {
      const query = shows ? `?show=${shows}` : "";
      return (await get(`v1/jobs/${this.id}/scans/${name}${query}`, accept)).arrayBuffer();
    };
    try {
      this.jobs.show(await fetched(NPZ), { name, ask: fetched });
    } catch (error) {
      return this.jobs.fail(error);
    }
    for (const each of this.jobs.list.querySelectorAll("[aria-current]")) each.removeAttribute("aria-current");
    from.setAttribute("aria-current", "true");
    this.jobs.look();
    return this.jobs.say(`Opened ${name}`);
  }

  async #save() {
    this.jobs.say(`Fetching ${this.title}`);
    const name = `${this.title.replace(/[^\w.-]+/g, "_")}_completed.zip`;
    save(name, await (await get(`v1/jobs/${this.id}/results`, ZIP)).blob());
    this.jobs.say(`Saved ${name}`);
  }

  async #cancel() {
    this.sending.abort();
    if (this.told) this.#show(await (await ask("POST", `v1/jobs/${this.id}/cancel`)).json());
  }

  async #remove() {
    this.jobs.forget(this);
    if (this.id) await ask("DELETE", `v1/jobs/${this.id}`).catch(() => {});  // it expires anyway
  }
}
