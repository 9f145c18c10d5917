"use strict";
// The answer without a part of the prompt: each word hidden in turn as a strip of changes, or one part in three cases.

viewer.drawings.withoutWords = (value, root) => {
  const { element, label, percent, bits, bar } = viewer;
  // In the order of the text: the JSON begins with the word that the answer depends on most.
  const words = [...value.words].sort((a, b) => a.positions[0] - b.positions[0]);
  // The change of the answer's surprise in bits. A log-probability of minus infinity is null in the JSON.
  const change = (word) => (word.hidden === null ? Infinity : -word.hidden / Math.LN2);
  const BANDS = [[2, "+2 or more"], [0.5, "+0.5 or more"], [-0.5, "less than 0.5"], [-2, "-0.5 or less"], [-Infinity, "-2 or less"]];
  const band = (amount) => `change${4 - BANDS.findIndex(([least]) => amount > least || amount === least && least > 0)}`;
  const largest = words.map(change).filter(Number.isFinite).reduce((most, one) => Math.max(most, Math.abs(one)), 1e-9);
  const share = (word) => Math.min(Math.abs(change(word)) / largest, 1);
  const signed = (word) => (Number.isFinite(change(word)) ? `${change(word) > 0 ? "+" : ""}${change(word).toFixed(2)}` : "∞");
  const answer = value.answer.map((token) => label(token)).join("");
  const detail = element("aside", { class: "card", "aria-live": "polite" });

  function card(word) {
    const before = value.before === null ? 0 : Math.exp(value.before);
    const after = value.before === null || word.hidden === null ? 0 : Math.exp(value.before + word.hidden);
    const line = ([name, probability]) => element("tr", {}, element("th", { scope: "row" }, name),
      element("td", {}, bar(probability)), element("td", { class: "number" }, percent(probability)));
    return [
      element("h2", {}, element("bdi", {}, label(word.text)), element("small", {}, ` #${word.positions.join(", ")}`)),
      element("p", {}, "hidden: surprise of the answer ", element("strong", {}, `${signed(word)} bits`)),
      element("table", {}, element("tbody", {}, ...[["answer before", before], ["with it hidden", after]].map(line))),
      word.positions.includes(0) ? element("p", { class: "aside" },
        "Token 0 matters whatever it says: heads park unused attention on it.") : null,
      word.ends_prompt ? element("p", { class: "aside" },
        "It ends the prompt: its last token itself predicts the answer and can hardly be hidden.") : null,
    ].filter((part) => part !== null);
  }

  const ranking = element("table", { class: "ranking" }, element("tbody", {}, ...value.words.map((word) =>
    element("tr", { "data-word": words.indexOf(word) }, element("th", { scope: "row" }, element("bdi", {}, label(word.text))),
      element("td", { class: "number" }, signed(word)),
      element("td", {}, bar(share(word), change(word) > 0 ? "bar after" : "bar"))))));
  const strip = coloredText(words.map((word) => ({ text: word.text.replaceAll("\n", "⏎") })), (index) => {
    ranking.querySelector(".shown")?.classList.remove("shown");
    if (index === null) {
      detail.replaceChildren(element("p", { class: "aside" }, "Point at a word to see the answer without it. ",
        "A click or Enter pins it, arrow keys walk, Escape lets go."));
    } else {
      ranking.querySelector(`[data-word="${index}"]`).classList.add("shown");
      detail.replaceChildren(...card(words[index]));
    }
  });
  strip.text.classList.add("strip");
  strip.spans.forEach((span, index) => {
    const column = element("i", { class: change(words[index]) > 0 ? "up" : "down" });
    column.style.height = `${2.2 * share(words[index])}rem`;
    span.classList.add(band(change(words[index])));
    span.append(column);
  });
  const wordAt = (event) => {
    const row = event.target.closest("[data-word]");
    return row ? Number(row.dataset.word) : null;
  };
  ranking.addEventListener("pointerover", (event) => strip.point(wordAt(event)));
  ranking.addEventListener("pointerleave", () => strip.point(null));
  ranking.addEventListener("click", (event) => strip.pin(wordAt(event)));

  root.append(
    element("p", { class: "summary" }, "answer ", element("strong", {}, element("bdi", {}, answer)),
      ` · surprise ${value.before === null ? "infinite" : `${bits(-value.before)} bits`}`),
    element("p", { class: "legend" }, "change of the answer's surprise when the word is hidden, in bits: ",
      ...BANDS.map(([, name], at) => element("span", { class: `key change${4 - at}` }, name))),
    element("div", { class: "beside" }, element("div", { class: "main" }, strip.text,
      element("p", { class: "aside" }, `Amber columns above: the answer loses probability. Blue below: it gains. The tallest is ${largest.toFixed(2)} bits.`),
      element("h3", {}, "By dependence"), element("div", { class: "scroll" }, ranking)), detail));
  strip.pin(words.length ? words.indexOf(value.words[0]) : null);
};

