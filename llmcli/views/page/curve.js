"use strict";
// The surprise of each token along a text, in bits, as a curve that can be pointed at.

function surpriseCurve(tokens, { point, pin }) {
  const { element, drawn, bits, label } = viewer;
  const surprise = tokens.map((token) => (token.logprob === null || token.logprob === undefined ? null : -token.logprob / Math.LN2));
  const known = surprise.filter((value) => value !== null);
  if (known.length < 2) {
    return null;
  }
  const [width, height] = [tokens.length, 100];
  const highest = Math.max(4, Math.ceil(known.reduce((most, value) => Math.max(most, value), 0)));
  const y = (value) => height - (height * value) / highest;
  // A step for each token; a gap where there is no number.
  const path = surprise.map((value, at) =>
    value === null ? "" : `${at === 0 || surprise[at - 1] === null ? "M" : "L"}${at} ${y(value).toFixed(2)}H${at + 1}`).join("");
  const mean = known.reduce((sum, value) => sum + value, 0) / known.length;
  const marker = drawn("rect", { class: "marker", y: 0, height, width: 1, x: -2 });
  const picture = drawn("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", class: "curve",
    role: "img", "aria-label": `Surprise of each token, 0 to ${highest} bits` },
  marker,
  drawn("line", { class: "mean", x1: 0, x2: width, y1: y(mean), y2: y(mean), "vector-effect": "non-scaling-stroke" }),
  drawn("path", { d: path, "vector-effect": "non-scaling-stroke" }));
  const said = element("span", { class: "said" });

  function indexAt(event) {
    const box = picture.getBoundingClientRect();
    const at = Math.floor(((event.clientX - box.left) / box.width) * width);
    return Math.min(Math.max(at, 0), width - 1);
  }
  picture.addEventListener("pointermove", (event) => point(indexAt(event)));
  picture.addEventListener("pointerleave", () => point(null));
  picture.addEventListener("click", (event) => pin(indexAt(event), true));

  const figure = element("figure", { class: "surprise" },
    element("figcaption", {}, `surprise along the text, in bits; dashed: the mean, ${mean.toFixed(2)} bits`, said),
    element("div", { class: "plot" }, element("span", { class: "axis top" }, String(highest)),
      element("span", { class: "axis bottom" }, "0"), picture));

  function show(index) {
    marker.setAttribute("x", index ?? -2);
    said.textContent = index === null || surprise[index] === null ? "" :
      ` · #${index} ${label(tokens[index])}: ${bits(-tokens[index].logprob)} bits`;
  }
  return { figure, show };
}
