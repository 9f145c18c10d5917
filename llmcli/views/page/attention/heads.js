"use strict";
// All heads of a model, blocks by heads: colored by the kind of token that each attends to most, or by one score.

const heads = (() => {
  // The names of the scores, and the hues of the kinds: told apart by people who confuse red and green too.
  const KINDS = [
    { name: "previous", title: "previous token", of: (one) => one.previous },
    { name: "duplicate", title: "same token earlier", of: (one) => one.duplicate },
    { name: "induction", title: "what followed it earlier (induction)", of: (one) => one.induction },
    { name: "sink", title: "first token (sink)", of: (one) => one.sink },
  ];
  const WEAK = 0.2;

  // The kind with the highest score, and that score; null if none reaches WEAK.
  function kindOf(scores) {
    const best = KINDS.reduce((most, kind) => ((kind.of(scores) ?? 0) > (most.of(scores) ?? 0) ? kind : most));
    return (best.of(scores) ?? 0) < WEAK ? null : best;
  }

  return { KINDS, WEAK, kindOf };
})();

viewer.drawings.heads = (value, root) => {
  const { element, percent, bar, choice, digitsChoose } = viewer;
  const name = (one) => `${one.layer}.${one.head}`;
  const layers = new Map();
  for (const one of value.heads) {
    layers.set(one.layer, [...(layers.get(one.layer) ?? []), one]);
  }
  const byName = new Map(value.heads.map((one) => [name(one), one]));
  const detail = element("aside", { class: "card", "aria-live": "polite" });
  const table = element("table", { class: "heads" }, element("tbody", {}, ...Array.from(layers, ([layer, list]) =>
    element("tr", {}, element("th", { scope: "row" }, String(layer)),
      ...list.map((one) => element("td", { "data-head": name(one), title: `head ${name(one)}` }))))));
  let pinned = null;

  function card(one) {
    const kind = heads.kindOf(one);
    const scores = heads.KINDS.filter((each) => each.of(one) !== null).map((each) => {
      const rest = one[`${each.name}_without_sink`];
      return element("tr", {}, element("th", { scope: "row" }, each.title),
        element("td", {}, bar(each.of(one))), element("td", { class: "number" }, percent(each.of(one))),
        element("td", { class: "number" }, percent(rest)));
    });
    return [
      element("h2", {}, `head ${one.head} of block ${one.layer}`),
      element("p", { class: "aside" }, kind ? `attends mostly to: ${kind.title}` :
        `no score reaches ${percent(heads.WEAK)}`),
      element("table", {}, element("thead", {}, element("tr", {}, element("th", {}, "attention on"),
        element("th", { colspan: 2 }, "share"), element("th", {}, "without sink"))), element("tbody", {}, ...scores)),
      one.learned_sink === null ? null : element("p", {}, `learned sink: ${percent(one.learned_sink)}`),
    ].filter((part) => part !== null);
  }

  function show(at) {
    table.querySelector(".shown")?.classList.remove("shown");
    const one = byName.get(at ?? pinned);
    if (!one) {
      detail.replaceChildren(element("p", { class: "aside" }, "Point at a head to see its scores, or walk with the arrow keys. A click pins it, Escape lets go."));
      return;
    }
    table.querySelector(`[data-head="${name(one)}"]`).classList.add("shown");
    detail.replaceChildren(...card(one));
  }
  const headAt = (event) => event.target.closest?.("[data-head]")?.dataset.head ?? null;
  table.addEventListener("pointerover", (event) => show(headAt(event)));
  table.addEventListener("pointerleave", () => show(null));
  table.addEventListener("click", (event) => {
    pinned = headAt(event) === pinned ? null : headAt(event);
    show(null);
  });

  gridKeys(table, Array.from(layers.values()), () => byName.get(pinned), (one) => {
    pinned = one ? name(one) : null;
    show(null);
    table.querySelector(".shown")?.scrollIntoView({ block: "nearest" });
  });

  let legend = element("p");
  function color(chosen) {
    for (const cell of table.querySelectorAll("td")) {
      const one = byName.get(cell.dataset.head);
      const kind = heads.kindOf(one);
      const single = heads.KINDS.find((each) => each.name === chosen);
      cell.className = single ? amounts.className(single.of(one) ?? 0) : kind ? `kind-${kind.name}` : "kind-none";
      cell.style.opacity = single || !kind ? "" : String(0.35 + 0.65 * kind.of(one));
    }
    const next = chosen === "kind" ? element("p", { class: "legend" }, "attends mostly to: ",
      ...heads.KINDS.map((kind) => element("span", { class: `key kind-${kind.name}` }, kind.title)),
      element("span", { class: "key kind-none" }, `none of these by ${percent(heads.WEAK)}`)) :
      amounts.legend("share of the head's attention");
    legend.replaceWith(next);
    legend = next;
    show(null);
  }
  const colors = choice("colors", [{ name: "kind", title: "kind", help: "the highest of the four scores" },
    ...heads.KINDS.map((kind) => ({ name: kind.name, title: kind.name, help: kind.title }))], "kind", color);
  digitsChoose(colors);

  function ablation() {
    const { before, without, random, heads: off } = value.ablation;
    const bits = (nats) => `${viewer.bits(nats)} bits`;
    return element("p", { class: "summary" }, `Loss a token: ${bits(before)} before, ${bits(without)} without the `,
      `${off.length} strongest induction heads (${off.map((one) => `${one.layer}.${one.head}`).join(", ")}), `,
      `${random.map((one) => bits(one)).join(", ")} without as many others.`);
  }
  root.append(colors.row, legend, element("div", { class: "beside" },
    element("div", { class: "main" }, element("figure", {},
      element("figcaption", {}, "rows: blocks from 0 · columns: heads from 0"), element("div", { class: "wide" }, table)),
    value.ablation ? ablation() : null,
    element("p", { class: "summary" }, `${value.batch} ${value.batch === 1 ? "text" : "texts"} of ${value.length} tokens, ${value.batch === 1 ? "" : "each "}`,
      "repeated once",
      value.seed === null ? "" : ` · seed ${value.seed}`)), detail));
  color("kind");
};
