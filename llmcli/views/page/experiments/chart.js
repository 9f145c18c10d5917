"use strict";
// Curves over one axis with ticks, units and intervals, and what picks one of their points by pointer or keyboard.

// Which of `count` places is pinned or pointed at. `columns` places are a row, which ArrowUp and ArrowDown step over;
// `show(index or null)` is called with the place to show: the one pointed at, else the pinned one.
function picker(count, columns, show) {
  const { hasModifier } = viewer;
  let pinned = null;
  let pointed = null;
  const update = () => show(pointed ?? pinned);
  const within = (index) => Math.min(Math.max(index, 0), count - 1);

  function point(index) {
    if (index !== pointed) {
      pointed = index;
      update();
    }
  }
  function pin(index) {
    pinned = index === null ? null : within(index);
    pointed = null;
    update();
  }
  const moves = {
    ArrowLeft: (at) => at - 1, ArrowRight: (at) => at + 1, Home: () => 0, End: () => count - 1,
    ArrowUp: (at) => (at < columns ? at : at - columns), ArrowDown: (at) => (at + columns < count ? at + columns : at),
  };

  function keys(event) {
    if (hasModifier(event) || count === 0) {
      return;
    }
    const at = pointed ?? pinned;
    if (event.key in moves) {
      pin(at === null ? 0 : moves[event.key](at));
    } else if (event.key === "Enter" && at !== null) {
      pin(pointed === null || pointed === pinned ? null : pointed);
    } else if (event.key === "Escape") {
      pin(null);
    } else {
      return;
    }
    event.preventDefault();
  }

  // `indexAt(event)` gives the place under the pointer, or null.
  function listen(target, indexAt) {
    target.addEventListener("pointermove", (event) => point(indexAt(event)));
    target.addEventListener("pointerleave", () => point(null));
    target.addEventListener("click", (event) => {
      const index = indexAt(event);
      pin(index === pinned ? null : index);
    });
    target.addEventListener("keydown", keys);
  }
  return { listen, point, pin };
}

// About `count` round numbers from `low` to `high`.
function roundTicks(low, high, count = 5) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((digit) => digit * power).find((one) => one >= rough);
  const first = Math.ceil(low / step - 1e-9);
  return Array.from({ length: Math.max(0, Math.floor(high / step + 1e-9) - first + 1) }, (_, at) => (first + at) * step);
}

// `series`: { name, points: [{ value, low, high }] } with one point for each of `x.places`; a point without a value is
// a gap. `x` and `y`: { title, low, high, ticks, format, log }. `lines`: { value, title } across the whole width.
function chart({ title, x, y, series, lines = [] }) {
  const { element, drawn } = viewer;
  const [width, height, left, right, top, bottom] = [640, 230, 54, 618, 10, 192];
  const share = (axis, value) => {
    const [low, high, at] = axis.log ? [axis.low, axis.high, Math.max(value, axis.low)].map(Math.log) :
      [axis.low, axis.high, value];
    return high === low ? 0.5 : (at - low) / (high - low);
  };
  const across = (value) => left + (right - left) * share(x, value);
  const up = (value) => bottom - (bottom - top) * Math.min(Math.max(share(y, value), 0), 1);
  const isKnown = (value) => value !== null && value !== undefined;

  function grid() {
    return [
      ...y.ticks.flatMap((value) => [drawn("line", { class: "grid", x1: left, x2: right, y1: up(value), y2: up(value) }),
        drawn("text", { x: left - 6, y: up(value) + 4, "text-anchor": "end" }, y.format(value))]),
      ...x.ticks.map((value) => drawn("text", { x: across(value), y: bottom + 15, "text-anchor": "middle" }, x.format(value))),
      drawn("text", { x: (left + right) / 2, y: bottom + 32, "text-anchor": "middle" }, x.title),
      ...lines.map((line) => drawn("line", { class: "level", x1: left, x2: right, y1: up(line.value), y2: up(line.value) })),
    ];
  }

  function curve({ points }, number) {
    const path = points.map((one, at) => (!isKnown(one.value) ? "" :
      `${at === 0 || !isKnown(points[at - 1].value) ? "M" : "L"}${across(x.places[at]).toFixed(2)} ${up(one.value).toFixed(2)}`)).join("");
    const marked = points.length <= 64;
    return points.flatMap((one, at) => {
      const place = across(x.places[at]);
      return [
        isKnown(one.low) ? drawn("path", { class: "interval", "data-low": one.low, "data-high": one.high,
          d: `M${place - 5} ${up(one.low)}h10M${place - 5} ${up(one.high)}h10M${place} ${up(one.low)}V${up(one.high)}` }) : null,
        marked && isKnown(one.value) ? drawn("circle", { cx: place, cy: up(one.value), r: 3, "data-value": one.value }) : null,
      ];
    }).concat(drawn("path", { class: "line", d: path })).reduce(
      (group, part) => (part && group.append(part), group), drawn("g", { class: `series${number}` }));
  }

  const marker = drawn("line", { class: "marker", y1: top, y2: bottom, visibility: "hidden" });
  const picture = drawn("svg", { viewBox: `0 0 ${width} ${height}`, class: "chart", tabindex: 0, role: "application",
    "aria-label": `${title}. Arrows walk through the points, Enter pins one, Escape lets go.` },
  ...grid(), marker, ...series.map(curve));
  const keys = [
    ...series.filter((one) => one.name).map((one, number) =>
      element("span", { class: `curve-key series${number}` }, one.name)),
    ...lines.map((line) => element("span", { class: "curve-key level" }, line.title)),
  ];
  const figure = element("figure", {}, element("figcaption", {}, title, keys.length ? " " : null, ...keys), picture);

  // The index of the place nearest to the pointer.
  function indexAt(event) {
    const box = picture.getBoundingClientRect();
    const at = ((event.clientX - box.left) / box.width) * width;
    return x.places.reduce((best, place, index) =>
      (Math.abs(across(place) - at) < Math.abs(across(x.places[best]) - at) ? index : best), 0);
  }
  function show(index) {
    marker.setAttribute("visibility", index === null ? "hidden" : "visible");
    if (index !== null) {
      marker.setAttribute("x1", across(x.places[index]));
      marker.setAttribute("x2", across(x.places[index]));
    }
  }
  return { figure, picture, indexAt, show };
}
