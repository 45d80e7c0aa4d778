// The page: what is chosen, what is shown, and what is under the hand.

import { Problem, get, send, token, typed } from "./api.js";
import { ERRORS, GREYS, paintRamp } from "./colours.js";
import { Jobs, filesOf } from "./jobs.js";
import { Live } from "./live.js";
import { readNpz } from "./npz.js";
import { Histogram, ProfilePlot } from "./plots.js";
import { downloads, factsOf, save, showCheck, terms } from "./result.js";
import { coverageText, extent, lengthText, nearest, profile, quantiles, short } from "./values.js";
import { Viewer } from "./viewer.js";
import { modelFacts, modelText, problemFacts } from "./words.js";

const $ = (id) => document.getElementById(id);
const NPZ = "application/x-npz";
const READ_OPTIONS = ["unmeasured", "dwell_unit", "full_dwell", "shape", "position_unit", "step", "origin", "signal"];

let shown = null;  // {images, about, source}: what the panels show, and where it came from
let contrast = "images";  // whose limits the histogram shows
let chosen = {};  // limits that were set by hand, by what they are of
let ranges = {};  // range of the histogram, likewise
let working = null;  // AbortController of the completion that is under way
let again = null;  // what failed last and may be tried again

// ---- Messages ----

function say(text) {
  $("state").textContent = text;
}

function fail(error, retry = null) {
  if (error.name === "AbortError") return;
  const problem = error instanceof Problem ? error : new Problem({ expected: "an answer that can be read", found: error.message });
  again = retry;
  const box = $("problem");
  box.replaceChildren(terms(problemFacts(problem)));
  const button = (text, act) => {
    const made = document.createElement("button");
    Object.assign(made, { type: "button", textContent: text, onclick: act });
    return made;
  };
  const row = document.createElement("p");
  row.className = "row";
  const isTheirs = problem.status >= 400 && problem.status < 500 && problem.status !== 429;
  if (again && !isTheirs) row.append(button("Try again", () => { clearProblem(); again(); }));
  row.append(button("Dismiss", clearProblem));
  box.append(row);
  box.hidden = false;
  say("");
  if (problem.status === 401) askToken();
  else box.scrollIntoView({ block: "nearest" });
}

function clearProblem() {
  $("problem").hidden = true;
}

// ---- Completing ----

function options(isFile) {
  const query = new URLSearchParams();
  for (const name of isFile ? READ_OPTIONS : []) {
    const value = $(`o-${name}`).value.trim();
    if (value) query.set(name, value);
  }
  query.set("self_check", $("o-self_check").checked);
  query.set("keep_measured", $("o-keep_measured").checked);
  return query;
}

/** Ends what is shown as it comes, as something else is to be shown. */
function begin() {
  live.stop();
  working?.abort();
  clearProblem();
}

/** Scrolls to the images, which on a phone are below all else. */
function look() {
  if (matchMedia("(max-width: 699px)").matches) $("work").scrollIntoView();
}

/** Completes what `makeForm` gives, and shows it. `truth` is what it should look like, if known. */
async function complete(name, isFile, makeForm, truth = null) {
  begin();
  const own = working = new AbortController();
  const query = options(isFile);
  const began = performance.now();
  let sent = 0;
  const tick = () => {
    const seconds = ((performance.now() - began) / 1000).toFixed(1);
    $("progress-text").textContent = sent < 1 ? `sending, ${Math.round(100 * sent)} %` : `completing, ${seconds} s`;
    if (sent < 1) $("progress").value = sent;
    else $("progress").removeAttribute("value");
  };
  const clock = setInterval(tick, 100);
  $("working").hidden = $("cancel").hidden = false;
  say(`Completing ${name}`);
  try {
    const { form, reference } = await makeForm(own.signal);
    const ask = (accept, show, signal) => {
      const asked = new URLSearchParams(query);
      if (show) asked.set("show", show);
      return send(`v1/complete?${asked}`, form, accept, { signal });
    };
    const bytes = await send(`v1/complete?${query}`, form, NPZ, {
      signal: own.signal, tell: (share) => { sent = share; tick(); },
    });
    show(readNpz(bytes), { name, bytes, ask, truth: reference ?? truth });
    say(`Completed ${name}, coverage ${coverageText(shown.about.coverage)}`);
    look();
  } catch (error) {
    fail(error, () => complete(name, isFile, makeForm, truth));
    if (error.name === "AbortError" && own === working) say("Cancelled");
  } finally {
    clearInterval(clock);
    if (own === working) {
      $("working").hidden = $("cancel").hidden = true;
      working = null;
    }
  }
}

