"use strict";
// What the scripts of all pages share: the data, and the look of the pictures.
const page = (() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const decode = (text, Type) => new Type(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
  // Plotly reads a part of HTML in labels: names are shown as they are.
  const plain = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const clean = (number) => (Number.isFinite(number) ? Number(number.toPrecision(3)).toString() : "missing");
  const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const config = {
    responsive: true, displaylogo: false, displayModeBar: true,
    showSendToCloud: false, modeBarButtonsToRemove: ["sendChartToCloud"], // the data stay in this page
  };

  const layout = (more) => ({
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: style("--text") },
    margin: { l: 10, r: 10, t: 34, b: 10 }, hovermode: "closest", uirevision: "stay", ...more,
    modebar: { bgcolor: "rgba(0,0,0,0)", color: style("--soft"), activecolor: style("--link") },
    hoverlabel: { bgcolor: style("--panel"), font: { color: style("--text") }, align: "left" },
  });
  // Buttons that hide and show parts of a picture: entries have a name and a colour; `draw` draws the picture again.
  const drawLegend = (list, entries, off, draw) => {
    list.replaceChildren();
    entries.forEach(({ key, name, color }, i) => {
      const button = document.createElement("button");
      button.type = "button";
      button.setAttribute("aria-pressed", String(!off.has(key)));
      const swatch = document.createElementNS("http://www.w3.org/2000/svg", "svg");
      swatch.setAttribute("viewBox", "0 0 10 10");
      swatch.setAttribute("aria-hidden", "true");
      const dot = document.createElementNS("http://www.w3.org/2000/svg", "circle");
      for (const [attribute, value] of [["cx", 5], ["cy", 5], ["r", 5]]) dot.setAttribute(attribute, value);
      dot.setAttribute("fill", color);
      swatch.append(dot);
      button.append(swatch, name);
      button.addEventListener("click", () => {
        off.has(key) ? off.delete(key) : off.add(key);
        draw();
        list.children[i].firstChild.focus();
      });
      const item = document.createElement("li");
      item.append(button);
      list.append(item);
    });
  };

  window.addEventListener("beforeprint", () => {
    document.querySelectorAll("details").forEach((details) => { details.open = true; });
  });
  const onNewColors = (draw) => matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  return { data, decode, plain, clean, style, config, layout, drawLegend, onNewColors };
})();
