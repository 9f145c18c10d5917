"use strict";
// What a model costs: curves over the length of the text, and the parameters and FLOPs of each part.

viewer.drawings.cost = (value, root) => {
  const { element, percent, bar, choice, digitsChoose } = viewer;
  // The round lengths of the curve, and those that were asked for or are the model's context.
  const lengths = [...new Map([...value.curve, ...value.lengths].map((one) => [one.tokens, one])).values()].sort((a, b) => a.tokens - b.tokens);
  const scaled = (number, base, units) => {
    let power = 0;
    while (number >= base && power < units.length - 1) {
      [number, power] = [number / base, power + 1];
    }
    return `${Number(number.toPrecision(3))} ${units[power]}`.trim();
  };
  const bytes = (number) => scaled(number, 1024, ["B", "KiB", "MiB", "GiB", "TiB", "PiB"]);
  const count = (number) => scaled(number, 1000, ["", "k", "M", "G", "T", "P", "E"]);
  const ORIGINS = { context: "the full context", text: "the text", asked: "as asked" };
  const MEASURES = [
    { name: "cache", title: "KV cache", unit: "bytes", format: bytes, of: ["kv_bytes", "kv_bytes_ungrouped"],
      names: ["this model", `if each of the ${value.query_heads} heads had its own keys and values`], help: "memory for keys and values" },
    { name: "read", title: "read all", unit: "FLOPs", format: count, of: ["flops_to_read"], names: ["prefill of the whole text"],
      help: "prefill of the whole text" },
    { name: "last", title: "one more", unit: "FLOPs", format: count, of: ["flops_of_last"], names: ["the last token, the others cached"],
      help: "one decode step at this length" },
    { name: "scores", title: "scores", unit: "share", format: percent, of: ["attention_share"], share: true,
      names: ["attention scores, of the FLOPs of one more token"], help: "share of attention scores in one more token" },
  ];
  const detail = element("aside", { class: "card", "aria-live": "polite" });
  let plot = { figure: element("figure"), show: () => {} };

  function card(one) {
    const rows = [["KV cache", bytes(one.kv_bytes)], ["with a head each", bytes(one.kv_bytes_ungrouped)],
      ["read all", `${count(one.flops_to_read)} FLOPs`], ["one more token", `${count(one.flops_of_last)} FLOPs`],
      ["attention scores in it", percent(one.attention_share)]];
    return [element("h2", {}, `${one.tokens} tokens`),
      element("p", { class: "aside" }, [ORIGINS[one.origin], one.tokens > value.context_length ? "beyond the context" : ""]
        .filter(Boolean).join(", ")),
      element("table", {}, element("tbody", {}, ...rows.map(([name, shown]) => element("tr", {},
        element("th", { scope: "row" }, name), element("td", { class: "number" }, shown)))))];
  }
  const pick = picker(lengths.length, lengths.length, (index) => {
    plot.show(index);
    detail.replaceChildren(...(index === null ? [element("p", { class: "aside" }, "Point at a length to see its costs. ",
      "A click or Enter pins it, arrow keys walk, Escape lets go, digits choose the curve.")] : card(lengths[index])));
  });

  function draw(name) {
    const measure = MEASURES.find((one) => one.name === name);
    const fields = measure.of.filter((field, at) => at === 0 || lengths.some((one) => one[field] !== one[measure.of[0]]));
    const found = lengths.flatMap((one) => fields.map((field) => one[field])).filter((number) => number > 0);
    const base = measure.unit === "bytes" ? 4 : 10;
    const [low, high] = measure.share ? [0, 1] :
      [base ** Math.floor(Math.log(Math.min(...found, 1e300)) / Math.log(base)), Math.max(...found, 1)];
    const places = lengths.map((one) => one.tokens);
    const rounds = places.filter((one) => one === 2 ** Math.round(Math.log2(one)));
    const powers = measure.share ? [] : Array.from({ length: Math.max(1, Math.ceil(Math.log(high / low) / Math.log(base))) }, (_, at) => low * base ** at);
    const next = chart({
      title: measure.share ? "share, 0 to 100%" : `${measure.unit}, both axes logarithmic`,
      x: { title: "tokens of the text", places, log: true, low: Math.min(...places), high: Math.max(...places),
        ticks: rounds.filter((_, at) => at % Math.ceil(rounds.length / 9) === 0), format: (one) => one < 1024 ? String(one) : `${one / 1024}Ki` },
      y: measure.share ? { low, high, ticks: [0, 0.25, 0.5, 0.75, 1], format: (one) => `${100 * one}%` } :
        { low, high, log: true, ticks: powers.filter((_, at) => at % Math.ceil(powers.length / 6) === 0), format: measure.format },
      series: fields.map((field, at) => ({ name: measure.names[at], points: lengths.map((one) => ({ value: one[field] })) })),
    });
    plot.figure.replaceWith(next.figure);
    plot = next;
    pick.listen(plot.picture, plot.indexAt);
    pick.pin(null);
  }
  const curves = choice("over the length", MEASURES, "cache", draw);
  digitsChoose(curves);

  function parts() {
    const mixed = value.active < value.parameters;
    const cell = (share, shown) => [element("td", {}, bar(share)), element("td", { class: "number" }, shown)];
    return element("table", { class: "parts" }, element("thead", {}, element("tr", {}, element("th", {}, "part"),
      element("th", { colspan: 2 }, "parameters"), mixed ? element("th", { colspan: 2 }, "active for a token") : null,
      element("th", { colspan: 2 }, "FLOPs a token, without scores"))),
    element("tbody", {}, ...value.boxes.map((one) => element("tr", {}, element("th", { scope: "row" }, one.box.replaceAll("_", " ")),
      ...cell(one.parameters / value.parameters, one.box === "output_head" && !one.parameters ? "tied" : count(one.parameters)),
      ...(mixed ? cell(one.active / value.active, count(one.active)) : []),
      ...cell(one.flops_per_token / value.flops_per_token, count(one.flops_per_token)))),
    element("tr", {}, element("th", { scope: "row" }, element("strong", {}, "model")), ...cell(1, count(value.parameters)),
      ...(mixed ? cell(1, count(value.active)) : []), ...cell(1, count(value.flops_per_token)))));
  }
  const kinds = value.latent ? "one latent for all heads" : `${value.kv_heads} key-value heads for ${value.query_heads} query heads`;
  root.append(curves.row, element("div", { class: "beside" }, element("div", { class: "main" }, plot.figure,
    element("h3", {}, "Parts of the model"), element("div", { class: "wide" }, parts()),
    element("p", { class: "summary" }, `KV cache: ${bytes(value.kv_bytes_per_token)} a token in ${8 * value.kv_value_bytes}-bit values, ${kinds}`,
      value.state_bytes ? ` · states: ${bytes(value.state_bytes)} for a text of any length` : "",
      ` · context: ${value.context_length} tokens`)), detail));
  draw("cache");
};
