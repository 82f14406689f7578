"use strict";
(() => {
  const bar = document.getElementById("filters");
  const keys = ["attack", "tuner", "defence", "kind"];
  const parts = [...document.querySelectorAll("[data-attack],[data-tuner],[data-defence],[data-kind],[data-senseless]")];
  const rows = [...document.querySelectorAll("#cells tbody tr")];

  function filter() {
    const want = Object.fromEntries(keys.map((key) => [key, bar.elements[key].value]));
    for (const part of parts) {
      part.hidden = keys.some((key) => want[key] && key in part.dataset && part.dataset[key] !== want[key])
        || (bar.elements.senseless.checked && "senseless" in part.dataset);
    }
    const shown = rows.filter((row) => !row.hidden).length;
    bar.elements.shown.value = `${shown} of ${rows.length} combinations`;
  }

  function compare(column, down) {
    const read = (row) => {
      const cell = row.cells[column];
      if (cell === undefined) return null;
      if ("v" in cell.dataset) return Number(cell.dataset.v);
      return cell.tagName === "TH" ? cell.textContent : null;
    };
    return (a, b) => {
      const [x, y] = [read(a), read(b)];
      if (x === null || y === null) return (x === null) - (y === null);
      const order = typeof x === "number" ? x - y : x.localeCompare(y);
      return down ? -order : order;
    };
  }

  for (const table of document.querySelectorAll("table.sorts")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      if ("still" in head.dataset) return;
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const now = head.getAttribute("aria-sort");
        const down = now ? now === "ascending" : column > 0;
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const body = table.tBodies[0];
        body.append(...[...body.rows].sort(compare(column, down)));
      });
    });
  }

  bar.addEventListener("input", filter);
  bar.addEventListener("reset", () => setTimeout(filter));
  bar.hidden = false;
  filter();
})();
