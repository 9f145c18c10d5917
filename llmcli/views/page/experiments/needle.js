"use strict";
// How probable the right fact is at each depth of a text: a curve with its confidence ranges, and the chance level.

viewer.drawings.needle = (value, root) => {
  const { element, percent, bar, visible } = viewer;
  const { depths } = value;
  const depth = (one) => `${Number(one.depth.toPrecision(3))}%`;
  const detail = element("aside", { class: "card", "aria-live": "polite" });
  const plot = chart({
    title: "probability of the right word among the words of all facts; bars: 95% confidence range of the mean",
    x: { title: "depth of the fact: 0% is the beginning of the text", places: depths.map((one) => one.depth), low: 0, high: 100,
      ticks: [0, 25, 50, 75, 100], format: (one) => `${one}%` },
    y: { low: 0, high: 1, ticks: [0, 0.25, 0.5, 0.75, 1], format: (one) => `${100 * one}%` },
    series: [{ name: "mean", points: depths.map((one) => ({ value: one.mean, low: one.low, high: one.high })) }],
    lines: [{ value: value.chance, title: `chance, ${percent(value.chance)}` }],
  });

  function card(one) {
    const rows = [["mean", one.mean], ["low end of the range", one.low], ["high end", one.high], ["most probable: how often", one.accuracy]];
    const line = ([name, share]) => element("tr", {}, element("th", { scope: "row" }, name), element("td", {}, bar(share)),
      element("td", { class: "number" }, percent(share)));
    return [
      element("h2", {}, `depth ${depth(one)}`),
      element("table", {}, element("tbody", {}, ...rows.map(line))),
      element("h3", {}, `Each of ${one.probs.length} texts`),
      element("table", {}, element("tbody", {}, ...one.probs.map((share, at) => line([`text ${at + 1}`, share])))),
    ];
  }
  const pick = picker(depths.length, depths.length, (index) => {
    plot.show(index);
    detail.replaceChildren(...(index === null ? [element("p", { class: "aside" },
      "Point at a depth to see its texts. A click or Enter pins it, arrow keys walk, Escape lets go.")] : card(depths[index])));
  });
  pick.listen(plot.picture, plot.indexAt);
  root.append(element("div", { class: "beside" }, element("div", { class: "main" }, plot.figure,
    element("p", { class: "summary" }, `${value.facts} facts in ${Math.round(value.tokens)} tokens`,
      value.chat ? ", in the chat template" : "", ` · ${value.seeds} texts a depth · range: ${value.interval}`),
    element("h3", {}, "A question"), element("p", { class: "text" }, visible(value.example)),
    element("p", {}, "right answer: ", element("strong", {}, visible(value.answer)))), detail));
  pick.pin(null);
};
