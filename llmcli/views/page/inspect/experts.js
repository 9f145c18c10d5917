"use strict";
// Routing to experts: a map of blocks by tokens with each token's strongest expert, its experts, and each block's load.

viewer.drawings.experts = (value, root) => {
  const { element, label, percent, bits, bar } = viewer;
  const { tokens, layers } = value;
  const MOST_LOADS = 16;
  const detail = element("aside", { class: "card", "aria-live": "polite" });
  // Weights as the model uses them need not sum to 1; the shade is the share of a token's experts.
  const share = (chosen, at) => chosen[at].weight / (chosen.reduce((sum, one) => sum + Math.abs(one.weight), 0) || 1);

  function line(name, part, said, kind) {
    return element("tr", { class: kind }, element("th", { scope: "row" }, name), element("td", {}, bar(part)),
      element("td", { class: "number" }, said));
  }

  function card(layer, position) {
    const chosen = layer.routing[position];
    const used = new Set(chosen.map((one) => one.expert));
    const most = layer.load.reduce((high, one) => Math.max(high, one), 0) || 1;
    const loads = layer.load.map((load, expert) => ({ load, expert })).sort((a, b) => b.load - a.load);
    return [
      element("h2", {}, element("bdi", {}, label(tokens[position])), element("small", {}, ` #${position} in block ${layer.layer}`)),
      element("table", {}, element("thead", {}, element("tr", {}, element("th", {}, "expert"), element("th", { colspan: 2 }, "weight"))),
        element("tbody", {}, ...chosen.map((one, at) => line(String(one.expert), share(chosen, at), one.weight.toFixed(2))))),
      element("h3", {}, `Load of block ${layer.layer}: ${layer.chosen} of ${layer.experts} experts a token`),
      element("p", { class: "aside" }, `entropy ${bits(layer.entropy)} bits, ${percent(layer.entropy_share)} of an even load; `,
        `an even load is ${percent(1 / layer.experts)}`),
      element("table", {}, element("tbody", {}, ...loads.slice(0, MOST_LOADS).map(({ load, expert }) =>
        line(String(expert), load / most, percent(load), used.has(expert) ? "chosen" : null)))),
      loads.length > MOST_LOADS ? element("p", { class: "aside" }, `and ${loads.length - MOST_LOADS} with less`) : null,
    ].filter((part) => part !== null);
  }

  const map = tokenMap({
    name: "Experts",
    rows: layers.map((layer) => String(layer.layer)),
    columns: tokens.map((token, position) => ({ token, position })),
    word: (row, column) => layers[row].routing[column].map((one) => one.expert).join(" "),
    shade: (row, column) => amounts.className(share(layers[row].routing[column], 0)),
    show: (at) => detail.replaceChildren(...(at ? card(layers[at.row], at.column) :
      [element("p", { class: "aside" }, "Point at a cell to see the experts of a token and the load of the block. A click ",
        "or Enter pins it, arrow keys walk, Escape lets go.")])),
  });
  root.append(amounts.legend("weight of the strongest expert, as a share of the token's experts"),
    element("div", { class: "beside" },
      element("div", { class: "main" }, element("figure", {},
        element("figcaption", {}, "rows: blocks · columns: tokens · in the cells: the numbers of the experts, strongest first",
          value.dense.length ? ` · without experts: ${value.dense.length === 1 ? "block" : "blocks"} ${value.dense.join(", ")}` : ""), map.root)), detail));
  map.redraw();
  map.pin({ row: 0, column: 0 });
};
