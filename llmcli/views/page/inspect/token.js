"use strict";
// The card of one token as a page: what it could have been, what was read, what each block would have said, and how
// blocks, heads and neurons add up to its logit.

viewer.drawings.token = (value, root) => {
  const { element, label, percent, bits, bar } = viewer;
  const { token, lens, attribution, read, verify } = value;
  const bold = (one) => element("bdi", {}, label(one));
  const signed = (number) => `${number < 0 ? "" : "+"}${number.toFixed(2)}`;
  const place = (layer) => (layer === 0 ? "emb" : String(layer - 1));

  function table(head, rows) {
    return element("div", { class: "wide" }, element("table", {},
      element("thead", {}, element("tr", {}, ...head.map((name) => element("th", {}, name)))),
      element("tbody", {}, ...rows)));
  }
  const cell = (said) => element("td", { class: "number" }, said);
  const named = (...name) => element("th", { scope: "row" }, ...name);
  const section = (title, ...parts) => element("section", {}, element("h3", {}, title), ...parts);

  function shares(name, share, place, kind) {
    return element("tr", { class: kind }, named(name, place === undefined ? null : element("small", {}, ` #${place}`)),
      element("td", {}, bar(share)), cell(percent(share)));
  }

  function candidates() {
    return section("Could be", table(["token", "", "probability"], value.candidates.map((one) =>
      shares(bold(one), one.prob, undefined, one.id === token.id ? "chosen" : null))));
  }

  function reading() {
    return read === null ? null : section("What was read to predict it", table(["token", "", "share"], [
      shares("first token (sink)", read.sink, undefined, "aside"), shares("itself", read.self, undefined, "aside"),
      ...read.read.map((one) => shares(label(one.text), one.weight, one.position))]),
    element("p", { class: "aside" }, "The others are shares of what is not on these two."));
  }

  function layers() {
    return section(`What each block would have said, and the rank of ${label(token)}`,
      element("div", { class: "scroll" }, table(["block", "says", "", "", "rank", "KL bits"], lens.layers.map((layer) =>
        element("tr", { class: layer.rank === 1 ? "chosen" : null }, element("td", { class: "number" }, place(layer.layer)),
          named(bold(layer.top[0])), element("td", {}, bar(layer.top[0].prob)), cell(percent(layer.top[0].prob)),
          cell(String(layer.rank)), cell(layer.kl === null ? "infinite" : bits(layer.kl)))))));
  }

  function blocks() {
    const parts = [["attention", attribution.recurrent.length ? "mixer" : "attention"], ["feed_forward", "feed-forward"],
      ...(attribution.blocks.some((one) => one.per_layer) ? [["per_layer", "per-layer"]] : [])];
    const most = attribution.blocks.reduce((high, one) =>
      Math.max(high, ...parts.map(([field]) => Math.abs(one[field]))), 0);
    const sum = (field) => attribution.blocks.reduce((all, one) => all + one[field], 0);
    const terms = [["mean", attribution.mean_logit], ["embedding", attribution.embedding],
      ...parts.map(([field, name]) => [name, sum(field)]), ["bias", attribution.bias], ["rounding", attribution.rounding]]
      .filter(([name, term]) => Math.abs(term) >= 0.005 || !["bias", "rounding"].includes(name));
    return section("How blocks add up to its logit",
      element("p", { class: "summary" }, `${attribution.logit.toFixed(2)} = `,
        terms.map(([name, term]) => `${signed(term)} ${name}`).join(" "),
        attribution.softcap === null ? "" : `, before the soft cap of ${attribution.softcap}`),
      signedBar.legend("adds to the logit"),
      element("div", { class: "scroll" }, table(["block", ...parts.flatMap(([, name]) => [name, ""])],
        attribution.blocks.map((one) => element("tr", {}, named(String(one.block)),
          ...parts.flatMap(([field]) => signedBar.cells(one[field], most)))))));
  }

  function heads() {
    const most = signedBar.most(attribution.heads);
    return section("Strongest heads", table(["head", "logit", "", "attends to"], attribution.heads.map((one) =>
      element("tr", {}, named(`${one.block}.${one.head}`), ...signedBar.cells(one.logit, most),
        element("td", {}, one.looked_at ? [bold(one.looked_at), element("small", {}, ` ${percent(one.looked_at.weight)} #${one.looked_at.position}`)] : "")))));
  }

  function neurons() {
    const most = signedBar.most(attribution.neurons);
    return section("Strongest neurons", table(["neuron", "logit", "", "fires", "promotes"], attribution.neurons.map((one) =>
      element("tr", {}, named([one.block, one.expert, one.neuron].filter((part) => part !== null).join(".")),
        ...signedBar.cells(one.logit, most), cell(signed(one.activation)),
        element("td", {}, ...one.promotes.flatMap((each) => [element("bdi", { class: "chip" }, label(each)), " "]))))));
  }

  function ablations() {
    const name = ({ heads: off, neurons: silent, control }) => {
      const all = [...off.map((one) => `head ${one.block}.${one.head}`), ...silent.map((one) => `neuron ${one.block}.${one.neuron}`)];
      const which = all.length === 1 ? all[0] : control ? String(all.length) : `all ${all.length} of them`;
      return control ? `${which} drawn at random` : which;
    };
    return verify === null ? null : section(`${percent(verify.before)}, and with these switched off`,
      table(["off", "", "probability"], verify.ablations.map((one) =>
        shares(name(one), one.after, undefined, one.control ? "aside" : null))));
  }

  root.append(
    element("h2", {}, bold(token), element("small", {}, ` token ${token.index}, after `, bold(value.before),
      token.stands ? "" : " (not in the text)")),
    element("p", { class: "summary" }, `probability ${percent(token.prob)} · rank ${token.rank} · entropy ${bits(value.entropy)} bits`),
    ...[[candidates(), reading()], [layers(), blocks()], [heads(), neurons()], [ablations()]].map((pair) =>
      element("div", { class: "pair" }, ...pair)));
};
