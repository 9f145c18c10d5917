"use strict";
// A reply or a scored text: the text in colors, the card of a token, the curve of surprise, and arcs to what was read.

(() => {
  const { element, label, percent, choice, digitsChoose } = viewer;

  // The parts of the prompt that any token of the reply read, in the order of the text. The JSON has no others.
  function promptStrip(tokens, first) {
    const read = new Map();
    for (const token of tokens) {
      for (const one of token.attention?.read ?? []) {
        if (one.position < first) {
          read.set(one.position, one.text);
        }
      }
    }
    const places = Array.from(read.keys()).sort((a, b) => a - b);
    const chips = new Map(places.map((place) => [place,
      element("span", { class: "chip", title: `token ${place} of the prompt` }, label(read.get(place)))]));
    return { chips, row: places.length === 0 ? null : element("p", { class: "prompt-read" },
      element("span", { class: "what" }, "read in the prompt"), ...chips.values()) };
  }

  function summary(value, tokens) {
    const known = tokens.filter((token) => typeof token.logprob === "number");
    const parts = [`${tokens.length} tokens`];
    if (typeof value.perplexity === "number") {
      parts.push(`perplexity ${value.perplexity.toFixed(2)}`);
    }
    if (typeof value.bits_per_byte === "number") {
      parts.push(`${value.bits_per_byte.toFixed(3)} bits per byte`);
    }
    if (known.length < tokens.length) {
      parts.push(`${tokens.length - known.length} without a probability`);
    }
    if (value.finish_reason) {
      parts.push(`ended by ${value.finish_reason.replaceAll("_", " ")}`);
    }
    if (typeof value.stats?.decode_tokens_per_s === "number") {
      parts.push(`${value.stats.decode_tokens_per_s.toFixed(1)} tokens a second`);
    }
    if (typeof value.stats?.acceptance_rate === "number") {
      parts.push(`${percent(value.stats.acceptance_rate)} of ${value.stats.proposed_tokens} proposals accepted`);
    }
    return element("p", { class: "summary" }, parts.join(" · "));
  }

  // The part of a reply before its first token.
  function prefill(value, tokens) {
    const generated = tokens.map((token) => token.text).join("");
    return value.text?.endsWith(generated) ? value.text.slice(0, value.text.length - generated.length) : "";
  }

  viewer.drawings.reply = (value, root) => {
    const { tokens } = value;
    const shown = measures.present(tokens);
    const start = tokens.find((token) => token.attention);
    // The position in the whole text of the reply's first token: what predicts a token is the one before it.
    const first = start ? start.attention.position - start.index + 1 : 0;
    const strip = promptStrip(tokens, first);
    const detail = element("aside", { class: "card", "aria-live": "polite" });
    const hasTop = tokens.some((token) => token.top?.length);
    let curve = null;
    let arcs = null;

    const text = coloredText(tokens, (index) => {
      const token = index === null ? null : tokens[index];
      detail.replaceChildren(token ? card.draw(token) : card.empty(hasTop));
      curve?.show(index);
      const places = (token?.attention?.read ?? [])
        .map((one) => [one.position < first ? strip.chips.get(one.position) : text.spans[one.position - first], one.weight]);
      arcs?.show(token?.attention ? text.spans[index] : null, places.filter(([place]) => place));
      for (const chip of strip.chips.values()) {
        chip.classList.toggle("read", places.some(([place]) => place === chip));
      }
    });
    curve = surpriseCurve(tokens, text);
    const given = prefill(value, tokens);
    if (given) {
      text.text.prepend(element("span", { class: "given", title: "the prefill" }, viewer.visible(given)));
    }
    const stage = element("div", { class: "stage" }, strip.row, text.text);
    if (start) {
      arcs = arcsOver(stage);
    }
    let legend = measures.legend(shown[0]);
    const colors = choice("colors", shown, shown[0].name, (name) => {
      const measure = shown.find((one) => one.name === name);
      text.color(measure);
      const next = measures.legend(measure);
      legend.replaceWith(next);
      legend = next;
    });
    digitsChoose(colors);
    text.color(shown[0]);
    detail.append(card.empty(hasTop));
    root.append(colors.row, legend, element("div", { class: "beside" },
      element("div", { class: "main" }, curve?.figure, stage, summary(value, tokens)), detail));
  };
})();
