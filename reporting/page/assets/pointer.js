/* Mouse, touch and keys on the map. */

const ARROWS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
const STILL = 5; // screen pixels that a press may move and still be a tap

/** Make the viewer interactive; `read` is called when another pixel is read, `slid` when the divider was moved. */
function listen(viewer, read, slid) {
  const { canvas } = viewer;
  const held = new Map(); // position of each pointer that is down
  let gesture = null; // "tap" until it moves, then "pan"; "slide"; "pinch"

  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  const readAt = (x, y) => {
    const pixel = viewer.pixelAt(x, y);
    if (pixel && String(pixel) !== String(viewer.cursor)) {
      viewer.moveTo(...pixel);
      read();
    }
  };
  const spread = () => {
    const [[x1, y1], [x2, y2]] = held.values();
    return [Math.hypot(x1 - x2, y1 - y2), (x1 + x2) / 2, (y1 + y2) / 2];
  };

  canvas.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    const [x, y] = place(event);
    held.set(event.pointerId, [x, y]);
    canvas.setPointerCapture(event.pointerId);
    const near = viewer.other && Math.abs(x - viewer.divider * viewer.wide) < 14;
    gesture = held.size === 2 ? "pinch" : near ? "slide" : "tap";
  });

  canvas.addEventListener("pointermove", (event) => {
    const [x, y] = place(event);
    const before = held.get(event.pointerId);
    if (!before) return event.pointerType === "mouse" && readAt(x, y);
    if (gesture === "tap" && Math.hypot(x - before[0], y - before[1]) < STILL) return;
    if (gesture === "tap") gesture = "pan";
    if (gesture === "pinch" && held.size === 2) {
      const [apart] = spread();
      held.set(event.pointerId, [x, y]);
      const [now, middleX, middleY] = spread();
      viewer.zoomBy(now / Math.max(apart, 1), middleX, middleY);
      return;
    }
    held.set(event.pointerId, [x, y]);
    if (gesture === "slide") slid(Math.min(Math.max(x / viewer.wide, 0), 1));
    if (gesture === "pan") viewer.panBy(x - before[0], y - before[1]);
  });

  const release = (event) => {
    if (event.type === "pointerup" && gesture === "tap" && held.has(event.pointerId)) readAt(...place(event));
    held.delete(event.pointerId);
    if (!held.size) gesture = null;
    else if (gesture === "pinch") gesture = "pan";
  };
  canvas.addEventListener("pointerup", release);
  canvas.addEventListener("pointercancel", release);

  canvas.addEventListener(
    "wheel",
    (event) => {
      if (!event.ctrlKey && !event.metaKey) return; // else the page scrolls
      event.preventDefault();
      viewer.zoomBy(2 ** (-event.deltaY / 200), ...place(event));
    },
    { passive: false },
  );

  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const step = ARROWS[event.key];
    if (step) {
      const far = event.shiftKey ? 10 : 1;
      const [row, column] = viewer.cursor ?? [Math.floor(viewer.rows / 2), Math.floor(viewer.columns / 2)];
      viewer.moveTo(...(viewer.cursor ? [row + far * step[0], column + far * step[1]] : [row, column]));
      read();
    } else if (event.key === "+" || event.key === "=") viewer.zoomBy(1.5, ...cursorPlace());
    else if (event.key === "-") viewer.zoomBy(1 / 1.5, ...cursorPlace());
    else if (event.key === "0") viewer.showAll();
    else return;
    event.preventDefault();
  });

  function cursorPlace() {
    if (!viewer.cursor) return [];
    const [row, column] = viewer.cursor;
    return [viewer.left + (column + 0.5) * viewer.scale, viewer.top + (row + 0.5) * viewer.scale];
  }
}
