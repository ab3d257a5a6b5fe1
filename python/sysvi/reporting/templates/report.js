"use strict";
// Draws the interactive parts of the page: the cells, coloured by any column, and the losses. Without scripts, the page
// shows pictures in their place.
(() => {
  const { data, decode, plain, clean, style, config, layout, onNewColors } = page;
  const hasWebGL = (() => {
    try { return Boolean(document.createElement("canvas").getContext("webgl")); } catch { return false; }
  })();
  if (!window.Plotly || !hasWebGL) {
    document.getElementById("no-webgl").hidden = false;
    return;
  }
  document.documentElement.classList.add("js");

  // -- cells ----------------------------------------------------------------------------------------------------------

  const columns = data.columns.map((column) => ({
    ...column, values: decode(column.values, column.categories ? Int32Array : Float32Array),
  }));
  const umaps = data.umaps.map((umap, i) => ({
    x: decode(umap.x, Float32Array), y: decode(umap.y, Float32Array), plot: document.getElementById(`umap-${i}`),
  }));
  const n = umaps[0].x.length;
  const hidden = new Map(); // index of a column -> codes of hidden categories
  let current = 0;
  let selected = null; // numbers of selected cells, or null

  const nameOf = (column, code) => (code < 0 ? "missing" : column.categories[code]);
  const valueOf = (column, i) => (column.categories ? nameOf(column, column.values[i]) : clean(column.values[i]));

  const hoverTexts = () => {
    const shown = [columns[current], ...data.main.filter((i) => i !== current).map((i) => columns[i])];
    const names = shown.map((column) => plain(column.name));
    return Array.from({ length: n }, (_, i) =>
      shown.map((column, j) => `${names[j]}: ${plain(valueOf(column, i))}`).join("<br>"));
  };

  const marker = () => {
    const column = columns[current];
    const size = n > 50000 ? 2.5 : n > 5000 ? 3.5 : 5;
    if (!column.categories) {
      const bar = { thickness: 12, outlinewidth: 0, len: 0.6 };
      return { size, color: column.values, colorscale: "Viridis", showscale: true, colorbar: bar };
    }
    const colors = [style("--missing"), ...column.colors]; // codes from -1
    const steps = colors.flatMap((color, k) => [[k / colors.length, color], [(k + 1) / colors.length, color]]);
    return { size, color: column.values, colorscale: steps, cmin: -1.5, cmax: colors.length - 1.5, showscale: false };
  };

  const drawCells = () => {
    const column = columns[current];
    const off = hidden.get(current) || new Set();
    const shown = off.size ? Array.from(column.values, (code) => !off.has(code)) : null;
    const text = hoverTexts();
    const look = marker();
    const touch = matchMedia("(pointer: coarse)").matches; // there, dragging scrolls the page
    const axis = { visible: false, zeroline: false };
    umaps.forEach((umap) => {
      const trace = {
        type: "scattergl", mode: "markers", marker: look, text, hovertemplate: "%{text}<extra></extra>",
        x: shown ? umap.x.map((x, i) => (shown[i] ? x : NaN)) : umap.x, y: umap.y,
        selectedpoints: selected, unselected: { marker: { opacity: 0.06 } },
      };
      Plotly.react(umap.plot, [trace], layout({
        xaxis: axis, yaxis: { ...axis, scaleanchor: "x" }, dragmode: touch ? false : "lasso", showlegend: false,
      }), config);
    });
    drawLegend();
    describeSelection();
  };

  const drawLegend = () => {
    const column = columns[current];
    const codes = column.categories ? column.categories.map((_, code) => code) : [];
    if (column.categories && column.values.includes(-1)) codes.push(-1);
    const entries = codes.map((code) => ({
      key: code, name: nameOf(column, code), color: code < 0 ? style("--missing") : column.colors[code],
    }));
    if (!hidden.has(current)) hidden.set(current, new Set());
    page.drawLegend(document.getElementById("legend"), entries, hidden.get(current), drawCells);
  };

  const describeSelection = () => {
    const where = document.getElementById("selection");
    if (!selected) {
      where.textContent = "No cells are selected.";
      return;
    }
    const column = columns[current];
    const counts = new Map();
    let sum = 0;
    let known = 0;
    for (const i of selected) {
      const value = column.values[i];
      if (column.categories) counts.set(value, (counts.get(value) || 0) + 1);
      else if (Number.isFinite(value)) { sum += value; known += 1; }
    }
    const parts = [...counts].sort((a, b) => b[1] - a[1]).slice(0, 8)
      .map(([code, count]) => `${nameOf(column, code)} ${count.toLocaleString("en")}`);
    if (counts.size > 8) parts.push(`${counts.size - 8} more`);
    const what = column.categories ? parts.join(", ") : `mean ${clean(sum / known)}`;
    where.textContent = `${selected.length.toLocaleString("en")} cells are selected. ${column.name}: ${what}.`;
  };

  const select = (points) => {
    selected = points && points.length ? points : null;
    umaps.forEach((umap) => {
      const update = { selectedpoints: [selected] };
      Plotly.update(umap.plot, update, selected ? {} : { selections: [] });
    });
    describeSelection();
  };

  const chooser = document.getElementById("colour-by");
  chooser.addEventListener("change", () => { current = chooser.selectedIndex; drawCells(); });
  chooser.selectedIndex = current;
  document.getElementById("clear").addEventListener("click", () => select(null));
  document.getElementById("show-all").addEventListener("click", () => { hidden.delete(current); drawCells(); });
  drawCells();
  umaps.forEach((umap) => {
    umap.plot.on("plotly_selected", (event) => {
      if (event) select(event.points.map((point) => point.pointIndex));
    });
    umap.plot.on("plotly_deselect", () => select(null));
  });

  // -- losses ---------------------------------------------------------------------------------------------------------

  const drawLosses = () => {
    const axis = { gridcolor: style("--line"), zeroline: false, automargin: true, color: style("--text") };
    data.losses.forEach((loss, i) => {
      const traces = loss.curves.map((curve) => ({
        type: "scatter", mode: curve.epoch.length > 1 ? "lines" : "markers", x: curve.epoch, y: curve.values,
        name: curve.name, line: { color: curve.color, dash: curve.held_out ? "dot" : "solid", width: 1.5 },
        hovertemplate: "epoch %{x}: %{y:.4g}",
      }));
      Plotly.react(`loss-${i}`, traces, layout({
        xaxis: { ...axis, title: { text: "epoch" } }, yaxis: axis, showlegend: false, margin: { l: 50, r: 10, t: 30, b: 40 },
      }), config);
    });
  };
  drawLosses();

  onNewColors(() => { drawCells(); drawLosses(); });
  document.documentElement.dataset.ready = "true";
})();
