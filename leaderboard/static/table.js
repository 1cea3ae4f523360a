"use strict";
// The ranking: sorted by any column, filtered, with the ranks of any metric. Without it, a table.
(() => {
  const { el, byId } = kardiabench;
  const table = byId("table");
  if (!table) return;
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const rows = [...body.rows];
  const rankBy = byId("rank-by");
  const metricColumn = (metric) => heads.findIndex((head) => head.dataset.metric === metric);

  function valueOf(row, column) {
    const cell = row.cells[column];
    const kind = heads[column].dataset.sort;
    if (kind === "text") return cell.querySelector("bdi").textContent;
    if (kind === "rank") return rankOf(row.cells[metricColumn(rankBy.value)]);
    return cell.dataset.v === undefined ? null : Number(cell.dataset.v);
  }

  const rankOf = (cell) => (cell.dataset.r ? Number(cell.dataset.r.replace("=", "")) : null);

  // What is missing stands last, whichever way the others go.
  function compare(a, b, direction) {
    if (a === null || b === null) return (a === null) - (b === null);
    if (typeof a === "string") return direction * a.localeCompare(b);
    return direction * (a - b);
  }

  // Equals keep the order that they have.
  function sort(column, direction) {
    const keyed = [...body.rows].map((row) => [valueOf(row, column), row]);
    keyed.sort((a, b) => compare(a[0], b[0], direction));
    body.append(...keyed.map(([, row]) => row));
    for (const head of heads) head.removeAttribute("aria-sort");
    heads[column].setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
  }

  // The first click shows the best first, the next one turns the order.
  function clicked(column) {
    const kind = heads[column].dataset.sort;
    const first = kind === "-1" ? -1 : 1;
    const now = heads[column].getAttribute("aria-sort");
    const direction = now === (first > 0 ? "ascending" : "descending") ? -first : first;
    if (kind === "rank") sort(metricColumn(rankBy.value), -direction); // within a shared rank
    sort(column, direction);
  }

  function showRanks() {
    const column = metricColumn(rankBy.value);
    for (const row of rows) {
      const { r, s } = row.cells[column].dataset;
      row.cells[0].replaceChildren(...(r ? [el("b", {}, r), " ", el("small", {}, s || "")] : ["—"]));
    }
    byId("ranked-by").textContent = rankBy.selectedOptions[0].textContent;
    sort(column, -1);
  }

  function filter() {
    const words = byId("filter").value.trim().toLowerCase();
    const floors = byId("floors").checked;
    let shown = 0;
    for (const row of rows) {
      const named = valueOf(row, 1).toLowerCase().includes(words);
      row.hidden = !named || (!floors && row.classList.contains("floor"));
      shown += row.hidden ? 0 : 1;
    }
    byId("shown").textContent = shown === rows.length ? "" : `${shown} of ${rows.length} runs shown`;
  }

  function show(column, shown) {
    for (const row of [table.tHead.rows[0], ...rows]) row.cells[column].hidden = !shown;
  }

  const boxes = () => [...byId("columns").querySelectorAll("input")];

  // As the page came: order, ranks, filter, floors, columns.
  function reset() {
    byId("controls").reset();
    for (const box of boxes()) show(Number(box.value), box.checked);
    body.append(...rows);
    showRanks();
    filter();
    hint();
  }

  // How many columns are cut off or hidden at the right edge of the table's frame.
  function hint() {
    const frame = table.parentElement;
    const edge = frame.getBoundingClientRect().left + frame.clientWidth;
    const beyond = heads.filter((head) => !head.hidden && head.getBoundingClientRect().right > edge + 1).length;
    byId("beyond").textContent = beyond ? `${beyond} more column${beyond === 1 ? "" : "s"} to the right →` : "";
  }

  function makeSortable(head, column) {
    const words = [...head.childNodes].filter((node) => node.nodeType === Node.TEXT_NODE);
    const label = words.map((node) => node.textContent).join(" ").trim();
    for (const node of words) node.remove();
    head.dataset.label = label; // for paper, where there are no buttons
    head.prepend(el("button", { type: "button", class: "sort", click: () => clicked(column) }, label));
    return label;
  }

  function addColumnBox(label, column) {
    const box = el("input", { type: "checkbox", checked: true, value: String(column), autocomplete: "off" });
    box.addEventListener("change", () => { show(column, box.checked); hint(); });
    byId("columns").append(el("label", {}, box, ` ${label}`));
  }

  heads.forEach((head, column) => {
    const label = makeSortable(head, column);
    if (column > 1) addColumnBox(label, column);
  });
  rankBy.addEventListener("change", showRanks);
  byId("filter").addEventListener("input", filter);
  byId("floors").addEventListener("change", filter);
  byId("as-at-first").addEventListener("click", reset);
  byId("controls").addEventListener("submit", (event) => event.preventDefault());
  if (rankBy.value !== rankBy.querySelector("[selected]").value) showRanks();
  table.parentElement.addEventListener("scroll", hint, { passive: true });
  new ResizeObserver(hint).observe(table.parentElement);
})();
