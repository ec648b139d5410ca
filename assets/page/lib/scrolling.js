// Whether the user scrolls a list at the moment. What is shown is then renewed less often, so that the
// frames go to the scrolling.

/** A list counts as scrolled for so long after its last move, in milliseconds. */
const PAUSE_MS = 200;
let lastMove = -Infinity;

/** A list has moved, and not by itself. */
export function moved() {
  lastMove = performance.now();
}

export function isScrolling() {
  return performance.now() - lastMove < PAUSE_MS;
}