function completeFiles() {
  const inFolder = [...$("folder-files").files];
  const [scan, ...more] = inFolder.length ? inFolder : $("scan-file").files;
  const [second] = $("second-file").files;
  if (!scan) return;
  if (inFolder.length || more.length) {
    completeMany([scan, ...more], second, inFolder[0]?.webkitRelativePath.split("/")[0]);
    return;
  }
  const role = $("second-role").value;
  complete(scan.name, true, async () => {
    const form = new FormData();
    form.append("scan", typed(scan));
    if (second) form.append(role, typed(second));
    return { form };
  });
}

/** Completes scans as a job; with a dwell map of all, if one was chosen. */
function completeMany(files, second, title) {
  clearProblem();
  const query = options(true);
  query.set("format", $("o-format").value);
  const dwell = second && $("second-role").value === "dwell" ? second : null;
  jobs.start(files, title, query, dwell).catch((error) => fail(error, () => completeMany(files, second, title)));
}

function completeExample(example) {
  complete(example.title, false, async (signal) => {
    const bytes = await (await get(`v1/examples/${example.name}`, NPZ, signal)).arrayBuffer();
    const form = new FormData();
    form.append("scan", new File([bytes], `example-${example.name}.npz`, { type: NPZ }));
    return { form, reference: readNpz(bytes).arrays.get("truth") };
  });
}

/** Takes dropped files: scans, or one with its dwell map or path, which their names tell. */
function take(files) {
  const second = files.length === 2 ? files.find((file) => /dwell|mask|path|position/i.test(file.name)) : null;
  const scans = files.filter((file) => file !== second);
  const put = (input, ...held) => {
    const transfer = new DataTransfer();
    for (const file of held) transfer.items.add(file);
    input.files = transfer.files;
  };
  put($("folder-files"));
  put($("scan-file"), ...scans);
  put($("second-file"), ...(second ? [second] : []));
  if (second) $("second-role").value = /path|position/i.test(second.name) ? "path" : "dwell";
  $("complete").disabled = !scans.length;
  completeFiles();
}

// ---- Showing ----

/** Shows a completion: NPZ of the service, and where it came from. */
function show({ arrays, files }, source) {
  const image = (name) => {
    const array = arrays.get(name);
    return array && { data: array.data, height: array.shape[0], width: array.shape[1] };
  };
  const images = { scan: image("scan"), image: image("image") };
  if (arrays.has("error")) images.error = image("error");
  if (source.truth) images.truth = { ...images.image, data: source.truth.data };
  const about = JSON.parse(new TextDecoder().decode(arrays.get("about").data));
  const isSame = shown !== null && shown.source.name === source.name;
  shown = { images, about, source: { ...source, files } };
  if (!isSame) chosen = {};
  $("empty").hidden = true;
  $("views").hidden = $("result").hidden = false;

  const unit = about.intensity_unit ?? "";
  const bounds = extent(images.image.data);
  const measured = quantiles(images.scan.data, [0.001, 0.999]);
  ranges.images = [Math.min(bounds[0], measured[0]), Math.max(bounds[1], measured[1])];
  if (images.error) ranges.error = [0, extent(images.error.data)[1]];
  viewer.limits.images = chosen.images ?? about.display_range;
  if (images.error) viewer.limits.error = chosen.error ?? automaticError();
  $("legend-truth").hidden = !images.truth;
  offerComparisons();
  viewer.show(images, about.pixel_size_nm);
  $("h-scan").textContent = `coverage ${coverageText(about.coverage)}`;
  $("h-image").textContent = `${images.image.width} × ${images.image.height} px`;
  $("h-error").textContent = images.error ? `${short(about.expected_error, 3)} ${unit} RMS` : "this model has none";
  if (!images.error) setContrast("images");
  $("of-error").disabled = !images.error;
  $("bar-images").title = unit || "intensity";
  showContrast();
  showProfile();
  showCheck($("check"), about);
  $("facts").replaceChildren(...factsOf(about, images, source).childNodes);
  $("notes").replaceChildren(...about.notes.filter((note) => !note.startsWith("self-check")).map((note) => {
    const item = document.createElement("li");
    item.textContent = note;
    return item;
  }));
  $("downloads").replaceChildren(...downloads(shown, fail, say));
}

