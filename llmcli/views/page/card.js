"use strict";
// The card of one token: its numbers, what else it could have been, before and after each filter, and what was read.

const card = (() => {
  const { element, label, percent, bits, bar } = viewer;
  // In the order in which sampling applies them.
  const FILTERS = ["constraint", "logit_bias", "penalties", "dry", "top_n_sigma", "temperature", "top_k", "typical_p",
    "top_p", "min_p", "xtc"];
  const words = (filter) => filter.replaceAll("_", "-");

  function facts(token) {
    const rows = [
      ["number", String(token.index)],
      ["id", String(token.id)],
      ["model", percent(measures.probability(token))],
      ["sampled", token.sampled_prob === undefined ? "" : percent(token.sampled_prob)],
      ["surprise", token.logprob === null || token.logprob === undefined ? "" : `${bits(-token.logprob)} bits`],
      ["rank", token.rank ? String(token.rank) : ""],
      ["entropy", token.entropy === null || token.entropy === undefined ? "" : `${bits(token.entropy)} bits`],
      ["from", token.origin && token.origin !== "model" ? token.origin : ""],
    ];
    return element("dl", { class: "facts" }, ...rows.filter(([, value]) => value)
      .map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value))));
  }

  function alternatives(token) {
    const sampled = token.top.some((one) => "sampled_prob" in one);
    const head = element("tr", {}, element("th", {}, "could have been"), element("th", { colspan: 2 }, "model"),
      ...(sampled ? [element("th", { colspan: 2 }, "after filters")] : []));
    const rows = token.top.map((one) => {
      const probability = one.logprob === null ? 0 : Math.exp(one.logprob);
      const after = one.removed_by ? element("td", { class: "removed", colspan: 2 }, `removed by ${words(one.removed_by)}`) :
        [element("td", {}, bar(one.sampled_prob, "bar after")), element("td", { class: "number" }, percent(one.sampled_prob))];
      return element("tr", { class: one.id === token.id ? "chosen" : null },
        element("th", { scope: "row" }, label(one)),
        element("td", {}, bar(probability)), element("td", { class: "number" }, percent(probability)),
        ...(sampled ? [after].flat() : []));
    });
    return element("table", { class: "alternatives" }, element("thead", {}, head), element("tbody", {}, ...rows));
  }

  // How much of the listed tokens' probability is left after each filter that removed one.
  function stages(token) {
    const removing = FILTERS.filter((filter) => token.top.some((one) => one.removed_by === filter));
    let left = token.top.filter((one) => one.logprob !== null);
    const steps = [["model", left]].concat(removing.map((filter) => {
      left = left.filter((one) => one.removed_by !== filter);
      return [words(filter), left];
    }));
    return removing.length === 0 ? null : element("ol", { class: "stages" }, ...steps.map(([name, list]) =>
      element("li", {}, `${name}: ${list.length} of ${token.top.length} left, `,
        `${percent(list.reduce((sum, one) => sum + Math.exp(one.logprob), 0))} of the probability`)));
  }

  function read(attention) {
    const rows = [["first token (sink)", attention.sink], ["the token before it, which predicts it", attention.self]].map(([name, share]) =>
      element("tr", { class: "aside" }, element("th", { scope: "row" }, name), element("td", {}, bar(share)),
        element("td", { class: "number" }, percent(share))));
    const others = attention.read.map((one) => element("tr", {},
      element("th", { scope: "row" }, label(one.text), element("small", {}, ` #${one.position}`)),
      element("td", {}, bar(one.weight)), element("td", { class: "number" }, percent(one.weight))));
    return [
      element("h3", {}, "What was read to predict it"),
      element("table", { class: "read" }, element("tbody", {}, ...rows)),
      others.length ? element("p", { class: "aside" }, "Others, as shares of what is not on these two:") : null,
      element("table", { class: "read" }, element("tbody", {}, ...others)),
    ];
  }

  function draw(token) {
    return element("div", {}, element("h2", {}, element("bdi", {}, label(token) || "(part of a character)")), facts(token),
      token.top?.length ? alternatives(token) : null,
      token.top?.length ? stages(token) : null,
      ...(token.attention ? read(token.attention) : []));
  }

  function empty(hasTop) {
    return element("p", { class: "aside" }, "Point at a token, or walk through the text with the arrow keys. A click or ",
      "Enter pins it, Escape lets go, digits choose the colors.",
      hasTop ? "" : " No alternatives are stored: --top N lists them.");
  }

  return { draw, empty };
})();
