// Sorts a table by the column whose head is pressed, missing values last; shows the rows that hold every word typed.
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.parentElement, body = head.closest("table").tBodies[0];
    const column = head.cellIndex, up = head.getAttribute("aria-sort") !== "ascending";
    for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const key = row => row.cells[column].dataset.v ?? "";
    const compare = (a, b) => (isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b) * (up ? 1 : -1);
    const rows = [...body.rows].sort((a, b) => (key(a) === "") - (key(b) === "") || compare(key(a), key(b)));
    body.append(...rows);
  });
}
for (const filter of document.querySelectorAll(".filter")) {
  const field = filter.querySelector("input"), count = filter.querySelector("output");
  const rows = [...filter.parentElement.querySelector("table").tBodies[0].rows];
  filter.hidden = false;
  field.addEventListener("input", () => {
    const words = field.value.toLowerCase().split(/\s+/);
    for (const row of rows) row.hidden = !words.every(word => row.textContent.toLowerCase().includes(word));
    const left = rows.filter(row => !row.hidden).length;
    count.textContent = field.value.trim() ? `${left} of ${rows.length} rows` : "";
  });
}
