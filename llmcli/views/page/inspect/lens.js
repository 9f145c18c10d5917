"use strict";
// The logit lens: a map of blocks by tokens, with the most probable word after each block in the cells.

viewer.drawings.lens = (value, root) => {
  const { element, label, percent, bits, bar, choice, digitsChoose } = viewer;
  const { tokens, lens } = value;
  const measures = [
    { name: "probability", title: "probability", help: "of the most probable token after the block",
      unit: "probability of the word shown", of: (layer) => layer.top[0].prob,
      band: (share) => [0.9, 0.5, 0.2, 0.05, 0].findIndex((least) => share >= least),
      bands: ["90%+", "50%+", "20%+", "5%+", "below 5%"] },
    { name: "kl", title: "KL", help: "how far the block's distribution is from the final one",
      unit: "KL divergence from the final distribution, in bits", of: (layer) => (layer.kl ?? Infinity) / Math.LN2,
      band: (most) => [0.5, 2, 5, 10, Infinity].findIndex((limit) => most <= limit),
      bands: ["0.5 or less", "to 2", "to 5", "to 10", "above 10"] },
    { name: "rank", title: "rank", help: "the place of the final answer in the block's list",
      unit: "rank of the final answer after the block", of: (layer) => layer.rank,
      band: (rank) => [1, 3, 10, 100, Infinity].findIndex((limit) => rank <= limit),
      bands: ["1", "2 and 3", "to 10", "to 100", "above 100"] },
  ];
  let measure = measures[0];
  const blockName = (layer) => (layer === 0 ? "emb" : String(layer - 1));
  const place = (layer) => (layer === 0 ? "the embedding" : `block ${layer - 1}`);
  const detail = element("aside", { class: "card", "aria-live": "polite" });

  function card(position, layer) {
    const [read, next] = [tokens[position.position], tokens[position.position + 1]];
    const rows = layer.top.map((one) => element("tr", { class: one.id === position.token.id ? "chosen" : null },
      element("th", { scope: "row" }, element("bdi", {}, label(one))),
      element("td", {}, bar(one.prob)), element("td", { class: "number" }, percent(one.prob))));
    const facts = [["rank", String(layer.rank)], ["KL", layer.kl === null ? "infinite" : `${bits(layer.kl)} bits`],
      ["leads from", position.leads_from === null ? "nowhere" : place(position.leads_from)]];
    return [
      element("h2", {}, element("bdi", {}, label(layer.top[0])), element("small", {}, ` after ${place(layer.layer)}`)),
      element("p", { class: "aside" }, "read: ", element("bdi", {}, label(read)), ` #${position.position}`,
        next ? [", next in the text: ", element("bdi", {}, label(next))] : ", the end of the text"),
      element("table", {}, element("tbody", {}, ...rows)),
      element("p", { class: "aside" }, position.leads_from === null ? "Rank is that of " : "The final answer is ",
        element("bdi", {}, label(position.token)),
        position.leads_from === null ? ", which is not the most probable token at the end." : "."),
      element("dl", { class: "facts" }, ...facts.map(([name, said]) =>
        element("div", {}, element("dt", {}, name), element("dd", {}, said)))),
    ];
  }

  const map = tokenMap({
    name: "Logit lens",
    rows: lens[0].layers.map((layer) => blockName(layer.layer)),
    columns: lens.map(({ position }) => ({ position, token: tokens[position] })),
    word: (row, column) => label(lens[column].layers[row].top[0]),
    shade: (row, column) => `band${measure.band(measure.of(lens[column].layers[row]))}`,
    rule: (row, column) => lens[column].leads_from === lens[column].layers[row].layer,
    show: (at) => detail.replaceChildren(...(at ? card(lens[at.column], lens[at.column].layers[at.row]) :
      [element("p", { class: "aside" }, "Point at a cell to see the most probable tokens after that block. A click or ",
        "Enter pins it, arrow keys walk, Escape lets go, digits choose the colors.")])),
  });

  let legend = element("p");
  function color(name) {
    measure = measures.find((one) => one.name === name);
    const next = element("p", { class: "legend" }, `${measure.unit}: `,
      ...measure.bands.map((words, number) => element("span", { class: `key band${number}` }, words)));
    legend.replaceWith(next);
    legend = next;
    map.redraw();
  }
  const colors = choice("colors", measures, measure.name, color);
  digitsChoose(colors);
  const left = tokens.length - lens.length;
  root.append(colors.row, legend, element("div", { class: "beside" },
    element("div", { class: "main" }, element("figure", {},
      element("figcaption", {}, "rows: what the model would answer after this block (emb: the embedding) · columns: ",
        "after this token · the line: from here on the final answer stays first",
        left ? ` · ${left} of ${tokens.length} tokens are not in the JSON` : ""),
      map.root)), detail));
  color(measure.name);
  map.pin({ row: map.last.row, column: map.last.column });
};
