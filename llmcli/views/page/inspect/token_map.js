"use strict";
// A map of rows (blocks) by the tokens of a text, with a word in each cell, drawn on a canvas: only the part in view is
// drawn, so that its size does not depend on the length of the text. It is pointed at, clicked and walked with keys.
//
// tokenMap({ name, rows, columns, word, shade, rule, show }): `rows` are labels, `columns` have a token
// and its position each. Of a cell, word(row, column) gives the text, shade(row, column) the class of its color, such as "band2",
// and rule(row, column) whether a line above it marks a change. show({ row, column } or null) is called with the cell
// pointed at, else the pinned one.

function tokenMap({ name, rows, columns, word, shade, rule = () => false, show, wide = 88 }) {
  const { element, label, hasModifier } = viewer;
  const [HEAD, TOP, HIGH, FONT] = [44, 42, 22, 12];
  const HIGHEST = 780;
  const SHADES = ["band0", "band1", "band2", "band3", "band4", "amount0", "amount1", "amount2", "amount3", "amount4"];
  let pinned = null;
  let pointed = null;
  let colors = {};
  let asked = 0;
  let waiting = 0;

  const canvas = element("canvas", { class: "token-map" });
  const extent = element("div", { class: "token-extent" }, canvas);
  const frame = element("div", { class: "token-frame", tabindex: 0, role: "application",
    "aria-label": `${name}: ${rows.length} rows by ${columns.length} tokens. Arrows walk, Enter pins, Escape lets go.` },
  extent);
  extent.style.width = `${HEAD + columns.length * wide}px`;
  extent.style.height = `${TOP + rows.length * HIGH}px`;
  frame.style.maxHeight = `${HIGHEST}px`;
  const overview = element("canvas", { class: "token-overview", role: "img", "aria-label": "The whole map; a click goes there" });
  const part = element("i", { class: "overview-part" });
  const strip = element("div", { class: "token-strip" }, overview, part);

  function readColors() {
    const styles = getComputedStyle(document.documentElement);
    const of = (variable) => styles.getPropertyValue(variable).trim();
    colors = { page: of("--page"), ink: of("--ink"), dim: of("--dim"), focus: of("--focus") };
    for (const each of SHADES) {
      const isDeep = each === "amount3" || each === "amount4";
      colors[each] = [of(`--${each}`), each.startsWith("amount") ? (isDeep ? colors.page : colors.ink) :
        each === "band3" || each === "band4" ? "#000000" : of("--on-band")];
    }
  }

  const fitted = new Map();
  // A text cut to the width of a cell.
  function fit(context, text) {
    if (!fitted.has(text)) {
      const signs = Array.from(text.slice(0, 40));
      let count = signs.length;
      while (count > 1 && context.measureText(signs.slice(0, count).join("")).width > wide - 8) {
        count -= 1;
      }
      fitted.set(text, count === signs.length ? text : `${signs.slice(0, Math.max(1, count - 1)).join("")}…`);
    }
    return fitted.get(text);
  }

  // The rows and columns in view, and the pixels by which the first ones are scrolled out.
  function view() {
    const column = Math.floor(frame.scrollLeft / wide);
    const row = Math.floor(frame.scrollTop / HIGH);
    return { column, row, left: HEAD + column * wide - frame.scrollLeft, top: TOP + row * HIGH - frame.scrollTop,
      lastColumn: Math.min(columns.length - 1, column + Math.ceil((frame.clientWidth - HEAD) / wide)),
      lastRow: Math.min(rows.length - 1, row + Math.ceil((frame.clientHeight - TOP) / HIGH)) };
  }

  function draw() {
    asked = 0;
    const [width, height, scale] = [frame.clientWidth, Math.min(frame.clientHeight, TOP + rows.length * HIGH),
      window.devicePixelRatio || 1];
    [canvas.width, canvas.height] = [Math.round(width * scale), Math.round(height * scale)];
    [canvas.style.width, canvas.style.height] = [`${width}px`, `${height}px`];
    const context = canvas.getContext("2d");
    context.scale(scale, scale);
    context.font = `${FONT}px system-ui, "Noto Sans", sans-serif`;
    context.textBaseline = "middle";
    const seen = view();
    const x = (column) => seen.left + (column - seen.column) * wide;
    const y = (row) => seen.top + (row - seen.row) * HIGH;
    const write = (text, left, middle, color) => {
      context.fillStyle = color;
      context.fillText(fit(context, text), left, middle);
    };
    const rules = [];
    for (let column = seen.column; column <= seen.lastColumn; column += 1) {
      for (let row = seen.row; row <= seen.lastRow; row += 1) {
        const [back, front] = colors[shade(row, column)] ?? [colors.page, colors.ink];
        context.fillStyle = back;
        context.fillRect(x(column), y(row), wide - 1, HIGH - 1);
        write(word(row, column), x(column) + 4, y(row) + HIGH / 2, front);
        if (rule(row, column)) {
          rules.push([x(column), y(row)]);
        }
      }
    }
    context.fillStyle = colors.ink;
    rules.forEach(([left, top]) => context.fillRect(left, top - 2, wide - 1, 3));
    const at = pointed ?? pinned;
    if (at) {
      context.strokeStyle = colors.ink;
      context.lineWidth = 2;
      context.strokeRect(x(at.column), y(at.row), wide - 2, HIGH - 2);
    }
    // Titles last: cells that are scrolled under them are painted over.
    context.fillStyle = colors.page;
    context.fillRect(0, 0, width, TOP);
    context.fillRect(0, 0, HEAD, height);
    for (let column = seen.column; column <= seen.lastColumn; column += 1) {
      write(`#${columns[column].position}`, x(column) + 4, 11, colors.dim);
      write(label(columns[column].token), x(column) + 4, 29, colors.ink);
    }
    context.textAlign = "right";
    for (let row = seen.row; row <= seen.lastRow; row += 1) {
      write(rows[row], HEAD - 6, y(row) + HIGH / 2, colors.dim);
    }
    context.fillStyle = colors.page;
    context.fillRect(0, 0, HEAD, TOP);
    drawPart();
  }

  function drawPart() {
    const whole = columns.length * wide;
    part.style.insetInlineStart = `${(100 * frame.scrollLeft) / whole}%`;
    part.style.width = `${Math.min(100, (100 * (frame.clientWidth - HEAD)) / whole)}%`;
  }

  // All cells, a pixel wide each, after the cells in view: it takes longest.
  function drawOverview() {
    strip.hidden = columns.length * wide + HEAD <= frame.clientWidth;
    if (strip.hidden) {
      return;
    }
    [overview.width, overview.height] = [columns.length, rows.length];
    const context = overview.getContext("2d");
    const image = context.createImageData(columns.length, rows.length);
    const bytes = new Map(SHADES.map((name) => [name,
      [1, 3, 5].map((at) => parseInt(colors[name][0].slice(at, at + 2), 16))]));
    for (let row = 0; row < rows.length; row += 1) {
      for (let column = 0; column < columns.length; column += 1) {
        const color = bytes.get(shade(row, column));
        if (color) {
          image.data.set([...color, 255], 4 * (row * columns.length + column));
        }
      }
    }
    context.putImageData(image, 0, 0);
  }

  function later() {
    asked ||= requestAnimationFrame(draw);
  }

  function update() {
    show(pointed ?? pinned);
    later();
  }

  function pin(at) {
    pinned = at && { row: Math.min(Math.max(at.row, 0), rows.length - 1),
      column: Math.min(Math.max(at.column, 0), columns.length - 1) };
    pointed = null;
    if (pinned) {
      const [left, top] = [pinned.column * wide, pinned.row * HIGH];
      frame.scrollLeft = Math.min(left, Math.max(frame.scrollLeft, left + wide + HEAD - frame.clientWidth));
      frame.scrollTop = Math.min(top, Math.max(frame.scrollTop, top + HIGH + TOP - frame.clientHeight));
    }
    update();
  }

  function under(event) {
    const box = frame.getBoundingClientRect();
    const [left, top] = [event.clientX - box.left - frame.clientLeft, event.clientY - box.top - frame.clientTop];
    const column = Math.floor((left - HEAD + frame.scrollLeft) / wide);
    const row = Math.floor((top - TOP + frame.scrollTop) / HIGH);
    const isCell = left >= HEAD && top >= TOP && column < columns.length && row < rows.length;
    return isCell ? { row, column } : null;
  }
  const isSame = (one, other) => one?.row === other?.row && one?.column === other?.column;

  function point(at) {
    if (!isSame(at, pointed)) {
      pointed = at;
      update();
    }
  }
  frame.addEventListener("pointermove", (event) => point(under(event)));
  frame.addEventListener("pointerleave", () => point(null));
  frame.addEventListener("scroll", later);
  frame.addEventListener("click", (event) => {
    const at = under(event);
    pin(isSame(at, pinned) ? null : at);
  });
  strip.addEventListener("click", (event) => {
    const box = strip.getBoundingClientRect();
    const middle = ((event.clientX - box.left) / box.width) * columns.length * wide;
    frame.scrollLeft = middle - (frame.clientWidth - HEAD) / 2;
  });

  const last = { row: rows.length - 1, column: columns.length - 1 };
  const moves = {
    ArrowLeft: (at) => ({ ...at, column: at.column - 1 }), ArrowRight: (at) => ({ ...at, column: at.column + 1 }),
    ArrowUp: (at) => ({ ...at, row: at.row - 1 }), ArrowDown: (at) => ({ ...at, row: at.row + 1 }),
    Home: (at) => ({ ...at, column: 0 }), End: (at) => ({ ...at, column: last.column }),
    PageUp: (at) => ({ ...at, row: 0 }), PageDown: (at) => ({ ...at, row: last.row }),
  };
  document.addEventListener("keydown", (event) => {
    const isHere = document.activeElement === frame || document.activeElement === document.body;
    if (!isHere || hasModifier(event)) {
      return;
    }
    const at = pointed ?? pinned;
    if (event.key in moves && (at || document.activeElement === frame)) {
      pin(at ? moves[event.key](at) : last);
    } else if (event.key === "Enter" && at) {
      pin(pointed === null || isSame(pointed, pinned) ? null : pointed);
    } else if (event.key === "Escape") {
      pin(null);
    } else {
      return;
    }
    event.preventDefault();
  });

  // Draw everything anew, after the colors have changed.
  function redraw() {
    readColors();
    draw();
    clearTimeout(waiting);
    waiting = setTimeout(drawOverview);
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  new ResizeObserver(redraw).observe(frame);

  return { root: element("div", {}, frame, strip), redraw, pin, last };
}