function offerComparisons() {
  const names = { scan: "scan", error: "error map", truth: "truth" };
  const offered = Object.entries(names).filter(([name]) => shown.images[name]);
  $("compare-with").replaceChildren(...offered.map(([name, text]) => new Option(text, name)));
  if (!shown.images[viewer.compare.with]) viewer.compare.with = "scan";
  $("compare-with").value = viewer.compare.with;
}

const automaticError = () => [0, quantiles(shown.images.error.data, [0.995])[0] || 1];

// ---- Contrast ----

const series = {
  images: () => [
    { data: shown.images.image.data, colour: "accent", isFilled: true },
    { data: shown.images.scan.data, colour: "dots", isFilled: false },
  ],
  error: () => [{ data: shown.images.error.data, colour: "warm", isFilled: true }],
};

function setContrast(which) {
  contrast = which;
  $("of-images").setAttribute("aria-pressed", which === "images");
  $("of-error").setAttribute("aria-pressed", which === "error");
  $("legend-images").hidden = which !== "images";
  $("legend-error").hidden = which !== "error";
}

function showContrast() {
  histogram.show(series[contrast](), ranges[contrast]);
  showLimits();
}

function showLimits() {
  const [low, high] = viewer.limits[contrast];
  const [from, to] = ranges[contrast];
  const place = (value) => Math.round(((value - from) / (to - from || 1)) * 1000);
  Object.assign($("low"), { value: place(low) });
  Object.assign($("high"), { value: place(high) });
  $("low-text").textContent = short(low);
  $("high-text").textContent = short(high);
  histogram.limits = [low, high];
  histogram.draw();
  const unit = shown.about.intensity_unit ?? "";
  const span = (which) => viewer.limits[which].map((value) => short(value, 3)).join(" … ") + (unit && ` ${unit}`);
  $("bar-images-text").textContent = span("images");
  $("bar-error-text").textContent = shown.images.error ? `${span("error")} RMS` : "";
}

/** Moves one limit, which pushes the other one before it. */
function setLimit(which, value) {
  const limits = [...viewer.limits[contrast]];
  const least = (ranges[contrast][1] - ranges[contrast][0]) / 1000;
  limits[which] = value;
  if (limits[1] - limits[0] < least) limits[1 - which] = value + (which ? -least : least);
  setLimits(limits);
}

function setLimits(limits, isChosen = true) {
  if (isChosen) chosen[contrast] = limits;
  else delete chosen[contrast];
  viewer.setLimits(contrast, limits);
  showLimits();
}

// ---- Profile and readout ----

function profiles(line) {
  const { scan, image, error, truth } = shown.images;
  return {
    scan: profile(scan, line, { hasGaps: true }),
    image: profile(image, line),
    ...(error && { error: profile(error, line, { isError: true }) }),
    ...(truth && { truth: profile(truth, line) }),
  };
}

function showProfile() {
  const { line } = viewer;
  $("profile-save").disabled = !line;
  if (!line || !shown) {
    $("profile-length").textContent = "";
    plot.show(null);
    return;
  }
  const length = Math.hypot(line.x1 - line.x0, line.y1 - line.y0);
  const size = shown.about.pixel_size_nm;
  $("profile-length").textContent = `${short(length)} px${size ? `, ${lengthText(length * size)}` : ""}`;
  for (const name of ["x0", "y0", "x1", "y1"]) {
    if (document.activeElement !== $(`p-${name}`)) $(`p-${name}`).value = Number(line[name].toFixed(1));
  }
  $("profile").setAttribute("aria-label", `Line profile from ${short(line.x0)}, ${short(line.y0)} to ${short(line.x1)}, ${short(line.y1)} px`);
  plot.show(profiles(line), "px");
}

