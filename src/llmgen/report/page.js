"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const narrow = window.matchMedia("(max-width: 600px)");

  function themed(layout) {
    const style = getComputedStyle(document.documentElement);
    const ink = style.getPropertyValue("--ink").trim();
    const line = style.getPropertyValue("--line").trim();
    const out = {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: {color: ink, size: 12},
      margin: {l: narrow.matches ? 44 : 60, r: 12, t: layout.title ? 40 : 24, b: 44},
      legend: {orientation: "h"}, ...layout,
    };
    for (const key of Object.keys(out)) {
      if (/^[xy]axis\d*$/.test(key)) {
        out[key] = {gridcolor: line, zerolinecolor: line, automargin: !narrow.matches, ...out[key]};
      }
    }
    return out;
  }

  function draw() {
    for (const [place, figure] of Object.entries(figures)) {
      Plotly.react(place, figure.data, themed(figure.layout), {
        responsive: true, displaylogo: false, displayModeBar: false,
      });
    }
    document.documentElement.dataset.drawn = Object.keys(figures).length;
  }

  dark.addEventListener("change", draw);
  narrow.addEventListener("change", draw);
  draw();
})();
