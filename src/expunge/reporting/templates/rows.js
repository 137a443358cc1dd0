"use strict";
// Sorts and filters the table of rows. Without this the table is whole, the worst rows first.
(() => {
  const table = document.getElementById("row-table");
  if (!table) return;
  const [form, status, more] = ["row-filters", "row-status", "row-more"].map((id) => document.getElementById(id));
  const body = table.tBodies[0];
  const rows = Array.from(body.rows);
  const names = rows.map((row) => row.cells[0].textContent.toLowerCase());
  const severity = Array.from(form.elements.verdict.options, (option) => option.value);
  const collator = new Intl.Collator("en", { numeric: true });
  const heads = Array.from(table.tHead.querySelectorAll("th[data-column]"));
  const keys = new Map();
  const FEW = 250; // laying out thousands of rows takes seconds
  let places = Array.from(rows.keys()); // in the order asked for
  let most = FEW;
  let sorted = "the worst first";

  const said = (cell) => cell.firstChild ? cell.firstChild.textContent.trim() : "";
  const number = (text) => /^[-+]?[\d.]/.test(text) ? parseFloat(text.replace(/,/g, "")) : null;
  const key = {
    text: (row, column) => said(row.cells[column]),
    number: (row, column) => number(said(row.cells[column])),
    verdict: (row) => severity.indexOf(row.dataset.verdict),
  };

  // What was not measured stands last either way; ties stay in the order of the page.
  function order(column, kind, sign) {
    if (!keys.has(column)) keys.set(column, rows.map((row) => key[kind](row, column)));
    const found = keys.get(column);
    const compare = kind === "text" ? collator.compare : (one, other) => one - other;
    return (one, other) => {
      const [left, right] = [found[one], found[other]];
      if (left === null || right === null) return (left === null) - (right === null) || one - other;
      return sign * compare(left, right) || one - other;
    };
  }

  function sort(head) {
    const next = { none: "ascending", ascending: "descending", descending: "none" };
    const way = next[head.getAttribute("aria-sort") || "none"];
    for (const other of heads) other.removeAttribute("aria-sort");
    places = Array.from(rows.keys());
    sorted = "the worst first";
    if (way !== "none") {
      head.setAttribute("aria-sort", way);
      places.sort(order(Number(head.dataset.column), head.dataset.kind, way === "descending" ? -1 : 1));
      sorted = `sorted by ${head.dataset.name}, ${way}`;
    }
    show();
  }

  function show() {
    const { verdict, role, text } = form.elements;
    const words = text.value.trim().toLowerCase();
    const fitting = places.filter((place) => (!verdict.value || rows[place].dataset.verdict === verdict.value)
      && (!role.value || rows[place].dataset.role === role.value) && names[place].includes(words));
    const shown = fitting.slice(0, most);
    body.replaceChildren(...shown.map((place) => rows[place]));
    more.hidden = shown.length === fitting.length;
    more.textContent = `Show all ${fitting.length}`;
    const first = shown.length < fitting.length ? `the first ${shown.length} of ` : "";
    const fit = fitting.length < rows.length ? ` that fit, of ${rows.length}` : "";
    status.textContent = `Showing ${first}${fitting.length} rows${fit}; ${sorted}.`;
  }

  function all() {
    most = Infinity;
    show();
  }

  for (const head of heads) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    button.addEventListener("click", () => sort(head));
    head.append(button);
  }
  form.addEventListener("input", show);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.elements.clear.addEventListener("click", () => { form.reset(); show(); });
  more.addEventListener("click", () => { all(); status.focus(); });
  addEventListener("beforeprint", all);
  form.hidden = false;
  show();
})();