function saveProfile() {
  const found = profiles(viewer.line);
  const names = ["image", "error", "scan", "truth"].filter((name) => found[name]);
  const rows = Array.from(found.image.distances, (distance, i) =>
    [distance, ...names.map((name) => found[name].values[i])].map((x) => (Number.isNaN(x) ? "" : x)).join(","));
  const text = [["distance_px", ...names].join(","), ...rows, ""].join("\n");
  save("profile.csv", new Blob([text], { type: "text/csv" }));
}

function showReadout(place) {
  if (!shown || !place) return void ($("readout").textContent = "");
  const { scan, image, error, truth } = shown.images;
  const [x, y] = place;
  const size = shown.about.pixel_size_nm;
  const unit = shown.about.intensity_unit ? ` ${shown.about.intensity_unit}` : "";
  const value = (of) => short(nearest(of, x, y));
  const parts = [`x ${Math.round(x)}  y ${Math.round(y)} px`];
  if (size) parts.push(`${lengthText(x * size)}, ${lengthText(y * size)}`);
  if (!Number.isNaN(nearest(image, x, y))) {
    parts.push(`completion ${value(image)}${error ? ` ± ${value(error)}` : ""}${unit}`);
    parts.push(Number.isNaN(nearest(scan, x, y)) ? "not measured" : `scan ${value(scan)}${unit}`);
    if (truth) parts.push(`truth ${value(truth)}${unit}`);
  }
  $("readout").textContent = parts.join("   ");
  return undefined;
}

// ---- Parts ----

const viewer = new Viewer({ scan: $("c-scan"), image: $("c-image"), error: $("c-error") }, {
  moved: (view) => { $("zoom").textContent = `${Math.round(100 * view.zoom)} %`; },
  pointed: showReadout,
  drawn: showProfile,
  divided: (share) => { $("compare").value = Math.round(1000 * share); },
});
const histogram = new Histogram($("histogram"), setLimit);
const plot = new ProfilePlot($("profile"));
const showBytes = (bytes, source) => show(readNpz(bytes), { ...source, bytes });
const live = new Live({ list: $("live"), none: $("live-none"), show: showBytes, begin, say, fail });
const jobs = new Jobs({ section: $("jobs"), list: $("job-list"), show: showBytes, begin, look, say, fail });

function setTool(tool) {
  viewer.setTool(tool);
  $("tool-pan").setAttribute("aria-pressed", tool === "pan");
  $("tool-profile").setAttribute("aria-pressed", tool === "profile");
}

function enlarge(name) {
  const panels = $("panels");
  const isLarge = panels.dataset.enlarged === name;
  if (isLarge) delete panels.dataset.enlarged;
  else panels.dataset.enlarged = name;
  for (const button of panels.querySelectorAll(".enlarge")) {
    button.setAttribute("aria-pressed", !isLarge && button.closest(".panel").dataset.panel === name);
  }
  viewer.draw();
}

function askToken() {
  $("token").value = token.get();
  $("token-dialog").showModal();
}

// ---- What the service has ----

async function showModel() {
  const model = await (await get("v1/model")).json();
  $("open-model").textContent = `Model: ${modelText(model.name, model.weights_sha256)}`;
  $("model-facts").replaceChildren(...terms(modelFacts(model)).childNodes);
  $("model-data").replaceChildren(...model.training_data.map((file) => {
    const item = document.createElement("li");
    item.textContent = [file.name, file.licence].filter(Boolean).join(", ");
    return item;
  }));
}

