"use strict";
// Arcs over a text from one token to those it read; the width of an arc is its share.

function arcsOver(container) {
  const { drawn } = viewer;
  const THICKEST = 24;
  const picture = drawn("svg", { class: "arcs", "aria-hidden": "true" });
  container.append(picture);

  // `from` and each of `to` are elements in the container: to = [[element, share], ...].
  function show(from, to) {
    picture.replaceChildren();
    if (!from) {
      return;
    }
    const frame = container.getBoundingClientRect();
    const middle = (element) => {
      const box = element.getClientRects()[0] ?? element.getBoundingClientRect();
      return [(box.left + box.right) / 2 - frame.left, box.top - frame.top + 2];
    };
    const [x, y] = middle(from);
    for (const [element, share] of to) {
      const [left, top] = middle(element);
      const lift = Math.min(60, 12 + Math.abs(x - left) / 6);
      const peak = Math.min(y, top) - lift;
      picture.append(drawn("path", { d: `M${x} ${y}C${x} ${peak} ${left} ${peak} ${left} ${top}`,
        "stroke-width": Math.max(1, share * THICKEST).toFixed(1), "data-share": share }));
    }
  }
  return { show };
}
