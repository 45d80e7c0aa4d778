// NumPy's files: an NPZ is a ZIP of NPY files, which the service stores without compression.

const END = 0x06054b50, ENTRY = 0x02014b50, LOCAL = 0x04034b50;

/** The files of an uncompressed ZIP: bytes by name. */
export function readZip(buffer) {
  const view = new DataView(buffer);
  let end = buffer.byteLength - 22;
  while (end >= 0 && view.getUint32(end, true) !== END) end -= 1;
  if (end < 0) throw new Error("expected an NPZ file, found something else, or a part of one");
  const files = new Map();
  let at = view.getUint32(end + 16, true);
  for (let left = view.getUint16(end + 10, true); left; left -= 1) {
    const [method, size] = [view.getUint16(at + 10, true), view.getUint32(at + 24, true)];
    const [nameLength, extra, comment] = [28, 30, 32].map((o) => view.getUint16(at + o, true));
    const local = view.getUint32(at + 42, true);
    const isPlain = view.getUint32(at, true) === ENTRY && view.getUint32(local, true) === LOCAL;
    if (!isPlain || method !== 0 || size === 0xffffffff) {
      throw new Error("expected an uncompressed NPZ file below 4 GB, found another one");
    }
    const name = new TextDecoder().decode(new Uint8Array(buffer, at + 46, nameLength));
    const begin = local + 30 + view.getUint16(local + 26, true) + view.getUint16(local + 28, true);
    files.set(name, new Uint8Array(buffer, begin, size));
    at += 46 + nameLength + extra + comment;
  }
  return files;
}

const TYPES = {
  "<f4": Float32Array, "<f8": Float64Array, "|u1": Uint8Array, "|b1": Uint8Array,
  "<u2": Uint16Array, "<i4": Int32Array,
};

/** The array of an NPY file, in C order: {shape, data}. */
export function readNpy(bytes) {
  if (String.fromCharCode(...bytes.subarray(1, 6)) !== "NUMPY") {
    throw new Error("expected an NPY file, found something else");
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const [length, begin] = bytes[6] === 1 ? [view.getUint16(8, true), 10] : [view.getUint32(8, true), 12];
  const header = new TextDecoder().decode(bytes.subarray(begin, begin + length));
  const type = TYPES[/'descr': '([^']+)'/.exec(header)?.[1]];
  const shape = /'shape': \(([^)]*)\)/.exec(header)?.[1];
  if (!type || shape === undefined || !/'fortran_order': False/.test(header)) {
    throw new Error(`expected float32 or float64 in C order, found ${header.trim()}`);
  }
  const sides = shape.split(",").filter((each) => each.trim()).map(Number);
  const data = new type(bytes.slice(begin + length).buffer);  // a copy, as its place is odd
  if (data.length !== sides.reduce((a, b) => a * b, 1)) {
    throw new Error("expected a whole NPY file, found a part of one");
  }
  return { shape: sides, data };
}

/** All arrays of an NPZ file, and the files they came from: {arrays, files}, both by name. */
export function readNpz(buffer) {
  const files = new Map();
  const arrays = new Map();
  for (const [file, bytes] of readZip(buffer)) {
    const name = file.replace(/\.npy$/, "");
    files.set(name, bytes);
    arrays.set(name, readNpy(bytes));
  }
  return { arrays, files };
}
