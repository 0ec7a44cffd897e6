/* Curves as SVG, with a read-out that follows the pointer or the arrow keys. */

const DASHES = ["", "7 3", "2 3", "9 3 2 3", "4 2"]; // lines differ in more than colour
const EDGE = { left: 52, right: 12, top: 10, bottom: 38 };

/** Make an SVG element with attributes and, if given, text. */
function svg(name, attributes = {}, text = null) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== null) element.textContent = text;
  return element;
}

/** Make an HTML element with a class and children (elements or text). */
function html(name, kind, ...children) {
  const element = document.createElement(name);
  if (kind) element.className = kind;
  element.append(...children);
  return element;
}

/** Choose about `about` ticks in a range, in steps of 1, 2 or 5 times a power of ten. */
function ticks(low, high, about) {
  const rough = (high - low || Math.abs(high) || 1) / about;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((each) => each >= rough * 0.999);
  const first = Math.ceil(low / step - 1e-9);
  const last = Math.floor(high / step + 1e-9);
  return Array.from({ length: last - first + 1 }, (_, i) => (first + i) * step);
}

/**
 * Add a chart to `host`.
 * spec: title; labels, of the points along x; about, the meaning of x; label, text for a point along x; lines, each a
 * name and values (null leaves a gap); bars, one more name and values; format, text for a value; top, of the y axis if
 * it is fixed.
 */
