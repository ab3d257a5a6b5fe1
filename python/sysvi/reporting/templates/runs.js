"use strict";
// Draws the trade-off: means and runs of all series, on two axes of the reader's choice.
(() => {
  const { data, plain, clean, style, config, layout, onNewColors } = page;
  const plot = document.getElementById("trade-off-plot");
  if (!window.Plotly || !plot) return;
  document.documentElement.classList.add("js");

  const choosers = ["axis-x", "axis-y"].map((id) => document.getElementById(id));
  const runsButton = document.getElementById("single-runs");
  const off = new Set(); // hidden series
  const value = (number) => (number === null ? "missing" : clean(number));

  const hoverText = (series, point, axes, ofMean) => [
    `${plain(series.name)}${ofMean ? "" : ", one run"}`, plain(point.name),
    ...axes.map((axis) => {
      const spread = ofMean && point.spreads[axis] !== null ? ` ± ${value(point.spreads[axis])}` : "";
      return `${plain(data.axes[axis])}: ${value(point.values[axis])}${spread}`;
    }),
  ].join("<br>");

  const bars = (series, axis) => ({
    type: "data", array: series.means.map((point) => point.spreads[axis] ?? 0), thickness: 1, width: 3,
    color: series.color,
  });

  const traces = ([x, y]) => data.series.flatMap((series, i) => {
    if (off.has(i)) return [];
    const shared = { type: "scatter", hovertemplate: "%{text}<extra></extra>" };
    const single = {
      ...shared, mode: "markers", x: series.runs.map((p) => p.values[x]), y: series.runs.map((p) => p.values[y]),
      text: series.runs.map((p) => hoverText(series, p, [x, y], false)),
      marker: { color: series.color, symbol: series.symbol, size: 6, opacity: 0.45 },
    };
    const means = {
      ...shared, mode: series.means.length > 1 ? "lines+markers" : "markers", x: series.means.map((p) => p.values[x]),
      y: series.means.map((p) => p.values[y]), error_x: bars(series, x), error_y: bars(series, y),
      text: series.means.map((p) => hoverText(series, p, [x, y], true)), line: { color: series.color, width: 1.5 },
      marker: {
        color: series.color, symbol: series.symbol, size: 11,
        line: { color: style("--text"), width: series.means.map((p) => (p.chosen ? 3 : 0)) },
      },
    };
    return runsButton.getAttribute("aria-pressed") === "true" ? [single, means] : [means];
  });

  const draw = () => {
    const axes = choosers.map((chooser) => chooser.selectedIndex);
    const look = { gridcolor: style("--line"), zeroline: false, automargin: true, color: style("--text") };
    const [x, y] = axes.map((axis) => ({ ...look, title: { text: plain(data.axes[axis]) } }));
    const shown = data.series.flatMap((series, i) => (off.has(i) ? [] : series.means));
    const annotations = shown
      .filter((p) => axes.every((axis) => p.values[axis] !== null))
      .map((p) => ({
        x: p.values[axes[0]], y: p.values[axes[1]], text: plain(p.name), showarrow: false, xanchor: "left",
        yanchor: "bottom", xshift: 5, yshift: 3, font: { size: 11, color: style("--text") },
      }));
    const touch = matchMedia("(pointer: coarse)").matches; // there, dragging scrolls the page
    Plotly.react(plot, traces(axes), layout({
      xaxis: x, yaxis: y, annotations, showlegend: false, dragmode: touch ? false : "zoom", uirevision: axes.join(),
      margin: { l: 50, r: 20, t: 34, b: 50 },
    }), config);
    const [across, up] = axes.map((axis) => data.axes[axis]);
    plot.setAttribute("aria-label", `${up} against ${across}. The tables of this page have the numbers.`);
    const entries = data.series.map((series, i) => ({ key: i, name: series.name, color: series.color }));
    page.drawLegend(document.getElementById("legend"), entries, off, draw);
  };

  choosers.forEach((chooser, i) => {
    chooser.selectedIndex = Math.min(i, data.axes.length - 1);
    chooser.addEventListener("change", draw);
  });
  document.getElementById("show-all").addEventListener("click", () => { off.clear(); draw(); });
  runsButton.addEventListener("click", () => {
    runsButton.setAttribute("aria-pressed", String(runsButton.getAttribute("aria-pressed") !== "true"));
    draw();
  });
  draw();
  onNewColors(draw);
  document.documentElement.dataset.ready = "true";
})();
