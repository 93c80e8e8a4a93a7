"use strict";
{
  const table = document.getElementById("table");
  const find = document.getElementById("find");
  const odd = document.getElementById("odd");
  const rows = table ? [...table.tBodies[0].rows] : [];

  // By the value a cell carries; those without one come last, whichever way.
  const sort = (column, kind, sign) => {
    const value = (row) => row.cells[column].dataset.v;
    const compare = kind === "number" ? (a, b) => a - b : (a, b) => (a < b ? -1 : a > b ? 1 : 0);
    const sorted = [...rows].sort((one, other) => {
      const [a, b] = [value(one), value(other)];
      if (a === undefined || b === undefined) return (a === undefined) - (b === undefined);
      return sign * compare(a, b);
    });
    table.tBodies[0].append(...sorted);
  };

  const filter = () => {
    const text = find.value.trim().toLowerCase();
    let shown = 0;
    for (const row of rows) {
      row.hidden = (odd.checked && row.className !== "odd") || !row.cells[1].textContent.toLowerCase().includes(text);
      shown += !row.hidden;
    }
    const some = shown === rows.length ? "" : `${shown.toLocaleString("en")} of `;
    document.getElementById("shown").textContent = `${some}${rows.length.toLocaleString("en")} scene${rows.length === 1 ? "" : "s"}`;
  };

  if (table) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = head.querySelector("button");
      button?.addEventListener("click", () => {
        // Figures begin with the largest, names with the first.
        const up = head.ariaSort === "none" ? button.dataset.kind === "text" : head.ariaSort === "descending";
        heads.forEach((other) => other.querySelector("button") && (other.ariaSort = "none"));
        head.ariaSort = up ? "ascending" : "descending";
        sort(column, button.dataset.kind, up ? 1 : -1);
      });
    });
    find.addEventListener("input", filter);
    odd.addEventListener("change", filter);
    addEventListener("hashchange", () => {
      const target = rows.find((row) => `#${row.id}` === location.hash);
      if (target?.hidden) { find.value = ""; odd.checked = false; filter(); target.scrollIntoView(); }
    });
  }
}