function addChart(host, spec) {
  const count = spec.labels.length;
  const readout = html("p", "chart-readout");
  const plot = html("div", "plot");
  const key = html("p", "key", ...(spec.bars ? [entry(spec.bars.name, null)] : []));
  key.append(...spec.lines.map((line, i) => entry(line.name, i)));
  const several = spec.lines.length > 1 || spec.bars;
  host.append(html("section", "chart", html("h3", "", spec.title), ...(several ? [key] : []), plot, readout));
  const values = spec.lines.flatMap((line) => line.values).filter((value) => value !== null);
  const high = spec.top ?? (Math.max(...values, 0) || 1);
  let at = count - 1; // the point in the read-out
  let toX, toY, bottom, drawn; // of the present drawing

  function draw(wide = plot.clientWidth || 420) {
    const tall = Math.round(Math.min(260, Math.max(190, 0.5 * wide)));
    bottom = tall - EDGE.bottom;
    const inner = { wide: wide - EDGE.left - EDGE.right, tall: tall - EDGE.top - EDGE.bottom };
    const slot = spec.bars ? inner.wide / count : 0; // bars stay between the edges, points reach them
    toX = (i) => EDGE.left + (spec.bars ? (i + 0.5) * slot : count > 1 ? (i * inner.wide) / (count - 1) : inner.wide / 2);
    toY = (value) => EDGE.top + inner.tall * (1 - value / (high * 1.04));
    drawn = svg("svg", { viewBox: `0 0 ${wide} ${tall}`, "aria-hidden": "true" });
    for (const value of ticks(0, high, 5)) {
      drawn.append(svg("line", { class: "grid", x1: EDGE.left, x2: wide - EDGE.right, y1: toY(value), y2: toY(value) }));
      drawn.append(svg("text", { x: EDGE.left - 7, y: toY(value) + 4, "text-anchor": "end" }, tidy(value)));
    }
    spec.bars?.values.forEach((value, i) => {
      const box = { x: toX(i) - 0.38 * slot, y: toY(value), width: 0.76 * slot, height: Math.max(toY(0) - toY(value), 0) };
      drawn.append(svg("rect", { class: "bars", ...box }));
    });
    const named = spec.bars || count < 8 ? spec.labels.map((_, i) => i) : ticks(0, count, 5).map((n) => Math.max(n - 1, 0));
    for (const i of named.filter((each) => each < count && Number.isInteger(each))) {
      drawn.append(svg("text", { x: toX(i), y: tall - EDGE.bottom + 17, "text-anchor": "middle" }, spec.labels[i]));
    }
    const middle = EDGE.left + inner.wide / 2;
    drawn.append(svg("text", { x: middle, y: tall - 5, "text-anchor": "middle" }, spec.about));
    spec.lines.forEach((line, number) => {
      const look = { class: `l${(number % 6) + 1}`, "stroke-dasharray": DASHES[number % DASHES.length] };
      drawn.append(svg("path", { ...look, d: outline(line.values, toX, toY) }));
      if (spec.bars || count === 1) {
        line.values.forEach((value, i) => value !== null && drawn.append(dot(number, toX(i), toY(value))));
      }
    });
    drawn.append(svg("g", { class: "now" }));
    plot.replaceChildren(drawn);
    show(at, false);
  }

  function marks(i) {
    const line = { class: "marker", x1: toX(i), x2: toX(i), y1: EDGE.top, y2: bottom };
    const known = spec.lines.map((each, n) => [n, each.values[i]]).filter(([, value]) => value !== null);
    return [svg("line", line), ...known.map(([n, value]) => dot(n, toX(i), toY(value)))];
  }

  function show(i, marked = true) {
    at = Math.min(Math.max(i, 0), count - 1);
    const all = [...spec.lines, ...(spec.bars ? [spec.bars] : [])];
    const values = all.map((line) => `${line.name} ${spec.format(line.values[at], line)}`);
    readout.textContent = `${spec.label(spec.labels[at])}: ${values.join(" · ")}`;
    plot.setAttribute("aria-valuenow", at + 1);
    plot.setAttribute("aria-valuetext", readout.textContent);
    drawn.querySelector(".now").replaceChildren(...(marked ? marks(at) : []));
  }

  // To a screen reader a chart is a slider along x, whose value is the text of the read-out.
  const slider = { role: "slider", tabindex: 0, "aria-valuemin": 1, "aria-valuemax": count };
  for (const [name, value] of Object.entries(slider)) plot.setAttribute(name, value);
  plot.setAttribute("aria-label", `${spec.title}, ${spec.about}`);
  const nearest = (event) => {
    const x = ((event.clientX - plot.getBoundingClientRect().left) * drawn.viewBox.baseVal.width) / plot.clientWidth;
    const places = spec.labels.map((_, i) => Math.abs(toX(i) - x));
    show(places.indexOf(Math.min(...places)));
  };
  plot.addEventListener("pointermove", nearest);
  plot.addEventListener("pointerdown", nearest);
  plot.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageUp: 10, PageDown: -10 };
    const to = { Home: 0, End: count - 1 }[event.key] ?? (event.key in moves ? at + moves[event.key] : null);
    if (to === null) return;
    event.preventDefault();
    show(to);
  });
  draw();
  addEventListener("beforeprint", () => draw(420)); // a good size on paper
  addEventListener("afterprint", () => draw());
  let drawnFor = plot.clientWidth;
  new ResizeObserver(() => {
    if (plot.clientWidth && plot.clientWidth !== drawnFor) draw();
    drawnFor = plot.clientWidth;
  }).observe(plot);
}

function outline(values, toX, toY) {
  let path = "";
  values.forEach((value, i) => {
    if (value === null) return;
    path += `${i === 0 || values[i - 1] === null ? "M" : "L"}${toX(i).toFixed(1)} ${toY(value).toFixed(1)}`;
  });
  return path;
}

function dot(number, x, y) {
  return svg("circle", { class: `dot l${(number % 6) + 1}`, cx: x, cy: y, r: 3.5 });
}

function entry(name, number) {
  const sample = svg("svg", { width: 26, height: 10, "aria-hidden": "true", class: "sample" });
  if (number === null) sample.append(svg("rect", { class: "bars", width: 26, height: 10 }));
  else {
    const look = { class: `l${(number % 6) + 1}`, "stroke-dasharray": DASHES[number % DASHES.length] };
    sample.append(svg("path", { ...look, d: "M0 5H26" }));
  }
  return html("span", "entry", sample, ` ${name}`);
}

function tidy(value) {
  if (value !== 0 && Math.abs(value) < 0.001) return value.toExponential(0);
  return String(Number(value.toPrecision(6)));
}
