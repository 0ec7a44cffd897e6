/* Reads the values of a PNG file without drawing it: a browser may alter what a script reads from a canvas (colour
   management, protection against fingerprinting), and the read-out must show the true values. */

/** Unpack a data: address of a PNG whose rows are unfiltered (see reporting/page/png.py). */
async function readPng(address) {
  const bytes = Uint8Array.from(atob(address.split(",")[1]), (letter) => letter.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  const packed = [];
  let colours = null;
  let width, height, depth;
  for (let at = 8; at < bytes.length; at += 12 + view.getUint32(at)) {
    const name = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
    const body = bytes.subarray(at + 8, at + 8 + view.getUint32(at));
    if (name === "IHDR") [width, height, depth] = [view.getUint32(at + 8), view.getUint32(at + 12), body[8]];
    if (name === "PLTE") colours = Array.from({ length: body.length / 3 }, (_, i) => [...body.subarray(3 * i, 3 * i + 3)]);
    if (name === "IDAT") packed.push(body);
  }
  const stream = new Blob(packed).stream().pipeThrough(new DecompressionStream("deflate"));
  const rows = new Uint8Array(await new Response(stream).arrayBuffer());
  return { width, height, colours, values: depth === 16 ? wide(rows, width, height) : narrow(rows, width, height) };
}

/* Each row begins with a byte that names its filter, 0. */
function narrow(rows, width, height) {
  const values = new Uint8Array(width * height);
  for (let row = 0; row < height; row++) {
    values.set(rows.subarray(row * (width + 1) + 1, (row + 1) * (width + 1)), row * width);
  }
  return values;
}

function wide(rows, width, height) {
  const values = new Uint16Array(width * height);
  const view = new DataView(rows.buffer);
  for (let i = 0; i < values.length; i++) {
    values[i] = view.getUint16(Math.floor(i / width) * (2 * width + 1) + 1 + 2 * (i % width));
  }
  return values;
}
