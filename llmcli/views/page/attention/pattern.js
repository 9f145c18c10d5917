"use strict";
// One head's pattern: a map of queries by keys, and the text in which a query shows its keys.

// A cell of the map is at most `largest` pixels wide.
function drawPattern(root, { tokens, positions, pattern, layer, head }, largest = 20) {
  const { element, label, percent } = viewer;
  const MOST_OTHERS = 12;
  const LEAST = 0.005;
  const rowOf = new Map(positions.map((position, at) => [position, pattern[at]]));
  const cell = Math.max(1, Math.min(largest, Math.floor(620 / tokens.length)));
  const canvas = element("canvas", { class: "map", role: "img",
    "aria-label": `Attention of block ${layer}, head ${head}: ${positions.length} queries by ${tokens.length} keys` });
  const said = element("span", { class: "said" });
  const marker = element("i", { class: "row-marker" });

  const shown = readingText(tokens, (index) => {
    const row = rowOf.get(index);
    if (!row) {
      return null;
    }
    const others = row.map((weight, position) => ({ position, weight, text: tokens[position] }))
      .filter((one) => one.position > 0 && one.position < index && one.weight >= LEAST)
      .sort((a, b) => b.weight - a.weight).slice(0, MOST_OTHERS);
    return { sink: row[0], self: index > 0 ? row[index] : 0, others, title: `block ${layer}, head ${head}`,
      what: others.length ? "Others, as shares of the whole row:" : "All others are below 0.5%." };
  }, (index) => {
    const at = index === null ? -1 : positions.indexOf(index);
    marker.style.display = at < 0 ? "none" : "block";
    marker.style.top = `${(100 * at) / positions.length}%`;
    marker.style.height = `${100 / positions.length}%`;
  });

  function under(event) {
    const box = canvas.getBoundingClientRect();
    const place = (offset, size, count) => Math.min(Math.max(Math.floor((offset / size) * count), 0), count - 1);
    return [place(event.clientY - box.top, box.height, positions.length),
      place(event.clientX - box.left, box.width, tokens.length)];
  }
  canvas.addEventListener("pointermove", (event) => {
    const [at, key] = under(event);
    const query = positions[at];
    said.textContent = key > query ? "" :
      ` · #${query} ${label(tokens[query])} read ${percent(pattern[at][key])} of #${key} ${label(tokens[key])}`;
    shown.point(query);
  });
  canvas.addEventListener("pointerleave", () => {
    said.textContent = "";
    shown.point(null);
  });
  canvas.addEventListener("click", (event) => shown.pin(positions[under(event)[0]]));

  root.append(amounts.legend("share of the row"), element("div", { class: "beside" },
    element("div", { class: "main" }, shown.stage,
      element("figure", {}, element("figcaption", {}, `block ${layer}, head ${head} · rows: the token that attends `,
        "(query) · columns: the token attended to (key)", said),
      element("div", { class: "mapped" }, canvas, marker))), shown.detail));
  amounts.onColors(() => amounts.paint(canvas,
    pattern.map((row, at) => row.map((weight, key) => (key > positions[at] ? null : weight))), tokens.length, cell));
  shown.pin(positions.at(-1) ?? null);
}

viewer.drawings.pattern = (value, root) => drawPattern(root, value);
