// Colour maps: greys for images; magma, which is perceptually uniform, for errors.

// matplotlib's magma (CC0) at 33 places; between them linear, at most 2.3/255 off.
const MAGMA =
  "0000040303120a0822130d341d114729115a36106b440f7651127c5d177f6a1c81762181832681902a819c2e7f" +
  "aa337db73779c43c75d0416fdc4869e75263ef5d5ef56b5cf9795dfc8961fd9869fea772feb67cfec488fed395" +
  "fde2a3fcf0b2fcfdbf";

/** Colour of pixels that were not measured: no grey, and no colour of an error. */
export const UNMEASURED = [22, 38, 52];

const packed = (r, g, b) => (255 << 24) | (b << 16) | (g << 8) | r;  // as ImageData has it

export const GREYS = Uint32Array.from({ length: 256 }, (_, i) => packed(i, i, i));

export const ERRORS = Uint32Array.from({ length: 256 }, (_, i) => {
  const place = (i / 255) * (MAGMA.length / 6 - 1);
  const first = Math.min(Math.floor(place), MAGMA.length / 6 - 2);
  const part = (node, c) => parseInt(MAGMA.slice(6 * node + 2 * c, 6 * node + 2 * c + 2), 16);
  const mixed = (c) => Math.round(part(first, c) + (place - first) * (part(first + 1, c) - part(first, c)));
  return packed(mixed(0), mixed(1), mixed(2));
});

/** Draws values into a canvas of their size, from black at `low` to white at `high`. */
export function paint(canvas, { data, width, height }, [low, high], colours) {
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(width, height);
  const out = new Uint32Array(pixels.data.buffer);
  const unmeasured = packed(...UNMEASURED);
  const scale = 255 / (high - low || 1);
  for (let i = 0; i < out.length; i += 1) {
    const level = (data[i] - low) * scale;
    // Not a number compares as false with everything.
    out[i] = level >= 255 ? colours[255] : level >= 0 ? colours[level | 0] : level < 0 ? colours[0] : unmeasured;
  }
  context.putImageData(pixels, 0, 0);
}

/** Draws a colour bar. */
export function paintRamp(canvas, colours) {
  const data = Float32Array.from({ length: 256 }, (_, i) => i);
  paint(canvas, { data, width: 256, height: 1 }, [0, 255], colours);
}
