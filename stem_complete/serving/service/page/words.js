// What the service says in numbers, in plain words.

import { coverageText, short } from "./values.js";

// Error of held-out measurements, as a share of their spread, their noise included. At 1 their mean
// would predict them as well as the model does.
const [MOSTLY_MISSED, MISSED] = [0.8, 0.95];

const percent = (share) => `${Math.round(100 * share)} %`;

/**
 * How far a completion can be trusted: {level, title, text}, where `level` is "good", "careful",
 * "bad", or "none" where nothing is known.
 */
export function verdict(about) {
  const check = about.self_check;
  const unfamiliar = (about.notes ?? []).some((note) => note.startsWith("coverage "));
  const untrained = "Do not trust the model here: it was not trained for such a coverage";
  if (!check || check.error === null) {
    return {
      level: unfamiliar ? "bad" : "none",
      title: unfamiliar ? untrained : check ? "Could not be checked" : "Not checked",
      text: check
        ? "Too little was measured to hold a part of it out. Nothing here says whether the model fits this scan."
        : "No part of this scan was held out, so nothing here says whether the model fits it.",
    };
  }
  const spread = check.deviation ? check.error / check.deviation : null;
  const ratio = check.classical_error ? check.error / check.classical_error : null;
  const parts = [];
  if (spread !== null) {
    parts.push(`Held-out measurements are missed by ${percent(spread)} of their own spread, their noise included.`);
  }
  if (ratio !== null) {
    parts.push(ratio <= 1
      ? `The classical completion misses them by ${percent(1 / ratio - 1)} more.`
      : `That is ${percent(ratio - 1)} more than the classical completion does.`);
  }
  if (check.trust < 1) {
    parts.push(`They agree with ${percent(check.trust)} of the model's correction, and no more of it was used.`);
  }
  if (check.following > 0) {
    parts.push(`Measured pixels are followed closely: ${percent(check.following)} of an interpolation is mixed in.`);
  }
  const text = parts.join(" ");
  if (unfamiliar) return { level: "bad", title: untrained, text };
  if (spread !== null && spread >= MISSED) {
    return { level: "bad", title: "Do not trust this completion: held-out parts are not predicted", text };
  }
  if (check.trust < 0.5) return { level: "bad", title: "Do not trust the model here: the scan contradicts it", text };
  if (check.trust < 1 || (ratio !== null && ratio > 1)) {
    return { level: "careful", title: "Take care: the scan agrees with the model only in part", text };
  }
  if (spread !== null && spread >= MOSTLY_MISSED) {
    return { level: "careful", title: "Take care: held-out parts are hardly predicted, or are mostly noise", text };
  }
  return { level: "good", title: "The scan agrees with the model", text };
}

/** A model's name, with the beginning of its weights' hash, which tells it from others. */
export const modelText = (name, sha256) => (sha256 ? `${name}, ${sha256.slice(0, 12)}` : name);

/** What a model is, as [term, text]. */
export function modelFacts(model) {
  const { coverages, metrics } = model;
  const rmse = metrics["validation/rmse"];
  const files = model.training_data.length;
  const licences = [...new Set(model.training_data.map((each) => each.licence).filter(Boolean))];
  return [
    ["Name", model.name === model.recipe ? model.name : `${model.name}, of the recipe ${model.recipe}`],
    ["For scans of", `${coverageText(coverages.at(-1))} to ${coverageText(coverages[0])} of the dose of a complete scan`],
    ["Error map", model.has_error_map ? "yes" : "none: this model does not know its error"],
    ...(rmse ? [["Validation error", `${short(100 * rmse, 3)} % of the images' range (root mean square)`]] : []),
    ...(metrics["train/steps"] ? [["Trained for", `${metrics["train/steps"].toLocaleString("en")} steps`]] : []),
    ["Trained on", `${files} ${files === 1 ? "file" : "files"}${licences.length ? `, under ${licences.join(", ")}` : ""}`],
    ["Made by", Object.entries(model.versions).map(([name, version]) => `${name} ${version}`).join(", ")],
    ["Weights SHA-256", model.weights_sha256 ?? "–"],
  ];
}

/** Where a job is. */
export function jobText({ state, position, settled, scans, completed, failed }) {
  const num = Object.keys(failed).length;
  const lacking = num ? `, ${num} failed` : "";
  return {
    open: "not started",
    queued: `waiting, number ${position} in the queue`,
    running: `completing, ${settled} of ${scans}`,
    done: `done, ${completed.length} of ${scans} completed${lacking}`,
    failed: `failed after ${completed.length} of ${scans}`,
    cancelled: `cancelled after ${completed.length} of ${scans}`,
  }[state];
}

/** A problem as [term, text], in the order in which it helps. */
export function problemFacts(problem) {
  const { told, retryAfterS } = problem;
  return [
    ["Expected", told.expected], ["Found", told.found],
    ["Where", ["body", "request", undefined].includes(told.where) ? undefined : told.where],
    ["What to do", told.fix],
    ["Try again", retryAfterS ? `in ${retryAfterS} s` : undefined],
    ["Request", told.request_id],
  ].filter(([, text]) => text);
}
