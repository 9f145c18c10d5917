"use strict";
// Numbers of either sign as bars from a middle line: blue to the right if positive, amber to the left if negative.

const signedBar = (() => {
  const { element } = viewer;

  // Two cells of a table: the bar of `number`, full at `most`, and the number.
  function cells(number, most) {
    const size = 50 * Math.min(1, Math.abs(number) / (most || 1));
    const inner = element("i", { class: number < 0 ? "negative" : "positive" });
    inner.style.width = `${size}%`;
    inner.style.insetInlineStart = `${number < 0 ? 50 - size : 50}%`;
    return [element("td", {}, element("span", { class: "signed", "data-share": size / 50 }, inner)),
      element("td", { class: "number" }, `${number < 0 ? "" : "+"}${number.toFixed(2)}`)];
  }

  const most = (list) => list.reduce((high, one) => Math.max(high, Math.abs(one.logit)), 0);

  function legend(what) {
    return element("p", { class: "legend" }, `${what}: `, element("span", { class: "key negative" }, "lowers"),
      element("span", { class: "key positive" }, "raises"));
  }

  return { cells, most, legend };
})();
