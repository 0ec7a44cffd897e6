/* Makes the page interactive: without this script it has its tables and still maps. */

const find = (id) => document.getElementById(id);

async function startMaps(data) {
  const layers = await readLayers(document.querySelectorAll(".figures figure"));
  const viewer = new Viewer(find("map"), layers, data);
  const colour = () => {
    const colours = document.documentElement.classList.contains("safe") ? data.safe : data.colours;
    for (const name of ["prediction", "truth"]) paint(layers[name], ["#000000", ...colours].map(parts));
  };
  const redraw = () => {
    viewer.draw();
    const keys = [layers[viewer.shown], ...(viewer.other ? [layers[viewer.other]] : [])];
    find("map-key").replaceChildren(...keys.flatMap((layer) => [...layer.key.cloneNode(true).childNodes]));
    find("divider-line").hidden = !viewer.other;
    find("divider-left").textContent = layers[viewer.shown].title;
    find("divider-right").textContent = viewer.other ? layers[viewer.other].title : "";
  };
  const slide = (fraction) => {
    viewer.divider = fraction;
    find("divider").value = Math.round(100 * fraction);
    viewer.draw();
  };
  colour();
  for (const layer of Object.values(layers)) {
    const choice = html("input");
    Object.assign(choice, { type: "radio", name: "layer", value: layer.name, checked: layer.name === viewer.shown });
    choice.addEventListener("change", () => {
      viewer.shown = layer.name;
      redraw();
    });
    find("layers").append(html("label", "", choice, layer.title));
    const option = html("option", "", layer.title);
    option.value = layer.name;
    find("compare").append(option);
  }
  find("compare").addEventListener("change", (event) => {
    viewer.other = event.target.value;
    redraw();
  });
  find("divider").addEventListener("input", (event) => slide(event.target.value / 100));
  find("safe").addEventListener("click", (event) => {
    const safe = document.documentElement.classList.toggle("safe");
    event.currentTarget.setAttribute("aria-pressed", safe);
    colour();
    viewer.draw();
  });
  find("closer").addEventListener("click", () => viewer.zoomBy(1.5));
  find("farther").addEventListener("click", () => viewer.zoomBy(1 / 1.5));
  find("whole").addEventListener("click", () => viewer.showAll());
  startLegend(viewer);
  listen(viewer, () => find("readout").replaceChildren(...readOut(viewer.read(), data.classes)), slide);

  document.documentElement.classList.add("scripted");
  for (const part of document.querySelectorAll("#maps .controls, .viewer")) part.hidden = false;
  redraw();
}

/* The classes become buttons: a class is highlighted while the pointer is on it, or from one click to the next. */
function startLegend(viewer) {
  for (const item of document.querySelectorAll(".legend li")) {
    const label = Number(item.dataset.class);
    const button = html("button", "", ...item.childNodes);
    button.type = "button";
    button.setAttribute("aria-pressed", "false");
    item.append(button);
    const point = (at) => () => {
      viewer.pointed = at;
      viewer.draw();
    };
    button.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && point(label)());
    button.addEventListener("pointerleave", point(0));
    button.addEventListener("click", () => {
      viewer.pinned = viewer.pinned === label ? 0 : label;
      for (const each of document.querySelectorAll(".legend button")) {
        each.setAttribute("aria-pressed", Number(each.parentElement.dataset.class) === viewer.pinned);
      }
      viewer.draw();
    });
  }
}

/** Describe a pixel in words, with the swatches of its classes. */
function readOut(pixel, names) {
  const named = (label, none) => (label ? [html("span", `swatch c${label}`), `${label} ${names[label - 1]}`] : [none]);
  const part = (title, ...words) => html("span", "", `${title} `, html("b", "", ...words), " ");
  const kinds = { "in neither": pixel.truth ? "neither training nor test pixel" : "no label", test: "test pixel" };
  const kind = kinds[pixel.split] ?? `${pixel.split} pixel`;
  const judged = pixel.right === null ? "" : pixel.right ? ", right" : ", wrong";
  return [
    part("Row", pixel.row),
    part("column", pixel.column),
    part("Predicted", ...named(pixel.predicted, "nothing")),
    part("Ground truth", ...named(pixel.truth, "unlabelled")),
    ...(pixel.confidence === null ? [] : [part("Confidence", `${pixel.confidence.toFixed(1)} %`)]),
    ...(pixel.classes ? [part("Prediction set of", pixel.classes, pixel.classes === 1 ? " class" : " classes")] : []),
    html("b", "", kind + judged),
  ];
}

