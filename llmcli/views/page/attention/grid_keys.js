"use strict";
// Arrow keys walk through a grid of heads that has the focus. `grid` is rows of heads, `current()` the chosen one or
// null, and `choose(head)` is called with the next one, or with null for Escape.

function gridKeys(target, grid, current, choose) {
  const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  const within = (at, list) => list[Math.min(Math.max(at, 0), list.length - 1)];
  target.setAttribute("tabindex", "0");
  target.addEventListener("keydown", (event) => {
    const step = steps[event.key];
    if (viewer.hasModifier(event) || (!step && event.key !== "Escape")) {
      return;
    }
    event.preventDefault();
    const row = grid.findIndex((line) => line.includes(current()));
    if (!step) {
      choose(null);
    } else if (row < 0) {
      choose(grid[0][0]);
    } else {
      choose(within(grid[row].indexOf(current()) + step[1], within(row + step[0], grid)));
    }
  });
}
