/* The tables: sorted by clicking on a heading, and the confusion matrix explained cell by cell. */

/** Give each heading a button that sorts the rows; cells that are not numbers come last. */
function makeSortable(table) {
  const body = table.tBodies[0];
  for (const head of table.tHead.rows[0].querySelectorAll("th")) {
    const button = html("button", "", ...head.childNodes);
    button.type = "button";
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const each of head.parentElement.cells) each.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...body.rows].map((row) => [sortKey(row.cells[head.cellIndex]), row]);
      rows.sort(([a], [b]) => compare(a, b, down ? -1 : 1));
      body.append(...rows.map(([, row]) => row));
    });
  }
}

function sortKey(cell) {
  const text = cell.textContent;
  if (cell.tagName === "TH") return text;
  const number = parseFloat(text.replaceAll(",", ""));
  return Number.isNaN(number) ? null : number;
}

function compare(a, b, sign) {
  if (a === null || b === null) return (a === null) - (b === null);
  return sign * (typeof a === "string" ? a.localeCompare(b) : a - b);
}

/** Show both classes of the cell under the pointer; switch between per cent of the row and pixels. */
function explainConfusion(table, readout, button, names) {
  const explain = (event) => {
    const cell = event.target.closest("tbody td");
    if (!cell) return;
    const [row, column] = [cell.parentElement.rowIndex - 1, cell.cellIndex - 1];
    const count = Number(cell.querySelector(".n")?.textContent ?? 0);
    const percent = cell.querySelector(".p")?.textContent;
    const of = percent ? ` (${percent} % of the class)` : "";
    const end = row === column ? "predicted as such" : `predicted as ${column + 1} ${names[column]}`;
    const pixels = count === 1 ? "pixel" : "pixels";
    readout.textContent = `${count.toLocaleString("en")} test ${pixels} of ${row + 1} ${names[row]}${of}, ${end}`;
  };
  table.addEventListener("pointerover", explain);
  table.addEventListener("click", explain);
  button.addEventListener("click", () => {
    const counts = table.classList.toggle("counts");
    button.setAttribute("aria-pressed", counts);
    table.closest("section").querySelector(".per-cent").textContent =
      `Cells are ${counts ? "pixels" : "per cent of the row"}.`;
  });
}
