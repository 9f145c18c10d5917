"use strict";
// A text in which one token shows what it read: shades and arcs in the text, and a card with the shares.
// `reads(index)` gives { sink, self, others: [{ position, text, weight }], title, what } or null.

function readingText(tokens, reads, followed = () => {}) {
  const { element, label, percent, bar } = viewer;
  const detail = element("aside", { class: "card", "aria-live": "polite" });
  const stage = element("div", { class: "stage reading" });
  let arcs = null;
  let shaded = [];
  let current = null;

  function line(name, share, kind, place) {
    return element("tr", { class: place === undefined ? "aside" : null },
      element("th", { scope: "row" }, name, place === undefined ? null : element("small", {}, ` #${place}`)),
      element("td", {}, bar(share, kind)), element("td", { class: "number" }, percent(share)));
  }

  function draw(index, row) {
    const next = tokens[index + 1];
    return [
      element("h2", {}, element("bdi", {}, label(tokens[index])), element("small", {}, ` #${index}`)),
      element("p", { class: "aside" }, next ? `predicts ${label(next)}` : "predicts the token after the text",
        row.title ? ` · ${row.title}` : ""),
      element("table", {}, element("tbody", {}, line("first token (sink)", row.sink, "bar"),
        index > 0 ? line("itself", row.self, "bar") : null)),
      element("p", { class: "aside" }, row.what),
      element("table", {}, element("tbody", {},
        ...row.others.map((one) => line(label(one.text), one.weight, "bar", one.position)))),
    ];
  }

  const text = coloredText(tokens, (index) => {
    current = index;
    const row = index === null ? null : reads(index);
    for (const span of shaded) {
      span.classList.remove("amount0", "amount1", "amount2", "amount3", "amount4");
    }
    shaded = [];
    if (!row) {
      detail.replaceChildren(element("p", { class: "aside" }, index === null ?
        "Point at a token to see what it read. A click or Enter pins it, arrow keys walk, Escape lets go." :
        `The JSON has no row for token ${index}; --position ${index} asks for it.`));
      arcs?.show(null, []);
      followed(null);
      return;
    }
    for (const one of row.others) {
      const span = text.spans[one.position];
      span.classList.add(amounts.className(one.weight));
      shaded.push(span);
    }
    detail.replaceChildren(...draw(index, row));
    arcs.show(text.spans[index], row.others.map((one) => [text.spans[one.position], one.weight]));
    followed(index);
  });
  stage.append(text.text);
  arcs = arcsOver(stage);

  return {
    stage, detail, point: text.point, pin: text.pin, spans: text.spans,
    // Show the current token anew, after what it read has changed.
    again: () => text.pin(current),
  };
}
