// Panels that show images of one scan, zoomed and panned together.
//
// An image point (x, y) [px] has pixel centres at whole numbers. The view is the image point in the
// middle of each panel, and a zoom that is 1 where an image just fits.

import { ERRORS, GREYS, UNMEASURED, paint } from "./colours.js";
import { lengthText, round125, short } from "./values.js";

const MOST_ZOOM = 64;
const NEAR_DIVIDER = 14;  // [px of the screen]
const LINE = "#ffd54a";
const CURSOR = "#ffffffa0";

class Panel {
  constructor(name, canvas) {
    Object.assign(this, { name, canvas, context: canvas.getContext("2d") });
  }

  /** Fits the canvas to its place; width and height [px of the screen]. */
  measure() {
    const { width, height } = this.canvas.getBoundingClientRect();
    const ratio = window.devicePixelRatio || 1;
    const [w, h] = [Math.round(width * ratio), Math.round(height * ratio)];
    if (this.canvas.width !== w || this.canvas.height !== h) Object.assign(this.canvas, { width: w, height: h });
    this.context.setTransform(ratio, 0, 0, ratio, 0, 0);
    Object.assign(this, { width, height });
  }
}

/**
 * @param canvases by panel: scan, image, error.
 * @param told functions: moved(view), pointed(x, y), drawn(line), divided(share).
 */
export class Viewer {
  constructor(canvases, told) {
    this.told = told;
    this.panels = Object.entries(canvases).map(([name, canvas]) => new Panel(name, canvas));
    this.images = {};
    this.painted = {};
    this.stale = new Set();  // names of images that are to be painted before they are drawn
    this.limits = { images: [0, 1], error: [0, 1] };
    this.compare = { with: "scan", share: 0 };
    this.pixelSizeNm = null;
    this.tool = "pan";
    this.line = null;
    this.cursor = null;
    this.view = { x: 0, y: 0, zoom: 1 };
    this.pointers = new Map();
    const resized = new ResizeObserver(() => this.draw());
    for (const panel of this.panels) {
      resized.observe(panel.canvas);
      this.#listen(panel);
    }
  }

  /** Shows images of one scan: {data, width, height} by name. The view stays if the size does. */
  show(images, pixelSizeNm) {
    const before = this.images.image;
    Object.assign(this, { images, pixelSizeNm, painted: {} });
    this.stale.clear();
    const { width, height } = images.image;
    if (before?.width !== width || before?.height !== height) {
      this.line = null;
      this.fit();
    }
    this.repaint();
  }

  fit() {
    const { width, height } = this.images.image;
    this.#look((width - 1) / 2, (height - 1) / 2, 1);
  }

  /** One image pixel to one of the screen. */
  oneToOne() {
    const panel = this.#shown()[0];
    this.#look(this.view.x, this.view.y, 1 / this.#fitting(panel));
  }

  /** Zooms by a factor, with the image point (x, y) staying where it is. */
  zoomBy(factor, x = this.view.x, y = this.view.y) {
    const zoom = Math.min(Math.max(this.view.zoom * factor, 0.5), MOST_ZOOM);
    const kept = this.view.zoom / zoom;
    this.#look(x + (this.view.x - x) * kept, y + (this.view.y - y) * kept, zoom);
  }

  setLimits(which, limits) {
    this.limits[which] = limits;
    this.repaint(which);
  }

  /** Paints the pixels of all images anew in the next frame, or of those with these limits. */
  repaint(which = null) {
    for (const name of Object.keys(this.images)) {
      if (which === null || which === (name === "error" ? "error" : "images")) this.stale.add(name);
    }
    this.draw();
  }

