"use strict";
// Causal tracing, drawn as in Meng et al. 2022 (figure 1): three maps of tokens by blocks, and one token as curves.

viewer.drawings.trace = (value, root) => {
  const { element, label, percent, bar } = viewer;
  const first = Math.min(...value.subject);
  const subject = new Set(value.subject);
  const tokens = value.tokens.slice(first);
  const KINDS = [
    { name: "hidden", title: "residual stream", what: "after the block" },
    ...[["feed_forward", "feed-forward"], ["attention", "attention"]].map(([name, title]) =>
      ({ name, title, what: value.window > 1 ? `output of ${value.window} blocks around` : "output of the block" })),
  ].map((kind) => ({ ...kind, rows: value[kind.name].slice(first) }));
  const blocks = KINDS[0].rows[0].length;
  const high = KINDS[0].rows.flat().reduce((most, one) => Math.max(most, one), value.answer.prob);
  const span = high - value.corrupted;
  const share = (probability) => (span > 0 ? (probability - value.corrupted) / span : 0);
  const name = (row) => `${subject.has(first + row) ? "*" : ""}${label(tokens[row])}`;
  const detail = element("aside", { class: "card", "aria-live": "polite" });

  function map(kind) {
    const canvas = element("canvas", { class: "trace-map", "data-kind": kind.name, tabindex: 0, role: "application", "aria-label":
      `${kind.title}: ${tokens.length} tokens by ${blocks} blocks. Arrows walk through the states, Enter pins one, Escape lets go.` });
    const marker = element("i", { class: "cell-marker" });
    canvas.style.height = `${1.25 * tokens.length}rem`;
    return { kind, canvas, marker, figure: element("figure", {},
      element("figcaption", {}, element("strong", {}, kind.title), element("br"), kind.what),
      element("div", { class: "traced" }, canvas, marker),
      element("div", { class: "block-axis" }, element("span", {}, "block 0"), element("span", {}, String(blocks - 1)))) };
  }
  const maps = KINDS.map(map);
  const labels = element("div", { class: "row-labels" }, ...tokens.map((_, row) => element("bdi", {}, name(row))));
  const curves = element("div");

  function line(title, probability) {
    return element("tr", {}, element("th", { scope: "row" }, title), element("td", {}, bar(probability)),
      element("td", { class: "number" }, percent(probability)));
  }
  function card(row, block) {
    return [
      element("h2", {}, element("bdi", {}, label(tokens[row])), element("small", {}, ` #${first + row}, block ${block}`)),
      subject.has(first + row) ? element("p", { class: "aside" }, "part of the subject, which the noise is on") : "",
      element("p", {}, "Probability of ", element("strong", {}, label(value.answer)), " when this is restored:"),
      element("table", {}, element("tbody", {}, ...KINDS.map((kind) => line(kind.title, kind.rows[row][block])),
        line("nothing restored", value.corrupted), line("without noise", value.answer.prob))),
    ];
  }
  function draw(row) {
    const most = Math.max(high, ...KINDS.map((kind) => Math.max(...kind.rows[row])), 1e-9);
    return chart({
      title: `probability of the answer with one state of ${name(row)} restored`,
      x: { title: "block", places: Array.from({ length: blocks }, (_, block) => block), low: 0, high: Math.max(1, blocks - 1),
        ticks: roundTicks(0, Math.max(1, blocks - 1), 8).filter(Number.isInteger), format: String },
      y: { low: 0, high: most, ticks: roundTicks(0, most), format: (one) => `${Number((100 * one).toPrecision(3))}%` },
      series: KINDS.map((kind) => ({ name: kind.title, points: kind.rows[row].map((one) => ({ value: one })) })),
      lines: [{ value: value.corrupted, title: `nothing restored, ${percent(value.corrupted)}` }, { value: value.answer.prob, title: `without noise, ${percent(value.answer.prob)}` }],
    });
  }

  let plot = null;
  let drawnRow = null;
  const pick = picker(tokens.length * blocks, blocks, (index) => {
    const [row, block] = index === null ? [null, null] : [Math.floor(index / blocks), index % blocks];
    for (const one of maps) {
      one.marker.style.display = index === null ? "none" : "block";
      one.marker.style.left = `${(100 * (block ?? 0)) / blocks}%`;
      one.marker.style.top = `${(100 * (row ?? 0)) / tokens.length}%`;
      one.marker.style.width = `${100 / blocks}%`;
      one.marker.style.height = `${100 / tokens.length}%`;
    }
    labels.querySelector(".shown")?.classList.remove("shown");
    if (index === null) {
      detail.replaceChildren(element("p", { class: "aside" }, "Point at a state to see what restoring it brings back. ",
        "A click or Enter pins it, arrow keys walk, Escape lets go."));
    } else {
      labels.children[row].classList.add("shown");
      detail.replaceChildren(...card(row, block));
      if (row !== drawnRow) {
        drawnRow = row;
        plot = draw(row);
        curves.replaceChildren(plot.figure);
        plot.picture.removeAttribute("tabindex"); // the maps are walked through
      }
    }
    plot?.show(block);
  });
  for (const { canvas } of maps) {
    pick.listen(canvas, (event) => {
      const box = canvas.getBoundingClientRect();
      const at = (offset, size, count) => Math.min(Math.max(Math.floor((offset / size) * count), 0), count - 1);
      return at(event.clientY - box.top, box.height, tokens.length) * blocks + at(event.clientX - box.left, box.width, blocks);
    });
  }

  root.append(
    element("p", { class: "summary" }, "answer ", element("strong", {}, element("bdi", {}, label(value.answer))),
      ` ${percent(value.answer.prob)}, ${percent(value.corrupted)} with noise on the subject (mean of ${value.samples}) · `,
      "* subject; tokens before it read nothing of it and are left out"),
    element("p", { class: "legend" }, "probability when restored: ", ...[0, 1, 2, 3, 4].map((step) =>
      element("span", { class: `key amount${step}` }, `${percent(value.corrupted + (span * step) / 4)}${["", " or less", " or more"][step === 0 ? 1 : step === 4 ? 2 : 0]}`))),
    element("div", { class: "beside" }, element("div", { class: "main" },
      element("div", { class: "wide" }, element("div", { class: "trace-maps" }, labels, ...maps.map((one) => one.figure))), curves), detail));
  amounts.onColors(() => {
    for (const { kind, canvas } of maps) {
      amounts.paint(canvas, kind.rows.map((row) => row.map(share)), blocks, 1);
    }
  });
  // The state after the subject's beginning that brings back most: what readers look for first.
  const all = KINDS[0].rows.flat();
  pick.pin(all.reduce((best, one, index) => (one > all[best] ? index : best), 0));
};
