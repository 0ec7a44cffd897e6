/* The map on the screen: its layer, its zoom, the pixel that is read, and the class that is highlighted. */

const MOST = 48; // screen pixels per pixel of the scene, at most
const OF_TRUTH = new Set(["truth", "errors", "split"]); // layers on which a class is that of the ground truth

class Viewer {
  constructor(canvas, layers, data) {
    Object.assign(this, { canvas, layers, data });
    ({ width: this.columns, height: this.rows } = layers.prediction.canvas);
    this.shown = "prediction";
    this.other = ""; // layer to the right of the divider
    this.divider = 0.5; // fraction of the width
    this.cursor = null; // [row, column] of the read-out
    this.pinned = this.pointed = 0; // highlighted class: by a click, and by the pointer
    this.zoom = 1; // 1 shows the whole scene
    this.centre = [this.columns / 2, this.rows / 2];
    this.veils = {};
    new ResizeObserver(() => this.draw()).observe(canvas.parentElement);
  }

  /** Fit the canvas to its place, and compute the screen pixels per pixel of the scene. */
  measure() {
    this.wide = this.canvas.parentElement.clientWidth;
    const tall = (this.wide * this.rows) / this.columns;
    this.tall = Math.round(Math.min(tall, Math.max(360, 0.85 * innerHeight)));
    const dense = devicePixelRatio;
    if (this.canvas.width !== Math.round(this.wide * dense) || this.canvas.height !== Math.round(this.tall * dense)) {
      this.canvas.width = Math.round(this.wide * dense);
      this.canvas.height = Math.round(this.tall * dense);
      this.canvas.style.height = `${this.tall}px`;
    }
    this.fit = Math.min(this.wide / this.columns, this.tall / this.rows);
    this.scale = this.fit * this.zoom;
    this.centre = [
      this.within(this.centre[0], this.columns, this.wide),
      this.within(this.centre[1], this.rows, this.tall),
    ];
    this.left = Math.round(this.wide / 2 - this.centre[0] * this.scale);
    this.top = Math.round(this.tall / 2 - this.centre[1] * this.scale);
  }

  /* A scene that is larger than its place fills it; a smaller one is centred. */
  within(centre, size, place) {
    const half = place / 2 / this.scale;
    return half >= size / 2 ? size / 2 : Math.min(Math.max(centre, half), size - half);
  }

  draw() {
    this.measure();
    if (!this.wide) return; // on paper, which shows the still maps instead
    const context = this.canvas.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    const dense = devicePixelRatio;
    context.scale(dense, dense);
    context.imageSmoothingEnabled = this.scale * dense < 1; // enlarged pixels stay sharp
    const at = this.other ? Math.round(this.divider * this.wide) : this.wide;
    this.drawLayer(context, this.shown, 0, at);
    if (this.other) {
      this.drawLayer(context, this.other, at, this.wide);
      context.fillStyle = "#000";
      context.fillRect(at - 2, 0, 4, this.tall);
      context.fillStyle = "#fff";
      context.fillRect(at - 1, 0, 2, this.tall);
    }
    if (this.cursor) this.drawCursor(context);
    this.canvas.classList.toggle("near", this.zoom > 1); // then touch pans the map instead of the page
  }

  drawLayer(context, name, from, to) {
    context.save();
    context.beginPath();
    context.rect(from, 0, to - from, this.tall);
    context.clip();
    const place = [this.left, this.top, this.columns * this.scale, this.rows * this.scale];
    context.drawImage(this.layers[name].canvas, ...place);
    const wanted = this.pointed || this.pinned;
    if (wanted) context.drawImage(this.veil(OF_TRUTH.has(name) ? "truth" : "prediction", wanted), ...place);
    context.restore();
  }

  veil(of, wanted) {
    if (this.veils.wanted !== wanted) this.veils = { wanted };
    return (this.veils[of] ??= veil(this.layers[of], wanted));
  }

  drawCursor(context) {
    const [row, column] = this.cursor;
    const side = Math.max(this.scale, 3);
    const [x, y] = [this.left + (column + 0.5) * this.scale - side / 2, this.top + (row + 0.5) * this.scale - side / 2];
    for (const [colour, out] of [["#fff", 2.5], ["#000", 1]]) {
      context.strokeStyle = colour;
      context.lineWidth = out === 1 ? 1.5 : 2;
      context.strokeRect(x - out, y - out, side + 2 * out, side + 2 * out);
    }
  }

  /** Return the pixel of the scene at a place on the canvas, or null outside the scene. */
  pixelAt(x, y) {
    const row = Math.floor((y - this.top) / this.scale);
    const column = Math.floor((x - this.left) / this.scale);
    return row >= 0 && row < this.rows && column >= 0 && column < this.columns ? [row, column] : null;
  }

  /** Zoom by a factor around a place on the canvas, which keeps its position. */
  zoomBy(factor, x = this.wide / 2, y = this.tall / 2) {
    const before = this.scale;
    this.zoom = Math.min(Math.max(this.zoom * factor, 1), Math.max(1, MOST / this.fit));
    const after = this.fit * this.zoom;
    const stays = (centre, offset) => centre + offset / before - offset / after;
    this.centre = [stays(this.centre[0], x - this.wide / 2), stays(this.centre[1], y - this.tall / 2)];
    this.draw();
  }

  panBy(x, y) {
    this.centre = [this.centre[0] - x / this.scale, this.centre[1] - y / this.scale];
    this.draw();
  }

  showAll() {
    this.zoom = 1;
    this.draw();
  }

  /** Move the pixel that is read; the map follows if it would leave the view. */
  moveTo(row, column) {
    this.cursor = [Math.min(Math.max(row, 0), this.rows - 1), Math.min(Math.max(column, 0), this.columns - 1)];
    const x = this.left + (this.cursor[1] + 0.5) * this.scale;
    const y = this.top + (this.cursor[0] + 0.5) * this.scale;
    if (x < 0 || x > this.wide || y < 0 || y > this.tall) this.centre = [this.cursor[1] + 0.5, this.cursor[0] + 0.5];
    this.draw();
  }

  /** Return all values of the pixel that is read. */
  read() {
    const [row, column] = this.cursor;
    const value = (name) => this.layers[name].values[row * this.columns + column];
    const confidence = value("confidence") ? (100 * (value("confidence") - 1)) / this.data.steps : null;
    return {
      row,
      column,
      predicted: value("prediction"),
      truth: value("truth"),
      confidence,
      split: this.data.split[value("split")],
      classes: this.layers.set_size ? value("set_size") : 0,
      right: [null, true, false][value("errors")],
    };
  }
}