viewer.drawings.without = (value, root) => {
  const { element, label, percent, bits, bar, choice, digitsChoose } = viewer;
  const CASES = [
    { name: "before", title: "before", help: "the whole prompt" },
    { name: "hidden", title: "hidden", help: "later tokens cannot attend to the part" },
    { name: "removed", title: "removed", help: "the prompt is read again without the part" },
  ].filter((one) => value.total[one.name] !== null || value.instead[one.name]);
  const byProbability = measures.present([{ logprob: 0 }])[0];
  const detail = element("aside", { class: "card", "aria-live": "polite" });
  const surprise = (logprob) => (logprob === null ? "∞" : bits(-logprob));

  function lines(shares) {
    return element("table", {}, element("tbody", {}, ...CASES.map(({ name, title }) => element("tr", { "data-case": name },
      element("th", { scope: "row" }, title), element("td", {}, bar(shares[name])),
      element("td", { class: "number" }, percent(shares[name]))))));
  }
  const text = coloredText(value.answer, (index) => detail.replaceChildren(...(index === null ?
    [element("p", { class: "aside" }, "Point at a token of the answer to see its probability in each case. ",
      "A click or Enter pins it, arrow keys walk, Escape lets go, digits choose the case.")] :
    [element("h2", {}, element("bdi", {}, label(value.answer[index]))), lines(value.answer[index])])));
  const cases = choice("answer, with the part", CASES, "hidden", (name) =>
    text.color({ ...byProbability, of: (token) => token[name] ?? null }));
  digitsChoose(cases);

  const change = (name) => (name === "before" || value.total[name] === null || value.total.before === null ? "" :
    ((value.total.before - value.total[name]) / Math.LN2).toFixed(2).replace(/^(?!-)/, "+"));
  root.append(
    element("p", { class: "summary" }, "without ", element("strong", {}, element("bdi", {}, label(value.span.text))),
      ` · ${value.span.positions.length === 1 ? "token" : "tokens"} ${value.span.positions.join(", ")}`),
    value.span.positions.includes(0) ? element("p", { class: "aside" },
      "It includes the first token, on which heads park unused attention: the change is not only due to its meaning.") : "",
    value.span.ends_prompt ? element("p", { class: "aside" },
      "It ends the prompt: its last token itself predicts the answer, and hiding it from others cannot change that.") : "",
    cases.row, measures.legend(byProbability),
    element("div", { class: "beside" }, element("div", { class: "main" }, text.text,
      element("h3", {}, "The whole answer"),
      element("table", { class: "totals" }, element("thead", {}, element("tr", {}, element("th", {}, ""), element("th", {}, "surprise, bits"),
        element("th", {}, "change"), element("th", { colspan: 3 }, "first choice there"))),
      element("tbody", {}, ...CASES.map(({ name, title }) => element("tr", { "data-case": name },
        element("th", { scope: "row" }, title), element("td", { class: "number" }, surprise(value.total[name])),
        element("td", { class: "number" }, change(name)), element("td", {}, element("bdi", {}, label(value.instead[name]))),
        element("td", {}, bar(value.instead[name].prob)), element("td", { class: "number" }, percent(value.instead[name].prob))))))),
    detail));
  cases.choose("hidden");
  text.pin(value.answer.length ? 0 : null);
};
