// The histogram with its limits, and the profile along a line.

import { histogram, short, ticks } from "./values.js";

const BINS = 192;
const FONT = "11px system-ui, sans-serif";

/** A canvas of the size of its place, empty: {context, width, height, colour}. */
function sheet(canvas) {
  const { width, height } = canvas.getBoundingClientRect();
  const ratio = window.devicePixelRatio || 1;
  Object.assign(canvas, { width: Math.round(width * ratio), height: Math.round(height * ratio) });
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.font = FONT;
  const style = getComputedStyle(canvas);
  return { context, width, height, colour: (name) => style.getPropertyValue(`--${name}`).trim() };
}

/** A drawing that is made in the next frame, anew when its place changes. */
class Plot {
  constructor(canvas) {
    this.canvas = canvas;
    new ResizeObserver(() => this.draw()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  draw() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      if (this.canvas.getBoundingClientRect().width) this.paint(sheet(this.canvas));
    });
  }
}

/** Histograms of images over one range, whose limits can be dragged. */
export class Histogram extends Plot {
  constructor(canvas, moved) {
    super(canvas);
    Object.assign(this, { moved, range: [0, 1], limits: [0, 1], series: [] });
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      const at = this.#value(event);
      this.held = Math.abs(at - this.limits[0]) <= Math.abs(at - this.limits[1]) ? 0 : 1;
      this.moved(this.held, at);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (canvas.hasPointerCapture(event.pointerId)) this.moved(this.held, this.#value(event));
    });
  }

  #value(event) {
    const box = this.canvas.getBoundingClientRect();
    const share = Math.min(Math.max((event.clientX - box.left) / box.width, 0), 1);
    return this.range[0] + share * (this.range[1] - this.range[0]);
  }

  /** Shows arrays: [{data, colour, isFilled}]. */
  show(arrays, range) {
    this.range = range;
    this.series = arrays.map(({ data, ...look }) => {
      const counts = histogram(data, range, BINS);
      return { ...look, shares: counts.map((count) => Math.sqrt(count / Math.max(...counts, 1))) };
    });
    this.draw();
  }

  paint({ context, width, height, colour }) {
    const base = height - 16;
    const x = (value) => ((value - this.range[0]) / (this.range[1] - this.range[0] || 1)) * width;
    for (const { shares, colour: own, isFilled } of this.series) {
      context.beginPath();
      context.moveTo(0, base);
      shares.forEach((share, i) => {
        for (const edge of [i, i + 1]) context.lineTo((edge / BINS) * width, base - share * (base - 6));
      });
      context.lineTo(width, base);
      context.fillStyle = context.strokeStyle = colour(own);
      context.globalAlpha = isFilled ? 0.3 : 1;
      if (isFilled) context.fill();
      context.globalAlpha = 1;
      context.stroke();
    }
    context.fillStyle = context.strokeStyle = colour("quiet");
    context.fillRect(0, base, width, 1);
    for (const at of ticks(...this.range, width / 70)) {
      const text = short(at);
      const half = context.measureText(text).width / 2;
      context.fillText(text, Math.min(Math.max(x(at) - half, 0), width - 2 * half), height - 3);
    }
    context.fillStyle = colour("accent");
    for (const limit of this.limits) {
      const at = Math.min(Math.max(x(limit), 1), width - 1);
      context.fillRect(at - 0.75, 0, 1.5, base);
      context.fillRect(at - 4, 0, 8, 6);
    }
  }
}

/** Values along a line: measurements as dots, completion as a line in a band of its error. */
export class ProfilePlot extends Plot {
  /** Shows series by name: {scan, image, error, truth}, each {distances, values}, and a unit. */
  show(series, unit) {
    Object.assign(this, { series, unit });
    this.draw();
  }

  paint({ context, width, height, colour }) {
    const { series } = this;
    if (!series) {
      context.fillStyle = colour("quiet");
      context.fillText("Choose Profile and draw a line over an image, or hold Shift.", 8, 20);
      return;
    }
    const { distances, values } = series.image;
    const off = (i) => (series.error ? series.error.values[i] || 0 : 0);
    let [low, high] = [Infinity, -Infinity];
    const reach = (value) => {
      if (value < low) low = value;
      if (value > high) high = value;
    };
    values.forEach((value, i) => [value - off(i), value + off(i)].forEach(reach));
    series.scan.values.forEach(reach);
    series.truth?.values.forEach(reach);
    if (!(low < high)) [low, high] = [(Number.isFinite(low) ? low : 0) - 1, (Number.isFinite(low) ? low : 0) + 1];
    const length = distances[distances.length - 1] || 1;
    const labels = ticks(low, high, (height - 30) / 28);
    const left = 8 + Math.max(...labels.map((at) => context.measureText(short(at)).width));
    const [right, top, bottom] = [width - 6, 8, height - 18];
    const x = (at) => left + (at / length) * (right - left);
    const y = (value) => bottom - ((value - low) / (high - low)) * (bottom - top);
    context.lineWidth = 1;
    for (const at of labels) {
      context.fillStyle = colour("grid");
      context.fillRect(left, Math.round(y(at)), right - left, 1);
      context.fillStyle = colour("quiet");
      context.fillText(short(at), left - 5 - context.measureText(short(at)).width, y(at) + 4);
    }
    for (const at of ticks(0, length, (right - left) / 70)) {
      const text = `${short(at)}${at === 0 ? ` ${this.unit}` : ""}`;
      const begin = at === 0 ? x(0) : x(at) - context.measureText(text).width / 2;
      if (begin + context.measureText(text).width <= width) context.fillText(text, begin, height - 4);
    }
    const trace = (name, look) => {
      context.strokeStyle = colour(look);
      context.lineWidth = 1.5;
      context.beginPath();
      series[name].values.forEach((value, i) => context.lineTo(x(series[name].distances[i]), y(value)));
      context.stroke();
    };
    if (series.error) {
      context.fillStyle = colour("band");
      context.beginPath();
      values.forEach((value, i) => context.lineTo(x(distances[i]), y(value + off(i))));
      for (let i = values.length - 1; i >= 0; i -= 1) context.lineTo(x(distances[i]), y(values[i] - off(i)));
      context.fill();
    }
    if (series.truth) trace("truth", "truth");
    trace("image", "accent");
    context.fillStyle = colour("dots");
    series.scan.values.forEach((value, i) => {
      if (!Number.isNaN(value)) context.fillRect(x(series.scan.distances[i]) - 1.5, y(value) - 1.5, 3, 3);
    });
  }
}