function startCharts({ curves, distance, bins, coverage }) {
  const inPercent = (value) => (value === null ? null : 100 * value);
  const fixed = (digits) => (value) => (value === null ? "none" : value.toFixed(digits));
  const training = { labels: curves.epoch, about: "epoch", label: (epoch) => `Epoch ${epoch}` };
  const total = { name: "total", values: curves.loss };
  const scales = curves.scales.map((values, i) => ({ name: curves.scale_names[i], values }));
  const lines = { loss: scales.length > 1 ? [total, ...scales] : [{ ...total, name: "loss" }] };
  lines.accuracy = [{ name: "training", values: curves.train_accuracy.map(inPercent) }];
  if (curves.val_accuracy.some((value) => value !== null)) {
    lines.accuracy.push({ name: "validation", values: curves.val_accuracy.map(inPercent) });
  }
  const host = find("training-charts");
  const percent = (value) => (value === null ? "none" : `${value.toFixed(2)} %`);
  if (curves.epoch.length) {
    addChart(host, { ...training, title: "Training loss", lines: lines.loss, format: fixed(4) });
    addChart(host, { ...training, title: "Accuracy, %", lines: lines.accuracy, format: percent, top: 100 });
    const rate = [{ name: "learning rate", values: curves.lr }];
    addChart(host, { ...training, title: "Learning rate", lines: rate, format: (value) => value.toExponential(2) });
  }
  if (find("certainty-charts")) startCertainty(find("certainty-charts"), bins, coverage, percent);
  const pixels = distance.reduce((sum, step) => sum + step.n, 0);
  addChart(find("distance-chart"), {
    title: "Accuracy, and fraction of the test pixels, %",
    labels: distance.map((step) => step.label),
    about: "chessboard distance in pixels",
    label: (label) => `${label} away`,
    lines: [{ name: "right", values: distance.map((step) => inPercent(step.accuracy)) }],
    bars: { name: "fraction of the test pixels", values: distance.map((step) => (100 * step.n) / pixels) },
    format: percent,
    top: 100,
  });
}

function startCertainty(host, bins, coverage, format) {
  const pixels = bins.reduce((sum, bin) => sum + bin.n, 0);
  const rounded = (fraction) => Math.round(100 * fraction);
  const from = Object.fromEntries(bins.map((bin) => [rounded(bin.to), rounded(bin.from)]));
  addChart(host, {
    title: "Confidence and accuracy of the test pixels, %",
    labels: bins.map((bin) => rounded(bin.to)),
    about: "confidence up to, %",
    label: (to) => `Confidence ${from[to]} to ${to} %`,
    lines: [
      { name: "right", values: bins.map((bin) => 100 * bin.accuracy) },
      { name: "mean confidence", values: bins.map((bin) => 100 * bin.confidence) },
    ],
    bars: { name: "fraction of the test pixels", values: bins.map((bin) => (100 * bin.n) / pixels) },
    format,
    top: 100,
  });
  addChart(host, {
    title: "Accuracy of the most certain test pixels, %",
    labels: coverage.map((step) => rounded(step.coverage)),
    about: "test pixels that are kept, %",
    label: (kept) => `The most certain ${kept} %`,
    lines: [{ name: "right", values: coverage.map((step) => 100 * step.accuracy) }],
    format,
    top: 100,
  });
}

function start() {
  const data = JSON.parse(find("data").textContent);
  makeSortable(find("classes"));
  if (find("confusion")) { // with very many classes there is a list of pairs in its place
    explainConfusion(find("confusion"), find("pair"), find("counts"), data.classes);
    find("counts").parentElement.hidden = false;
  }
  startMaps(data).catch((error) => console.warn("the still maps are shown:", error)); // for example by a browser from before 2023
  startCharts(data);
}

start();
