"use strict";
// Amounts from 0 to 1 as shades of blue: classes for spans of text, and colors for maps drawn on a canvas.

const amounts = (() => {
  const STEPS = [0.9, 0.5, 0.2, 0.05];
  const COLORS = 5;

  function className(share) {
    const step = STEPS.findIndex((least) => share >= least);
    return step < 0 ? "amount0" : `amount${4 - step}`;
  }

  // The ramp of the page's light or dark colors: a function from a share to red, green and blue.
  function ramp() {
    const styles = getComputedStyle(document.documentElement);
    const stops = Array.from({ length: COLORS }, (_, number) => {
      const hex = styles.getPropertyValue(`--amount${number}`).trim();
      return [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
    });
    return (share) => {
      const place = Math.min(Math.max(share, 0), 1) * (COLORS - 1);
      const left = Math.min(Math.floor(place), COLORS - 2);
      return stops[left].map((from, channel) => Math.round(from + (stops[left + 1][channel] - from) * (place - left)));
    };
  }

  // Calls `draw` now, and again when the reader changes between light and dark.
  function onColors(draw) {
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
    draw();
  }

  // Paint rows of numbers, each cell `cell` pixels wide and high; cells without a number stay empty.
  function paint(canvas, rows, columns, cell) {
    const color = ramp();
    const small = document.createElement("canvas");
    [small.width, small.height] = [columns, rows.length];
    const context = small.getContext("2d");
    const image = context.createImageData(columns, rows.length);
    rows.forEach((row, y) => row.forEach((share, x) => {
      if (share !== null) {
        image.data.set([...color(share), 255], 4 * (y * columns + x));
      }
    }));
    context.putImageData(image, 0, 0);
    [canvas.width, canvas.height] = [columns * cell, rows.length * cell];
    const large = canvas.getContext("2d");
    large.imageSmoothingEnabled = false;
    large.drawImage(small, 0, 0, canvas.width, canvas.height);
  }

  function legend(words) {
    const { element } = viewer;
    return element("p", { class: "legend" }, `${words}: `,
      ...["below 5%", "5%+", "20%+", "50%+", "90%+"].map((name, number) =>
        element("span", { class: `key amount${number}` }, name)));
  }

  return { className, onColors, paint, legend };
})();
