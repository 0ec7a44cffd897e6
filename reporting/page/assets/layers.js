/* The maps as canvases with one pixel per pixel of the scene; the viewer and the printed page draw from them. */

/** Read the pictures of the figures; returns the layers by name: title, values, colours, canvas, key. */
async function readLayers(figures) {
  const layers = {};
  for (const figure of figures) {
    const picture = figure.querySelector("img");
    const canvas = document.createElement("canvas");
    const layer = { name: figure.dataset.layer, canvas, figure, title: figure.querySelector("b").textContent };
    layer.key = figure.querySelector(".key");
    for (const side of ["width", "height"]) canvas[side] = Number(picture.getAttribute(side));
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", picture.alt);
    if (layer.name === "false_colour") {
      await picture.decode();
      canvas.getContext("2d").drawImage(picture, 0, 0);
    } else {
      Object.assign(layer, await readPng(picture.src));
      if (layer.colours) paint(layer, layer.colours);
    }
    layers[layer.name] = layer;
  }
  // Only after all were read: a browser that cannot read them keeps the still pictures.
  for (const layer of Object.values(layers)) layer.figure.querySelector("img").replaceWith(layer.canvas);
  return layers;
}

/** Colour a layer's canvas: colours[v] is [red, green, blue] of value v. */
function paint(layer, colours) {
  const context = layer.canvas.getContext("2d");
  const image = context.createImageData(layer.canvas.width, layer.canvas.height);
  const table = Uint32Array.from(colours, ([red, green, blue]) => (255 << 24) | (blue << 16) | (green << 8) | red);
  const pixels = new Uint32Array(image.data.buffer);
  layer.values.forEach((value, i) => (pixels[i] = table[value]));
  context.putImageData(image, 0, 0);
}

/** Make a canvas that fades every pixel outside a class into the page. */
function veil(layer, wanted) {
  const faded = matchMedia("(prefers-color-scheme: dark)").matches ? 0xdc1c1815 : 0xdcf5f5f5;
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [layer.canvas.width, layer.canvas.height];
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  const pixels = new Uint32Array(image.data.buffer);
  layer.values.forEach((value, i) => (pixels[i] = value === wanted ? 0 : faded));
  context.putImageData(image, 0, 0);
  return canvas;
}

/** Split "#rrggbb" into [red, green, blue]. */
function parts(colour) {
  return [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));
}
