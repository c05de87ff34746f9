"use strict";
// Tables sort by click and keyboard; without this script they read as they are.
function sort(table, column) {
  const head = table.tHead.rows[0].cells[column];
  const down = head.getAttribute("aria-sort") === "ascending";
  const rows = [...table.tBodies[0].rows].map((row) => {
    const cell = row.cells[column];
    const number = cell.dataset.value === undefined ? NaN : Number(cell.dataset.value);
    return { row, number, text: cell.textContent.trim() };
  });
  const empty = (one) => Number.isNaN(one.number) && (one.text === "" || one.text === "\u2014");
  rows.sort((a, b) => {
    // What is empty stays last, in either direction.
    if (empty(a) || empty(b)) return empty(a) - empty(b);
    const numbers = !Number.isNaN(a.number) && !Number.isNaN(b.number);
    const order = numbers ? a.number - b.number : a.text.localeCompare(b.text, "en", { numeric: true });
    return down ? -order : order;
  });
  table.tBodies[0].append(...rows.map((one) => one.row));
  for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
  const direction = down ? "descending" : "ascending";
  head.setAttribute("aria-sort", direction);
  document.getElementById("said").textContent = `Sorted by ${head.textContent}, ${direction}`;
}

// A page in a sandbox, as in MLflow's viewer, does not follow links to its own parts.
for (const link of document.querySelectorAll('a[href^="#"]')) {
  link.addEventListener("click", () => document.getElementById(link.hash.slice(1)).scrollIntoView());
}

for (const table of document.querySelectorAll("table")) {
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    head.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => sort(table, column));
  });
}
