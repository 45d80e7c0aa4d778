// What a completion says of itself, and its files.

import { coverageText, lengthText, short } from "./values.js";
import { modelText, verdict } from "./words.js";

const MEDIA = {
  npz: "application/x-npz", npy: "application/x-npy", tif: "image/tiff", png: "image/png",
  "ome.zarr.zip": "application/zip", json: "application/json",
};
const OFFERED = [
  ["Completion", [["TIFF", "tif", "image"], ["NPY", "npy", "image"], ["PNG", "png", "image"]]],
  ["Error map", [["TIFF", "tif", "error"], ["NPY", "npy", "error"], ["PNG", "png", "error"]]],
  ["All", [["NPZ", "npz"], ["OME-Zarr", "ome.zarr.zip"], ["JSON", "json"]]],
];

/** A list of terms and their texts. */
export function terms(facts) {
  const list = document.createElement("dl");
  for (const [term, text] of facts) {
    const [dt, dd] = [document.createElement("dt"), document.createElement("dd")];
    [dt.textContent, dd.textContent] = [term, text];
    list.append(dt, dd);
  }
  return list;
}

/** What a user wants to know first of a completion. */
export function factsOf(about, images, source) {
  const { width, height } = images.image;
  const size = about.pixel_size_nm;
  const unit = about.intensity_unit ? ` ${about.intensity_unit}` : "";
  const off = images.truth ? rms(images.image.data, images.truth.data) : null;
  return terms([
    ["Scan", source.name],
    ["Size", `${width} × ${height} px${size ? `, ${lengthText(width * size)} × ${lengthText(height * size)}` : ""}`],
    ["Pixel", size ? lengthText(size) : "size unknown"],
    ["Coverage", `${coverageText(about.coverage)} of the dose (${short(100 * about.coverage, 3)} %)`],
    ["Expected error", about.expected_error === null ? "not estimated" : `${short(about.expected_error, 3)}${unit} RMS`],
    ...(off === null ? [] : [["From the truth", `${short(off, 3)}${unit} RMS; the published truth has noise, too`]]),
    ["Model", modelText(about.model, about.model_sha256)],
  ]);
}

function rms(a, b) {
  let sum = 0;
  for (let i = 0; i < a.length; i += 1) sum += (a[i] - b[i]) ** 2;
  return Math.sqrt(sum / a.length);
}

/** Fills the self-check's panel. */
export function showCheck(panel, about) {
  const { level, title, text } = verdict(about);
  panel.dataset.level = level;
  panel.querySelector("#verdict").textContent = title;
  panel.querySelector("#check-text").textContent = text;
  const check = about.self_check;
  const bars = check && check.error !== null
    ? [["their spread", check.deviation, ""], ["classical", check.classical_error, ""], ["model", check.error, "model"]]
    : [];
  const most = Math.max(...bars.map(([, value]) => value ?? 0));
  const rows = bars.filter(([, value]) => value !== null).map(([name, value, look]) => {
    const [row, label, bar, number] = ["div", "span", "i", "b"].map((tag) => document.createElement(tag));
    [row.className, label.textContent, number.textContent] = [`bar-row ${look}`, name, short(value, 3)];
    bar.style.setProperty("--share", most ? value / most : 0);
    row.append(label, bar, number);
    return row;
  });
  if (rows.length) {
    const caption = document.createElement("p");
    caption.textContent = `Error of held-out measurements${about.intensity_unit ? ` [${about.intensity_unit}]` : ""}`;
    rows.unshift(caption);
  }
  panel.querySelector("#bars").replaceChildren(...rows);
}

/** Saves bytes as a file of the user. */
export function save(name, blob) {
  const link = document.createElement("a");
  Object.assign(link, { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

/**
 * Rows of buttons, one for each file that can be had. What came with the completion is saved as it
 * is; for others the service is asked again.
 */
export function downloads({ images, about, source }, fail, say) {
  const stem = source.name.replace(/\.[a-z]+$/i, "").replace(/[^\w.-]+/g, "_");
  const here = {
    npz: () => source.bytes,
    npy: (shows) => source.files.get(shows),
    json: () => JSON.stringify(about, null, 1),
  };
  const fetched = async (button, suffix, shows) => {
    const name = `${stem}_${shows === "error" ? "error" : "completed"}.${suffix}`;
    button.disabled = true;
    say(`Fetching ${name}`);
    try {
      const content = here[suffix]?.(shows) ?? await source.ask(MEDIA[suffix], shows);
      save(name, new Blob([content], { type: MEDIA[suffix] }));
      say(`Saved ${name}`);
    } catch (error) {
      fail(error);
    } finally {
      button.disabled = false;
    }
  };
  return OFFERED.filter(([, all]) => images.error || all[0][2] !== "error").map(([title, all]) => {
    const row = document.createElement("p");
    const label = document.createElement("span");
    label.textContent = title;
    row.append(label, ...all.map(([text, suffix, shows]) => {
      const button = document.createElement("button");
      Object.assign(button, { type: "button", textContent: text, onclick: () => fetched(button, suffix, shows) });
      button.setAttribute("aria-label", `Download ${title.toLowerCase()} as ${text}`);
      return button;
    }));
    return row;
  });
}
