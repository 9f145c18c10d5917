"use strict";
// Two models on one text, colored by how much their predictions differ, and the two texts that they write on.

viewer.drawings.compare = (value, root) => {
  const { element, label, percent, bits, bar, choice, digitsChoose } = viewer;
  const { tokens } = value;
  const LETTERS = ["A", "B"];
  const SIDES = ["first", "second"];
  const LIMITS = [[0.01, "below 0.01"], [0.1, "0.01+"], [0.3, "0.1+"], [1, "0.3+"], [Infinity, "1+"]];
  const byProbability = measures.present([{ logprob: 0 }])[0];
  const probability = (expected) => (expected ? (expected.logprob === null ? 0 : Math.exp(expected.logprob)) : null);
  // In bits; null for a token that was not compared. An infinite divergence is null in the JSON.
  const divergence = (token) => (token.first ? (token.kl === null ? Infinity : token.kl / Math.LN2) : null);
  const MEASURES = [
    { name: "kl", title: "difference", help: "KL divergence of B's prediction from A's", unit: "KL divergence in bits", of: divergence,
      band: (one) => LIMITS.findIndex(([limit]) => one < limit || limit === Infinity), bands: LIMITS.map(([, words]) => words) },
    ...SIDES.map((side, at) => ({ ...byProbability, name: side, title: `${LETTERS[at]}'s probability`, unit: `probability in ${LETTERS[at]}`,
      help: value.models[at], of: (token) => probability(token[side]) })),
  ];
  const detail = element("aside", { class: "card", "aria-live": "polite" });

  function card(token) {
    if (!token.first) {
      return [element("h2", {}, element("bdi", {}, label(token)), element("small", {}, ` #${token.index}`)),
        element("p", { class: "aside" }, "This token was not compared.")];
    }
    const row = (title, name, share) => element("tr", {}, element("th", { scope: "row" }, title, element("bdi", {}, name)),
      element("td", {}, bar(share)), element("td", { class: "number" }, percent(share)));
    const choices = SIDES.map((side) => token[side]);
    return [
      element("h2", {}, element("bdi", {}, label(token)), element("small", {}, ` #${token.index}`)),
      element("p", {}, "KL divergence ", element("strong", {}, Number.isFinite(divergence(token)) ? `${divergence(token).toFixed(4)} bits` : "infinite")),
      element("table", {}, element("thead", {}, element("tr", {}, element("th", { colspan: 3 }, "probability of this token"))),
        element("tbody", {}, ...choices.map((one, at) => row(LETTERS[at], "", probability(one))))),
      element("table", {}, element("thead", {}, element("tr", {}, element("th", { colspan: 3 },
        choices[0].choice.id === choices[1].choice.id ? "first choice: the same" : "first choice: not the same"))),
      element("tbody", {}, ...choices.map((one, at) => row(`${LETTERS[at]} `, label(one.choice), Math.exp(one.choice_logprob))))),
    ];
  }

  const compared = tokens.filter((token) => token.first).length;
  const finite = tokens.map((token) => divergence(token)).filter((one) => one !== null && Number.isFinite(one));
  const most = finite.reduce((high, one) => Math.max(high, one), 0) || 1;
  const plot = compared < 2 ? null : chart({
    title: "KL divergence along the text, in bits",
    x: { title: "token", places: tokens.map((token) => token.index), low: 0, high: tokens.length - 1,
      ticks: roundTicks(0, tokens.length - 1, 8).filter(Number.isInteger), format: String },
    y: { low: 0, high: most, ticks: roundTicks(0, most, 4), format: (one) => String(Number(one.toPrecision(3))) },
    series: [{ points: tokens.map((token) => ({ value: divergence(token) })) }],
    lines: [{ value: value.mean_kl / Math.LN2, title: `mean, ${bits(value.mean_kl, 4)} bits` }],
  });
  const text = coloredText(tokens, (index) => {
    plot?.show(index);
    detail.replaceChildren(...(index === null ? [element("p", { class: "aside" }, "Point at a token to see both predictions. ",
      "A click or Enter pins it, arrow keys walk, Escape lets go, digits choose the colors.")] : card(tokens[index])));
  });
  if (plot) {
    plot.picture.removeAttribute("tabindex"); // the text is walked through
    picker(tokens.length, tokens.length, text.point).listen(plot.picture, plot.indexAt);
    plot.picture.addEventListener("click", (event) => text.pin(plot.indexAt(event)));
  }

  let legend = measures.legend(MEASURES[0]);
  const colors = choice("colors", MEASURES, "kl", (name) => {
    const measure = MEASURES.find((one) => one.name === name);
    text.color(measure);
    const next = measures.legend(measure);
    legend.replaceWith(next);
    legend = next;
  });
  digitsChoose(colors);
  text.color(MEASURES[0]);

  // Which tokens both texts have, by their longest common subsequence: a set of places for each text.
  function common([first, second]) {
    const MOST = 4e6;
    const shared = [new Set(), new Set()];
    let start = 0;
    while (start < first.length && start < second.length && first[start].id === second[start].id) {
      shared[0].add(start);
      shared[1].add(start);
      start += 1;
    }
    const [rows, columns] = [first.length - start, second.length - start];
    if (rows * columns > MOST) {
      return shared;
    }
    const lengths = Array.from({ length: rows + 1 }, () => new Uint32Array(columns + 1));
    for (let row = rows - 1; row >= 0; row -= 1) {
      for (let column = columns - 1; column >= 0; column -= 1) {
        lengths[row][column] = first[start + row].id === second[start + column].id ? lengths[row + 1][column + 1] + 1 :
          Math.max(lengths[row + 1][column], lengths[row][column + 1]);
      }
    }
    for (let row = 0, column = 0; row < rows && column < columns;) {
      if (first[start + row].id === second[start + column].id) {
        shared[0].add(start + row);
        shared[1].add(start + column);
        [row, column] = [row + 1, column + 1];
      } else if (lengths[row + 1][column] >= lengths[row][column + 1]) {
        row += 1;
      } else {
        column += 1;
      }
    }
    return shared;
  }

  function continuation(said, at, shared) {
    const written = coloredText(said.tokens, () => {});
    written.text.removeAttribute("tabindex");
    written.spans.forEach((span, place) => {
      span.classList.toggle("differs", !shared.has(place));
      span.classList.toggle("parts", value.parting?.index === place);
    });
    const gap = value.parting?.[`${SIDES[at]}_gap`];
    const own = value.parting?.[SIDES[at]];
    return element("section", { class: "continuation", "data-side": SIDES[at] },
      element("h3", {}, `${LETTERS[at]} · ${value.models[at]}`), written.text,
      element("p", { class: "aside" }, [
        !value.parting ? "" : !own ? `it ends where ${LETTERS[1 - at]} goes on` : `it differs first with ${label(own)}`,
        gap === null || gap === undefined ? "" : `by ${bits(gap)} bits before the other's token`,
        said.ended ? `ended after ${said.tokens.length} tokens` : `stopped at ${said.tokens.length} tokens`,
      ].filter(Boolean).join(" · ")));
  }
  const shared = common(value.continuations.map((one) => one.tokens));
  root.append(colors.row, legend, element("div", { class: "beside" },
    element("div", { class: "main" }, text.text, plot?.figure ?? "",
      ...LETTERS.map((letter, at) => element("p", { class: "summary" }, `${letter} ${value.models[at]}: `,
        `perplexity ${value.perplexities[at]?.toFixed(3) ?? "infinite"} · ${value.paths[at]}`)),
      element("p", { class: "summary" }, `mean KL ${bits(value.mean_kl, 4)} bits, largest ${bits(value.largest_kl, 3)} · `,
      `same first choice for ${percent(value.agreement)} of ${value.compared} tokens`),
      element("h3", {}, "What each writes by itself, the most probable token each time"),
      element("p", { class: "legend" }, value.parting ? `Token ${value.parting.index} is the first that differs. ` :
        `Both write the same ${value.continuations[0].tokens.length} tokens. `,
      ...(value.parting ? [element("span", { class: "key differs" }, "only in this text")] : [])),
      element("div", { class: "continuations" }, ...value.continuations.map((said, at) => continuation(said, at, shared[at])))), detail));
  const worst = tokens.reduce((best, token, at) => ((divergence(token) ?? -1) > (divergence(tokens[best]) ?? -1) ? at : best), 0);
  text.pin(tokens.length ? worst : null);
};
