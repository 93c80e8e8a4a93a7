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
    filter();
  };

  // In a narrow window a page of a thousand scenes has no end: the first ones, and the rest on demand.
  let most = matchMedia("(max-width: 720px)").matches ? 30 : Infinity;
  const all = document.getElementById("all-scenes");

  const filter = () => {
    const text = find.value.trim().toLowerCase();
    let shown = 0;
    for (const row of table.tBodies[0].rows) {
      const fits = (!odd.checked || row.className === "odd") && row.cells[1].textContent.toLowerCase().includes(text);
      shown += fits;
      row.hidden = !fits || shown > most;
    }
    all.hidden = shown <= most;
    all.textContent = `Show all ${shown.toLocaleString("en")} scenes`;
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
    const large = document.getElementById("large");
    table.addEventListener("click", (event) => {
      const zoom = event.target.closest(".zoom");
      if (!zoom) return;
      large.querySelector("p").textContent = zoom.closest("tr").cells[1].dataset.v;
      large.querySelector("div").replaceChildren(...[...zoom.querySelectorAll("img")].map((one) => one.cloneNode()));
      large.showModal();
    });
    large.addEventListener("click", (event) => event.target === large && large.close());
    all.addEventListener("click", () => { most = Infinity; filter(); });
    filter();
    find.addEventListener("input", filter);
    odd.addEventListener("change", filter);
    addEventListener("hashchange", () => {
      const target = rows.find((row) => `#${row.id}` === location.hash);
      if (target?.hidden) { most = Infinity; find.value = ""; odd.checked = false; filter(); target.scrollIntoView(); }
    });
  }
}
