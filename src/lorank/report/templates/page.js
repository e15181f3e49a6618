"use strict";
(() => {
  const table = document.getElementById("rows");
  if (table) {
    const body = table.tBodies[0];
    const rows = [...body.rows];
    const heads = [...table.tHead.rows[0].cells];
    const words = new Intl.Collator("en", { numeric: true, sensitivity: "base" });

    const keyOf = (row, column) => row.cells[column].dataset.key;
    const compare = (column, numbers, sign) => (a, b) => {
      const [x, y] = [keyOf(a, column), keyOf(b, column)];
      if (x === "" || y === "") return (x === "") - (y === ""); // what is missing stands last
      return sign * (numbers ? Number(x) - Number(y) : words.compare(x, y));
    };
    const sort = (column) => {
      const head = heads[column];
      const falling = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", falling ? "descending" : "ascending");
      const order = compare(column, head.classList.contains("n"), falling ? -1 : 1);
      body.append(...[...rows].sort(order)); // stable, from the network's own order
    };
    heads.forEach((head, column) =>
      head.querySelector("button").addEventListener("click", () => sort(column)),
    );

    const filter = document.getElementById("filter");
    const state = document.getElementById("state");
    const count = document.getElementById("count");
    const pictures = [...document.querySelectorAll(".small")];
    const text = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
    const show = () => {
      const asked = filter.value.trim().toLowerCase();
      const kept = new Set();
      for (const row of rows) {
        const fits = !state.value || row.dataset.state === state.value;
        row.hidden = !(fits && text.get(row).includes(asked));
        if (!row.hidden) kept.add(row.dataset.layer);
      }
      pictures.forEach((picture) => (picture.hidden = !kept.has(picture.dataset.layer)));
      count.value = `${kept.size} of ${rows.length} layers`;
    };
    filter.addEventListener("input", show);
    state.addEventListener("change", show);
    document.querySelector(".tools").hidden = false;
  }

  // On paper nobody can open a fold.
  const folds = [...document.querySelectorAll("details")];
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = folds.filter((fold) => !fold.open);
    closed.forEach((fold) => (fold.open = true));
  });
  addEventListener("afterprint", () => closed.forEach((fold) => (fold.open = false)));
})();