  #paint(name) {
    this.painted[name] ??= document.createElement("canvas");
    const [limits, colours] = name === "error" ? ["error", ERRORS] : ["images", GREYS];
    paint(this.painted[name], this.images[name], this.limits[limits], colours);
  }

  /** Draws all panels in the next frame. */
  draw() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      if (!this.images.image) return;
      this.stale.forEach((name) => this.#paint(name));
      this.stale.clear();
      this.#shown().forEach((panel) => this.#draw(panel));
    });
  }

  #look(x, y, zoom) {
    const { width, height } = this.images.image;
    const clamp = (value, most) => Math.min(Math.max(value, -0.5), most - 0.5);
    this.view = { x: clamp(x, width), y: clamp(y, height), zoom };
    for (const panel of this.panels) {
      // Where all of an image is seen, a finger moves the page; two zoom in any case.
      panel.canvas.style.touchAction = zoom <= 1 && this.tool === "pan" ? "pan-y" : "none";
    }
    this.told.moved(this.view);
    this.draw();
  }

  setTool(tool) {
    this.tool = tool;
    for (const panel of this.panels) panel.canvas.dataset.tool = tool;
    this.#look(this.view.x, this.view.y, this.view.zoom);
  }

  #shown() {
    for (const panel of this.panels) panel.measure();
    return this.panels.filter((panel) => panel.width > 0);
  }

  /** Screen pixels to an image pixel where an image just fits. */
  #fitting(panel) {
    const { width, height } = this.images.image;
    return Math.min(panel.width / width, panel.height / height);
  }

  #scale = (panel) => this.#fitting(panel) * this.view.zoom;

  #toScreen(panel, x, y) {
    const scale = this.#scale(panel);
    return [panel.width / 2 + (x - this.view.x) * scale, panel.height / 2 + (y - this.view.y) * scale];
  }

  #toImage(panel, event) {
    const box = panel.canvas.getBoundingClientRect();
    const scale = this.#scale(panel);
    return [
      this.view.x + (event.clientX - box.left - panel.width / 2) / scale,
      this.view.y + (event.clientY - box.top - panel.height / 2) / scale,
    ];
  }

  #draw(panel) {
    const { context } = panel;
    context.fillStyle = "#0b1116";
    context.fillRect(0, 0, panel.width, panel.height);
    this.#drawImage(panel, this.painted[panel.name], this.images[panel.name]);
    if (panel.name === "image") this.#drawComparison(panel);
    if (this.line) this.#drawLine(panel);
    if (this.cursor) this.#drawCursor(panel);
    this.#drawScaleBar(panel);
  }

  #drawImage(panel, painted, image) {
    if (!painted || !image) return;
    const { context } = panel;
    const scale = this.#scale(panel);
    const [left, top] = this.#toScreen(panel, -0.5, -0.5);
    context.imageSmoothingEnabled = scale * (window.devicePixelRatio || 1) < 2;
    context.imageSmoothingQuality = "high";
    context.drawImage(painted, left, top, image.width * scale, image.height * scale);
  }

  #drawComparison(panel) {
    const { context } = panel;
    const other = this.compare.with;
    const at = this.compare.share * panel.width;
    if (!at || !this.images[other]) return;
    context.save();
    context.beginPath();
    context.rect(0, 0, at, panel.height);
    context.clip();
    context.fillStyle = `rgb(${UNMEASURED})`;
    context.fillRect(0, 0, at, panel.height);
    this.#drawImage(panel, this.painted[other], this.images[other]);
    context.restore();
    context.fillStyle = LINE;
    context.fillRect(at - 1, 0, 2, panel.height);
    context.beginPath();
    context.arc(at, panel.height / 2, 7, 0, 2 * Math.PI);
    context.fill();
  }

  #drawLine(panel) {
    const { context, line } = { context: panel.context, line: this.line };
    const ends = [this.#toScreen(panel, line.x0, line.y0), this.#toScreen(panel, line.x1, line.y1)];
    const stroke = (colour, width) => {
      context.strokeStyle = colour;
      context.lineWidth = width;
      context.beginPath();
      context.moveTo(...ends[0]);
      context.lineTo(...ends[1]);
      context.stroke();
    };
    if (line.width > 1) stroke("#ffd54a40", line.width * this.#scale(panel));
    stroke("#000000a0", 3.5);
    stroke(LINE, 1.5);
    context.fillStyle = LINE;
    for (const [x, y] of ends) {
      context.beginPath();
      context.arc(x, y, 3, 0, 2 * Math.PI);
      context.fill();
    }
  }

  #drawCursor(panel) {
    const { context } = panel;
    const [x, y] = this.#toScreen(panel, ...this.cursor);
    context.strokeStyle = CURSOR;
    context.lineWidth = 1;
    context.beginPath();
    for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      context.moveTo(x + 4 * dx, y + 4 * dy);
      context.lineTo(x + 11 * dx, y + 11 * dy);
    }
    context.stroke();
  }

  #drawScaleBar(panel) {
    const { context } = panel;
    const perPixel = this.pixelSizeNm ?? 1;
    const size = round125((panel.width / 3.2 / this.#scale(panel)) * perPixel);
    const length = (size / perPixel) * this.#scale(panel);
    const text = this.pixelSizeNm ? lengthText(size) : `${short(size)} px`;
    context.font = "600 12px system-ui, sans-serif";
    const [left, bottom] = [10, panel.height - 10];
    context.fillStyle = "#0b1116b8";
    context.fillRect(left - 5, bottom - 24, Math.max(length, context.measureText(text).width) + 10, 29);
    context.fillStyle = "#fff";
    context.fillRect(left, bottom - 3, length, 3);
    context.fillText(text, left, bottom - 8);
  }

  #listen(panel) {
    const { canvas } = panel;
    canvas.addEventListener("pointerdown", (event) => this.#down(panel, event));
    canvas.addEventListener("pointermove", (event) => this.#move(panel, event));
    for (const end of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(end, (event) => {
        this.pointers.delete(event.pointerId);
        this.drag = null;
      });
    }
    canvas.addEventListener("pointerleave", () => this.#point(null));
    canvas.addEventListener("dblclick", () => this.images.image && this.fit());
    canvas.addEventListener("keydown", (event) => this.#key(panel, event));
    canvas.addEventListener("wheel", (event) => {
      if (!this.images.image) return;
      event.preventDefault();
      const pixels = event.deltaY * [1, 16, 400][event.deltaMode];
      this.zoomBy(Math.exp(-Math.max(-120, Math.min(120, pixels)) / 400), ...this.#toImage(panel, event));
    }, { passive: false });
  }

  #down(panel, event) {
    if (!this.images.image || event.button) return;
    panel.canvas.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, event);
    const [x, y] = this.#toImage(panel, event);
    const off = event.clientX - panel.canvas.getBoundingClientRect().left - this.compare.share * panel.width;
    if (this.pointers.size > 1) this.drag = { kind: "pinch" };
    else if (this.tool === "profile" || event.shiftKey) this.drag = { kind: "line", x, y };
    else if (panel.name === "image" && this.compare.share > 0 && Math.abs(off) < NEAR_DIVIDER) {
      this.drag = { kind: "divider" };
    } else this.drag = { kind: "pan", x, y };
  }

  #move(panel, event) {
    if (!this.images.image) return;
    const before = this.pointers.get(event.pointerId);
    const [x, y] = this.#toImage(panel, event);
    if (!before || !this.drag) return void this.#point([x, y]);
    if (this.drag.kind === "pinch") this.#pinch(panel, before, event);
    else if (this.drag.kind === "line") {
      this.setLine({ x0: this.drag.x, y0: this.drag.y, x1: x, y1: y });
    } else if (this.drag.kind === "divider") {
      const box = panel.canvas.getBoundingClientRect();
      this.divide((event.clientX - box.left) / panel.width);
    } else {
      this.#look(this.view.x + this.drag.x - x, this.view.y + this.drag.y - y, this.view.zoom);
    }
    this.pointers.set(event.pointerId, event);
    return undefined;
  }

  /** Two fingers: their middle stays at its image point. */
  #pinch(panel, before, event) {
    const other = [...this.pointers.values()].find((each) => each.pointerId !== event.pointerId);
    if (!other) return;
    const distance = (a) => Math.hypot(a.clientX - other.clientX, a.clientY - other.clientY);
    const middle = (a) => this.#toImage(panel, {
      clientX: (a.clientX + other.clientX) / 2, clientY: (a.clientY + other.clientY) / 2,
    });
    const [x0, y0] = middle(before);
    const [x1, y1] = middle(event);
    this.#look(this.view.x + x0 - x1, this.view.y + y0 - y1, this.view.zoom);
    if (distance(before)) this.zoomBy(distance(event) / distance(before), x0, y0);
  }

  #key(panel, event) {
    if (!this.images.image || event.ctrlKey || event.metaKey || event.altKey) return;
    const step = (0.1 * panel.width) / this.#scale(panel);
    const pan = (dx, dy) => {
      this.#look(this.view.x + dx * step, this.view.y + dy * step, this.view.zoom);
      this.#point([this.view.x, this.view.y]);
    };
    const keys = {
      ArrowLeft: () => pan(-1, 0), ArrowRight: () => pan(1, 0),
      ArrowUp: () => pan(0, -1), ArrowDown: () => pan(0, 1),
      "+": () => this.zoomBy(1.25), "=": () => this.zoomBy(1.25), "-": () => this.zoomBy(0.8),
      0: () => this.fit(), 1: () => this.oneToOne(),
      "[": () => this.divide(this.compare.share - 0.05), "]": () => this.divide(this.compare.share + 0.05),
    };
    const act = keys[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  }

  #point(place) {
    this.cursor = place;
    this.told.pointed(place);
    this.draw();
  }

  /** Moves the border of the comparison, to a share of the panel's width. */
  divide(share) {
    this.compare.share = Math.min(Math.max(share, 0), 1);
    this.told.divided(this.compare.share);
    this.draw();
  }

  /** Sets the line of the profile [px]; what is left out stays. */
  setLine(line) {
    this.line = { width: 1, ...this.line, ...line };
    this.told.drawn(this.line);
    this.draw();
  }
}