async function showExamples() {
  const examples = await (await get("v1/examples")).json();
  $("examples").replaceChildren(...examples.map((example) => {
    const [item, button, source] = ["li", "button", "span"].map((tag) => document.createElement(tag));
    Object.assign(button, { type: "button", onclick: () => completeExample(example) });
    source.textContent = example.source;
    button.append(example.title, source);
    item.append(button);
    return item;
  }));
}

async function start() {
  try {
    await Promise.all([showModel(), showExamples(), live.look()]);
    clearProblem();
    jobs.resume();
  } catch (error) {
    fail(error, start);
  }
}

// ---- Hands ----

$("scan-form").addEventListener("submit", (event) => { event.preventDefault(); completeFiles(); });
for (const [input, other] of [["scan-file", "folder-files"], ["folder-files", "scan-file"]]) {
  $(input).addEventListener("change", () => {
    $(other).value = "";
    $("complete").disabled = !$(input).files.length;
  });
}
$("cancel").addEventListener("click", () => working?.abort());
for (const unit of ["full", "counts", "s", "ms", "us", "ns"]) $("o-dwell_unit").add(new Option(unit, unit));

addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dragged");
});
addEventListener("dragleave", (event) => event.relatedTarget ?? document.body.classList.remove("dragged"));
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dragged");
  filesOf(event.dataTransfer).then(take).catch(fail);
});

$("zoom-in").addEventListener("click", () => viewer.zoomBy(1.5));
$("zoom-out").addEventListener("click", () => viewer.zoomBy(1 / 1.5));
$("fit").addEventListener("click", () => viewer.fit());
$("one-to-one").addEventListener("click", () => viewer.oneToOne());
for (const tool of ["pan", "profile"]) $(`tool-${tool}`).addEventListener("click", () => setTool(tool));
$("compare").addEventListener("input", (event) => viewer.divide(event.target.value / 1000));
$("compare-with").addEventListener("change", (event) => {
  viewer.compare.with = event.target.value;
  viewer.divide(viewer.compare.share || 0.5);
});
$("panels").addEventListener("click", (event) => {
  if (event.target.matches(".enlarge")) enlarge(event.target.closest(".panel").dataset.panel);
});
$("panels").addEventListener("keydown", (event) => {
  if (!event.target.matches("canvas") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "p") setTool(viewer.tool === "pan" ? "profile" : "pan");
  if (event.key === "e") enlarge(event.target.closest(".panel").dataset.panel);
});

for (const which of ["images", "error"]) {
  $(`of-${which}`).addEventListener("click", () => { setContrast(which); showContrast(); });
}
["low", "high"].forEach((name, which) => $(name).addEventListener("input", (event) => {
  const [from, to] = ranges[contrast];
  setLimit(which, from + (event.target.value / 1000) * (to - from));
}));
$("contrast-auto").addEventListener("click", () => {
  setLimits(contrast === "error" ? automaticError() : shown.about.display_range, false);
});
$("contrast-full").addEventListener("click", () => setLimits([...ranges[contrast]]));

for (const name of ["x0", "y0", "x1", "y1", "width"]) {
  $(`p-${name}`).addEventListener("input", (event) => {
    if (event.target.value === "" || !event.target.checkValidity()) return;
    const { width, height } = shown.images.image;  // where there is no line yet: through the middle
    const middle = { x0: 0, y0: (height - 1) / 2, x1: width - 1, y1: (height - 1) / 2 };
    viewer.setLine({ ...(viewer.line ?? middle), [name]: Number(event.target.value) });
  });
}
$("profile-save").addEventListener("click", saveProfile);

$("open-model").addEventListener("click", () => $("model-dialog").showModal());
$("open-keys").addEventListener("click", () => $("keys-dialog").showModal());
$("open-token").addEventListener("click", askToken);
for (const button of document.querySelectorAll("dialog .close")) {
  button.addEventListener("click", () => button.closest("dialog").close());
}
$("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  token.set($("token").value.trim());
  $("token-dialog").close();
  start();
});
$("token-forget").addEventListener("click", () => {
  token.set("");
  $("token-dialog").close();
});

paintRamp($("bar-images"), GREYS);
paintRamp($("bar-error"), ERRORS);
start();
