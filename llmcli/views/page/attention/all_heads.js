"use strict";
// The patterns of all heads on one text: small maps, blocks by heads, of which a click enlarges one.

viewer.drawings.all_heads = (value, root) => {
  const { element, choice, digitsChoose } = viewer;
  const SIZE = 34;
  const GAP = 4;
  const layers = new Map();
  for (const head of value.heads) {
    layers.set(head.layer, [...(layers.get(head.layer) ?? []), head]);
  }
  const positions = value.tokens.map((_, position) => position);
  const enlarged = element("section", { class: "enlarged" });
  const said = element("span", { class: "said" });
  let weighed = false;
  let chosen = value.heads[0] ?? null;

  // The weights as they are, or each times the length of the value that it moves, so that a row sums to 1 again.
  function rows(head) {
    return !weighed ? head.pattern : head.pattern.map((row) => {
      const moved = row.map((weight, key) => weight * head.value_lengths[key]);
      const sum = moved.reduce((all, one) => all + one, 0) || 1;
      return moved.map((one) => one / sum);
    });
  }

  function paintLayer(canvas) {
    const list = layers.get(Number(canvas.dataset.layer));
    canvas.width = list.length * (SIZE + GAP);
    canvas.height = SIZE + GAP;
    const context = canvas.getContext("2d");
    const small = document.createElement("canvas");
    list.forEach((head, number) => {
      amounts.paint(small, rows(head), value.tokens.length, 1);
      context.imageSmoothingEnabled = small.width > SIZE;
      context.drawImage(small, number * (SIZE + GAP) + GAP / 2, GAP / 2, SIZE, SIZE);
      if (head === chosen) {
        context.strokeStyle = getComputedStyle(document.documentElement).getPropertyValue("--amber");
        context.lineWidth = 2;
        context.strokeRect(number * (SIZE + GAP) + 1, 1, SIZE + 2, SIZE + 2);
      }
    });
    canvas.dataset.painted = "yes";
  }

  const canvases = Array.from(layers, ([layer, list]) => {
    const canvas = element("canvas", { class: "small-maps", "data-layer": layer, role: "img",
      "aria-label": `${list.length} heads of block ${layer}` });
    [canvas.width, canvas.height] = [list.length * (SIZE + GAP), SIZE + GAP];
    return canvas;
  });
  const grid = element("div", { class: "scroll" }, ...canvases.map((canvas) =>
    element("div", { class: "small-row" }, element("span", { class: "what" }, canvas.dataset.layer), canvas)));

  // Blocks are painted when they come into view: a large model has thousands of heads.
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries.filter((one) => one.isIntersecting && !one.target.dataset.painted)) {
      paintLayer(entry.target);
    }
  });

  function repaint() {
    for (const canvas of canvases) {
      delete canvas.dataset.painted;
      seen.unobserve(canvas);
      seen.observe(canvas);
    }
  }

  function headAt(event) {
    const canvas = event.target.closest?.("canvas");
    if (!canvas) {
      return null;
    }
    const box = canvas.getBoundingClientRect();
    return layers.get(Number(canvas.dataset.layer))[Math.floor((event.clientX - box.left) / (SIZE + GAP))] ?? null;
  }

  function enlarge(head) {
    chosen = head;
    enlarged.replaceChildren();
    if (head) {
      drawPattern(enlarged, { tokens: value.tokens, positions, pattern: rows(head), layer: head.layer, head: head.head }, 9);
    }
    repaint();
  }

  grid.addEventListener("pointermove", (event) => {
    const head = headAt(event);
    said.textContent = head ? ` · block ${head.layer}, head ${head.head}` : "";
  });
  grid.addEventListener("click", (event) => {
    const head = headAt(event);
    if (head) {
      enlarge(head);
    }
  });
  gridKeys(grid, Array.from(layers.values()), () => chosen, (head) => {
    if (head) {
      enlarge(head);
      grid.querySelector(`[data-layer="${head.layer}"]`).scrollIntoView({ block: "nearest" });
    }
  });
  const weights = choice("weights", [
    { name: "raw", title: "raw", help: "the shares of attention" },
    { name: "moved", title: "by value length", help: "attention times the length of the value that it moves" },
  ], "raw", (name) => {
    weighed = name === "moved";
    enlarge(chosen);
  });
  digitsChoose(weights);
  root.append(weights.row, enlarged, element("figure", {},
    element("figcaption", {}, "all heads · rows: blocks · columns: heads · click one, or walk with the arrow keys, to enlarge it", said), grid));
  amounts.onColors(repaint);
  enlarge(chosen);
};
