// Numbers of images: range, percentiles, histogram, profile; and how numbers are shown.

/** Lowest and highest value that is a number; [0, 1] if there is none. */
export function extent(data) {
  let [low, high] = [Infinity, -Infinity];
  for (const value of data) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return low <= high ? [low, high] : [0, 1];
}

/** How many values there are in each of `num` bins of a range. */
export function histogram(data, [low, high], num) {
  const counts = new Float64Array(num);
  const scale = num / (high - low || 1);
  for (const value of data) {
    if (value >= low && value <= high) counts[Math.min(num - 1, ((value - low) * scale) | 0)] += 1;
  }
  return counts;
}

/** Values below which these fractions of all are, to a 4096th of the range. */
export function quantiles(data, fractions) {
  const range = extent(data);
  const counts = histogram(data, range, 4096);
  const total = counts.reduce((a, b) => a + b, 0);
  return fractions.map((fraction) => {
    let [bin, below] = [0, counts[0]];
    while (bin < counts.length - 1 && below < fraction * total) below += counts[bin += 1];
    return range[0] + ((bin + fraction) / counts.length) * (range[1] - range[0]);
  });
}

function bilinear({ data, width, height }, x, y) {
  if (x < -0.5 || y < -0.5 || x > width - 0.5 || y > height - 0.5) return NaN;
  const [cx, cy] = [Math.min(Math.max(x, 0), width - 1), Math.min(Math.max(y, 0), height - 1)];
  const [x0, y0] = [Math.min(cx | 0, Math.max(width - 2, 0)), Math.min(cy | 0, Math.max(height - 2, 0))];
  const [x1, y1] = [Math.min(x0 + 1, width - 1), Math.min(y0 + 1, height - 1)];
  const [fx, fy] = [cx - x0, cy - y0];
  const above = data[y0 * width + x0] * (1 - fx) + data[y0 * width + x1] * fx;
  const below = data[y1 * width + x0] * (1 - fx) + data[y1 * width + x1] * fx;
  return above * (1 - fy) + below * fy;
}

/** The value of the nearest pixel, NaN outside. */
export function nearest({ data, width, height }, x, y) {
  const [column, row] = [Math.round(x), Math.round(y)];
  return column < 0 || row < 0 || column >= width || row >= height ? NaN : data[row * width + column];
}

/**
 * Values along a line [px], about one for each pixel, each the mean of `line.width` px across it.
 * An image with gaps is sampled at its pixels, not between them; where there are none, it is NaN.
 */
export function profile(image, line, { hasGaps = false, isError = false } = {}) {
  const [dx, dy] = [line.x1 - line.x0, line.y1 - line.y0];
  const length = Math.hypot(dx, dy);
  const num = Math.max(2, Math.round(length) + 1);
  const [nx, ny] = length ? [-dy / length, dx / length] : [0, 0];
  const at = hasGaps ? nearest : bilinear;
  const distances = new Float64Array(num), values = new Float64Array(num);
  for (let i = 0; i < num; i += 1) {
    const along = i / (num - 1);
    let [sum, count] = [0, 0];
    for (let k = 0; k < line.width; k += 1) {
      const off = k - (line.width - 1) / 2;
      const value = at(image, line.x0 + along * dx + off * nx, line.y0 + along * dy + off * ny);
      if (!Number.isNaN(value)) {
        sum += isError ? value * value : value;  // errors as root mean squares
        count += 1;
      }
    }
    distances[i] = along * length;
    values[i] = count ? (isError ? Math.sqrt(sum / count) : sum / count) : NaN;
  }
  return { distances, values };
}

/** A number in as few characters as tell it. */
export function short(value, digits = 4) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size && (size < 1e-3 || size >= 1e5)) return value.toExponential(2).replace("-", "−");
  return String(Number(value.toPrecision(digits))).replace("-", "−");
}

/** A size as 1, 2 or 5 times a power of ten, at most `most`. */
export function round125(most) {
  const power = 10 ** Math.floor(Math.log10(most));
  return [5, 2, 1].map((step) => step * power).find((size) => size <= most * (1 + 1e-9)) ?? power;
}

/** A length [nm] in a unit that suits it. */
export function lengthText(nm) {
  if (nm >= 1000) return `${short(nm / 1000, 3)} µm`;
  return nm >= 1 || nm === 0 ? `${short(nm, 3)} nm` : `${short(nm * 1000, 3)} pm`;
}

/** A coverage, as microscopists say it. */
export const coverageText = (coverage) => (coverage >= 0.995 ? "1" : `1/${short(1 / coverage, 3)}`);

/** Places of ticks in a range, about `num`. */
export function ticks(low, high, num) {
  const step = round125(((high - low) / num) * 1.6) || 1;
  const found = [];
  for (let at = Math.ceil(low / step) * step; at <= high + 1e-9 * step; at += step) {
    found.push(Math.abs(at) < step * 1e-9 ? 0 : at);
  }
  return found;
}
