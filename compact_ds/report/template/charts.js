// Draws the charts: those on the screen first, then the others in the page's order, so that print and search find them.
"use strict";

function isOnScreen({ place }) {
  const { top, bottom } = place.getBoundingClientRect();
  return bottom > 0 && top < window.innerHeight;
}

async function drawCharts() {
  const waiting = [...charts];
  while (waiting.length) {
    const seen = waiting.findIndex(isOnScreen);
    if (seen < 0) opened();
    const [{ place, spec }] = waiting.splice(Math.max(0, seen), 1);
    await vegaEmbed(place, { ...spec, config: page.theme }, { renderer: "svg", actions: false, ast: true, tooltip: { theme: "dark" } });
    place.style.minHeight = "";
    // A moment between two charts for whoever scrolls, clicks or types.
    await new Promise((resume) => setTimeout(resume));
  }
  opened();
  document.documentElement.dataset.drawn = charts.length;
}

function opened() {
  document.documentElement.dataset.opened ??= Math.round(performance.now());
}

drawCharts();
