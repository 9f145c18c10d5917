"use strict";
// What each token of a text read, over all heads; for a single position also block by block.

viewer.drawings.attention = (value, root) => {
  const { element, label, percent, bar } = viewer;
  const rows = new Map(value.rows.map((row) => [row.position, row]));
  let block = null;

  const shown = readingText(value.tokens, (index) => {
    const row = block === null || !rows.has(index) ? rows.get(index) : block.row;
    return row === undefined ? null : { sink: row.sink, self: row.self, others: row.read,
      title: block === null ? "" : `block ${block.block}`, what: "Others, as shares of what is not on these two:" };
  });

  function blockRow({ block: number, row }, place) {
    return element("tr", { "data-place": place },
      element("th", { scope: "row" }, element("button", { type: "button", "aria-pressed": "false" }, `block ${number}`)),
      element("td", {}, bar(row.sink)), element("td", { class: "number" }, percent(row.sink)),
      element("td", {}, bar(row.self)), element("td", { class: "number" }, percent(row.self)),
      element("td", {}, row.read.map((one) => `${label(one.text)} ${percent(one.weight)}`).join("  ")));
  }

  function blocks() {
    const table = element("table", { class: "blocks" },
      element("thead", {}, element("tr", {}, element("th", {}, ""), element("th", { colspan: 2 }, "sink"),
        element("th", { colspan: 2 }, "itself"), element("th", {}, "others"))),
      element("tbody", {}, ...value.blocks.map(blockRow)));
    table.addEventListener("click", (event) => {
      const line = event.target.closest("[data-place]");
      if (line) {
        const chosen = value.blocks[Number(line.dataset.place)];
        block = block === chosen ? null : chosen;
        table.querySelectorAll("button").forEach((button, at) =>
          button.setAttribute("aria-pressed", block === value.blocks[at]));
        shown.pin(value.rows[0].position);
      }
    });
    return [element("h3", {}, `Block by block, for token ${value.rows[0].position}: click one to see it in the text`),
      element("div", { class: "scroll" }, table)];
  }

  root.append(amounts.legend("share of what was read"), element("div", { class: "beside" },
    element("div", { class: "main" }, shown.stage, ...(value.blocks.length ? blocks() : [])), shown.detail));
  shown.pin(value.rows.length ? value.rows.at(-1).position : null);
};
