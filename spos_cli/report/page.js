// Draw the charts of the report. Text from the run's files becomes text nodes, and is escaped where plotly.js reads markup.
// A line is an index into the candidates, which are in the order of the journal.
"use strict";
(() => {
  // Digits of choices and of bits (one each) and of widths (two each), as in chart_data.py.
  const DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_";
  const OP_COLOURS = 7; // as in sections.py
  const MAX_SVG_POINTS = 2000; // more points are drawn with WebGL, if the browser has it
  const data = JSON.parse(document.getElementById("data").textContent);
  const { space, search, audit, truth, mistakes, trainings } = data;
  const byId = (name) => document.getElementById(name);
  const isNarrow = () => window.matchMedia("(max-width: 600px)").matches;
  const isTouch = window.matchMedia("(pointer: coarse)").matches;
  const cssVariable = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
  const escapeMarkup = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const formatPercent = (share, digits = 2) => (share === null ? "–" : (100 * share).toFixed(digits) + " %");
  const toPercent = (shares) => shares.map((share) => (share === null ? null : 100 * share));

  function makeElement(name, className, ...content) {
    const element = document.createElement(name);
    if (className) element.className = className;
    element.append(...content);
    return element;
  }

  function formatCost(number) { // as `format_cost` in space/cost.py
    const rounded = Number(number.toPrecision(4));
    for (const [unit, size] of [["T", 1e12], ["G", 1e9], ["M", 1e6], ["K", 1e3]])
      if (rounded >= size) return Number((rounded / size).toPrecision(4)) + unit;
    return String(number);
  }

  // A cost with a scale is divided by it: a latency is in microseconds, and is drawn in milliseconds.
  const formatAs = ({ scale, unit }, number) =>
    scale === 1 ? formatCost(number) : Number((number / scale).toPrecision(4)) + (unit && " " + unit);

  // Architectures

  function opClass(op) {
    if (space.identity.includes(op)) return "b identity";
    return "b op" + (op % OP_COLOURS) + (op >= OP_COLOURS ? " hatched" : "");
  }

  function optionsOf(line) {
    const layers = space.layers.length;
    return space.layers.map((ops, layer) => {
      const index = line * layers + layer;
      const choice = DIGITS.indexOf(search.archs[index]);
      const codes = search.width_codes;
      const [high, low] = codes ? [2 * index, 2 * index + 1].map((position) => DIGITS.indexOf(codes[position])) : [0, 0];
      const width = codes ? search.widths[high * DIGITS.length + low] : 0; // in thousandths
      const bits = search.bits_codes ? search.bits[DIGITS.indexOf(search.bits_codes[index])] : ""; // such as w2a4
      return { choice, width, bits, op: ops[choice] };
    });
  }

  const formatWidth = (width) => (width % 1000 ? String(width / 1000) : (width / 1000).toFixed(1));

  const formatArchitecture = (line) =>
    optionsOf(line).map(({ choice, width, bits }) =>
      choice + (width ? "@" + formatWidth(width) : "") + (bits && ":" + bits)).join(",");

  function fillStrip(strip, line) {
    const widest = search.widths ? Math.max(...search.widths) : 0;
    strip.replaceChildren(...optionsOf(line).map(({ choice, width, bits, op }, layer) => {
      const block = makeElement("i", opClass(op), String(choice));
      if (layer && space.stages[layer] !== space.stages[layer - 1]) block.classList.add("first");
      if (width) block.style.setProperty("--h", 0.5 + (0.5 * width) / widest);
      block.title = `layer ${layer}: ${space.ops[op]}` + (width ? `, width ${formatWidth(width)}` : "") + (bits && ", " + bits);
      return block;
    }));
    return strip;
  }

  const FLAGS = ["stopped_early", "tied", "exported", "earlier"];
  const linesWith = search && Object.fromEntries(FLAGS.map((flag) => [flag, new Set(search[flag])]));

  function cardOf(line) {
    const images = Array.isArray(search.images) ? search.images[line] : search.images;
    const remarks = [];
    if (line === search.winner) remarks.push("the winner");
    else if (linesWith.tied.has(line)) remarks.push("statistically tied with the winner");
    if (linesWith.stopped_early.has(line)) remarks.push("stopped early");
    if (search.origin[line] === search.origins.indexOf("imported")) remarks.push("scored on other images");
    if (linesWith.earlier.has(line)) remarks.push("scored by an earlier search");
    if (linesWith.exported.has(line)) remarks.push("exported");
    const rows = [
      [search.score_name, `${formatPercent(search.score[line])} (${formatPercent(search.low[line], 1)} to ${formatPercent(search.high[line], 1)})`],
      ["top-5", formatPercent(search.top5[line])],
      ...Object.values(search.costs).map((cost) => [cost.title, formatAs(cost, cost.values[line])]),
      ["images", images.toLocaleString("en")],
      ["found", `generation ${search.generation[line]}, ${search.origins[search.origin[line]]}`],
    ];
    if (remarks.length) rows.push(["remarks", remarks.join(", ")]);
    const list = makeElement("dl");
    for (const [name, value] of rows) list.append(makeElement("dt", "", name), makeElement("dd", "", value));
    list.append(makeElement("dt", "", "architecture"), makeElement("dd", "", makeElement("code", "", formatArchitecture(line))));
    return [fillStrip(makeElement("span", "strip"), line), list];
  }

  function showCard(line, x, y) {
    const card = byId("card");
    card.replaceChildren(...cardOf(line));
    card.hidden = false;
    const { width, height } = card.getBoundingClientRect();
    const left = x + 18 + width > innerWidth ? x - 18 - width : x + 18;
    card.style.left = Math.max(8, Math.min(left, innerWidth - width - 8)) + "px";
    card.style.top = Math.max(8, Math.min(y - height / 2, innerHeight - height - 8)) + "px";
  }

  const keepCard = (line) => byId("kept").replaceChildren(...cardOf(line));

  // Charts

  function layout(extra) {
    const axis = {
      gridcolor: cssVariable("grid"), linecolor: cssVariable("line"), zeroline: false, automargin: true, color: cssVariable("soft"),
    };
    const { xaxis, yaxis, ...rest } = extra;
    return {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: cssVariable("soft") },
      margin: { l: 46, r: 12, t: 26, b: 44 }, showlegend: false, dragmode: isTouch ? false : "zoom",
      hovermode: "closest",
      hoverlabel: { bgcolor: cssVariable("sheet"), bordercolor: cssVariable("line"), font: { color: cssVariable("ink") } },
      legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, font: { color: cssVariable("ink") } },
      xaxis: { ...axis, ...xaxis }, yaxis: { ...axis, ...yaxis, title: { standoff: 10, ...yaxis.title } },
      ...rest,
    };
  }

  // There are no buttons: dragging zooms in, a double click zooms out.
  const options = { responsive: true, displayModeBar: false };

  const draw = (name, traces, extra) => Plotly.react(byId(name), traces, layout(extra), options);

  function hasWebGL() {
    try {
      const canvas = document.createElement("canvas");
      return Boolean(canvas.getContext("webgl2") || canvas.getContext("webgl"));
    } catch {
      return false;
    }
  }

  let costAxis = search && search.cost; // a key of search.costs
  const groups = {}; // lines, by the symbol of their points
  let traceType = "scatter"; // or "scattergl", which needs WebGL

  function prepareScatter() {
    const imported = search.origins.indexOf("imported");
    const lines = search.score.map((_, line) => line);
    groups.imported = lines.filter((line) => search.origin[line] === imported);
    groups.stoppedEarly = search.stopped_early.filter((line) => search.origin[line] !== imported);
    groups.complete = lines.filter((line) => search.origin[line] !== imported && !linesWith.stopped_early.has(line));
    if (lines.length > MAX_SVG_POINTS) {
      const note = byId("drawing");
      traceType = hasWebGL() ? "scattergl" : "scatter";
      if (traceType === "scatter") {
        note.textContent = `This browser has no WebGL, so ${lines.length.toLocaleString("en")} points take some time to draw.`;
        note.hidden = false;
      }
    }
  }

  function drawScatter() {
    const cost = search.costs[costAxis], { title, scale, unit } = cost, limits = [search.limits[costAxis] ?? []].flat();
    const costs = cost.values.map((value) => value / scale);
    const colours = [[0, cssVariable("early")], [0.5, cssVariable("middle")], [1, cssVariable("late")]];
    const points = (lines, marker, extra = {}) => ({
      type: traceType, mode: "markers", hoverinfo: "none", marker,
      x: lines.map((line) => costs[line]), y: toPercent(lines.map((line) => search.score[line])), lines, ...extra,
    });
    const winner = search.winner, last = Math.max(1, ...search.generation.slice(-1));
    const many = groups.complete.length > MAX_SVG_POINTS;
    const front = search.front[costAxis];
    const traces = [
      points(groups.stoppedEarly, { symbol: "x-thin-open", color: cssVariable("soft"), size: 6, opacity: 0.6 }, { name: "stopped early" }),
      points(groups.imported, { symbol: "diamond-open", color: cssVariable("soft"), size: 8 }, { name: "imported" }),
      points(groups.complete, {
        color: groups.complete.map((line) => search.generation[line]), cmin: 0, cmax: last,
        colorscale: colours, size: many ? 5 : 9, opacity: many ? 0.75 : 0.9,
        line: { width: many ? 0 : 0.5, color: cssVariable("sheet") },
        colorbar: {
          orientation: "h", y: 1.01, yanchor: "bottom", x: 0, xanchor: "left", len: 0.5, thickness: 9, outlinewidth: 0,
          title: { text: "generation", side: "right" }, tickformat: "d", nticks: 5, ticks: "",
        },
      }, { name: "candidates" }),
      points(search.tied, { symbol: "circle-open", color: cssVariable("accent"), size: many ? 9 : 14, line: { width: 1.5 } },
        { hoverinfo: "skip", name: "statistically tied with the winner" }),
      { type: "scatter", mode: "lines+markers", hoverinfo: "skip", name: "Pareto front", line: { color: cssVariable("front"), width: 1.6, shape: "hv" },
        marker: { size: 4, color: cssVariable("front") },
        x: front.map((line) => costs[line]), y: toPercent(front.map((line) => search.score[line])) },
      { type: "scatter", mode: "markers", hoverinfo: "skip", name: "the winner",
        marker: { symbol: "star", size: 18, color: cssVariable("limit"), line: { color: cssVariable("sheet"), width: 1.5 } },
        x: [costs[winner]], y: [100 * search.score[winner]] },
    ].filter((trace) => trace.x.length);
    const shapes = [{
      type: "rect", xref: "paper", x0: 0, x1: 1, y0: 100 * search.low[winner], y1: 100 * search.high[winner],
      fillcolor: cssVariable("band"), line: { width: 0 }, layer: "below",
    }];
    // The axis title of plotly.js would overlap the tick labels here, so the title is an annotation.
    const annotations = [{
      xref: "paper", x: 0.5, yref: "paper", y: 0, yshift: -24, yanchor: "top", showarrow: false,
      text: escapeMarkup(unit ? `${title}, ${unit}` : title), font: { size: 14 },
    }];
    for (const limit of limits) {
      shapes.push({ type: "line", yref: "paper", y0: 0, y1: 1, x0: limit / scale, x1: limit / scale, line: { color: cssVariable("limit"), width: 1.5, dash: "dash" } });
      annotations.push({
        x: limit / scale, yref: "paper", y: 1, text: "limit " + escapeMarkup(formatAs(cost, limit)), showarrow: false, yanchor: "bottom",
        xanchor: limits.length > 1 && limit === limits[0] ? "left" : "right",
        font: { color: cssVariable("limit") },
      });
    }
    const narrow = isNarrow();
    return draw("scatter", traces, {
      xaxis: { tickformat: scale === 1 ? "~s" : ",~r", nticks: narrow ? 5 : 9 },
      yaxis: { title: { text: `one-shot ${search.score_name}, %` } },
      margin: { l: 46, r: 14, t: 40, b: 50 }, shapes, annotations,
    });
  }

  const lineAt = (event) => {
    const point = event.points.find((candidate) => candidate.data.lines);
    return point ? point.data.lines[point.pointNumber] : null;
  };

  function listenToScatter() {
    const chart = byId("scatter");
    chart.on("plotly_hover", (event) => {
      const line = lineAt(event);
      if (line !== null && !isTouch) showCard(line, event.event.clientX, event.event.clientY);
      if (line !== null && isTouch) keepCard(line);
    });
    chart.on("plotly_unhover", () => { byId("card").hidden = true; });
    chart.on("plotly_click", (event) => { const line = lineAt(event); if (line !== null) keepCard(line); });
    addEventListener("scroll", () => { byId("card").hidden = true; }, { passive: true });
    for (const button of document.querySelectorAll("[data-cost]"))
      button.addEventListener("click", () => {
        costAxis = button.dataset.cost;
        for (const other of document.querySelectorAll("[data-cost]"))
          other.setAttribute("aria-pressed", String(other === button));
        drawScatter();
      });
  }

  function drawBest() {
    const stepCurve = (name, curve, colour, width, extra = {}) => ({
      type: "scatter", mode: "lines", name, line: { color: colour, width, shape: "hv" },
      x: curve.at, y: toPercent(curve.score), hovertemplate: "%{y:.2f} % after %{x:,}<extra>" + escapeMarkup(name) + "</extra>", ...extra,
    });
    const traces = [];
    for (const [name, seeds] of Object.entries((audit && audit.curves) || {}))
      seeds.forEach((seed, number) => traces.push(stepCurve(
        name === "random" ? "random search" : "audit: " + name, seed, cssVariable(name === "random" ? "random" : "evolution"), 1.4,
        { legendgroup: name, showlegend: !number, opacity: 0.75, line: { dash: name === "random" ? "dot" : "solid", shape: "hv", width: 1.4, color: cssVariable(name === "random" ? "random" : "evolution") } },
      )));
    traces.push(stepCurve("this search", search.best, cssVariable("ink"), 2.6));
    return draw("best", traces, {
      xaxis: { title: { text: "evaluations" }, rangemode: "tozero", tickformat: ",d" }, yaxis: { title: { text: `best ${search.score_name} so far, %` } },
      showlegend: traces.length > 1, margin: { l: 46, r: 12, t: traces.length > 1 ? 40 : 14, b: 44 },
    });
  }

  const shorten = (name, letters) => escapeMarkup(name.length > letters ? name.slice(0, letters - 1) + "…" : name);

  // `percents[row][column]`, or null; `texts` is as large and is shown for a cell that is pointed at.
  function drawMatrix(name, percents, largest, rows, texts, extra) {
    const ticks = rows.map((row) => shorten(row, isNarrow() ? 16 : 26));
    byId(name).style.height = 110 + Math.max(3, rows.length) * 26 + "px";
    const { xaxis, ...rest } = extra;
    return draw(name, [{
      type: "heatmap", z: percents, x: percents[0].map((_, column) => column), y: rows.map((_, row) => row),
      zmin: 0, zmax: largest, colorscale: [[0, cssVariable("none")], [1, cssVariable("full")]], xgap: 1, ygap: 1, hoverongaps: false,
      customdata: texts, hovertemplate: "%{customdata}: %{z:.0f} %<extra></extra>",
      colorbar: { thickness: 8, outlinewidth: 0, ticksuffix: " %", nticks: 4, len: 1 },
    }], {
      xaxis: { showgrid: false, ...xaxis },
      yaxis: { autorange: "reversed", showgrid: false, tickvals: rows.map((_, row) => row), ticktext: ticks },
      margin: { l: 20, r: 8, t: 34, b: 44 }, dragmode: false, ...rest,
    });
  }

  // `shares[row][layer]`; `largest` share has the strongest colour.
  function drawHeatmap(name, title, rows, shares, largest) {
    const layers = space.layers.length;
    const texts = rows.map((row) => Array.from({ length: layers }, (_, layer) => `layer ${layer}, ${escapeMarkup(row)}`));
    return drawMatrix(name, shares.map(toPercent), 100 * largest, rows, texts, {
      title: { text: escapeMarkup(title), x: 0, xanchor: "left", font: { size: 13, color: cssVariable("ink") } },
      xaxis: { title: { text: "layer" }, dtick: Math.ceil(layers / 10), tick0: 0 },
    });
  }

  function drawConfusions() {
    const { classes, matrix } = mistakes;
    const percents = matrix.map((row) => {
      const images = row.reduce((sum, count) => sum + count, 0);
      return row.map((count) => (images ? (100 * count) / images : null));
    });
    const texts = matrix.map((row, label) => row.map((count, predicted) =>
      `${escapeMarkup(classes[label])} ${label === predicted ? "is right" : "taken for " + escapeMarkup(classes[predicted])}, ${count.toLocaleString("en")} images`));
    return drawMatrix("confusion-matrix", percents, 100, classes, texts, {
      xaxis: { title: { text: "predicted class, in the same order" }, showticklabels: false, ticks: "" },
      margin: { l: 20, r: 8, t: 10, b: 44 },
    });
  }

  function drawReliability() {
    const largest = Math.max(...mistakes.images);
    return draw("reliability", [{
      type: "scatter", mode: "lines", hoverinfo: "skip", x: [0, 100], y: [0, 100], line: { color: cssVariable("soft"), width: 1, dash: "dot" },
    }, {
      type: "scatter", mode: "lines+markers", x: toPercent(mistakes.confidence), y: toPercent(mistakes.accuracy),
      customdata: mistakes.images.map((images) => images.toLocaleString("en")),
      hovertemplate: "confidence %{x:.1f} %, accuracy %{y:.1f} %<br>%{customdata} images<extra></extra>",
      line: { color: cssVariable("accent"), width: 1.6 },
      marker: {
        size: mistakes.images.map((images) => 6 + 14 * Math.sqrt(images / largest)), color: cssVariable("accent"), opacity: 1,
        line: { color: cssVariable("sheet"), width: 1 },
      },
    }], {
      xaxis: { title: { text: "confidence, %" }, range: [0, 103] }, yaxis: { title: { text: "accuracy, %" }, range: [-3, 103] },
      margin: { l: 46, r: 12, t: 14, b: 44 },
    });
  }

  // Make the titles of a table buttons that sort its rows, by text or by number. What is not a number is last.
  function makeSortable(table) {
    const heads = [...table.querySelectorAll("th")], body = table.tBodies[0];
    heads.forEach((head, column) => {
      const isText = head.classList.contains("left");
      const valueOf = (row) => {
        const text = row.cells[column].textContent;
        return isText ? text : parseFloat(text.replace(/,/g, ""));
      };
      const compare = (one, other) => {
        if (isText) return one.localeCompare(other, "en", { numeric: true });
        return Number.isNaN(one) || Number.isNaN(other) ? 0 : one - other;
      };
      const button = makeElement("button", "", head.textContent);
      button.type = "button";
      button.addEventListener("click", () => {
        const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
        const rows = [...body.rows].map((row) => [valueOf(row), row]);
        rows.sort(([one], [other]) => Number.isNaN(one) - Number.isNaN(other) || sign * compare(one, other));
        for (const any of heads) any.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
        body.replaceChildren(...rows.map(([, row]) => row));
      });
      head.replaceChildren(button);
    });
  }

  function drawTrainings(name, title, field, extra = {}) {
    const colours = listTrainingColours();
    const traces = trainings.flatMap((curve, number) => {
      const label = escapeMarkup(curve.name), scale = field === "top1" ? toPercent : (values) => values;
      const line = {
        type: "scatter", mode: "lines", name: label, x: curve.step, y: scale(curve[field]), line: { color: colours[number], width: 1.6 },
        hovertemplate: "step %{x:,}: %{y:.4g}<extra>" + label + "</extra>",
      };
      const values = curve["val_" + field];
      if (!values || !values.length) return [line];
      return [line, {
        type: "scatter", mode: "lines+markers", name: label + ", validation", line: { color: colours[number], width: 1, dash: "dot" }, x: curve.val_step, y: scale(values),
        marker: { color: colours[number], size: 7, line: { color: cssVariable("sheet"), width: 1 } },
        hovertemplate: "step %{x:,}: %{y:.4g}<extra>" + label + ", validation</extra>",
      }];
    });
    return draw(name, traces, {
      title: { text: title, x: 0, xanchor: "left", font: { size: 13, color: cssVariable("ink") } },
      xaxis: { title: { text: "step" }, nticks: 5, rangemode: "tozero", tickformat: "~s" }, yaxis: { rangemode: "tozero", ...extra },
      margin: { l: 40, r: 8, t: 34, b: 44 },
    });
  }

  const listTrainingColours = () => {
    const colours = [cssVariable("ink"), cssVariable("accent"), "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];
    if (trainings.length && trainings[0].name !== "supernet") colours.shift();
    return trainings.map((_, number) => colours[number % colours.length]);
  };

  function drawFidelity() {
    return draw("fidelity-chart", [{
      type: "scatter", mode: "markers", name: "all over the range", x: toPercent(audit.one_shot), y: toPercent(audit.stand_alone),
      customdata: audit.one_shot.map((_, i) => (audit.flops[i] === undefined ? "" : formatCost(audit.flops[i]) + " FLOPs")),
      hovertemplate: "one-shot %{x:.2f} %, stand-alone %{y:.2f} %<br>%{customdata}<extra></extra>",
      marker: { size: 11, color: cssVariable("accent"), line: { color: cssVariable("sheet"), width: 1 } },
    }, ...(audit.equal_one_shot.length ? [{
      type: "scatter", mode: "markers", name: "FLOPs of the winner", x: toPercent(audit.equal_one_shot), y: toPercent(audit.equal_stand_alone),
      hovertemplate: "about the winner’s FLOPs: one-shot %{x:.2f} %, stand-alone %{y:.2f} %<extra></extra>",
      marker: { symbol: "diamond", size: 11, color: cssVariable("evolution"), line: { color: cssVariable("sheet"), width: 1 } },
    }] : []), ...(audit.winner.length ? [{
      type: "scatter", mode: "markers", name: "the winner", x: [100 * audit.winner[0]], y: [100 * audit.winner[1]],
      hovertemplate: "the winner: one-shot %{x:.2f} %, stand-alone %{y:.2f} %<extra></extra>",
      marker: { symbol: "star", size: 18, color: cssVariable("limit"), line: { color: cssVariable("sheet"), width: 1.5 } },
    }] : [])], {
      xaxis: { title: { text: "one-shot top-1, %" } }, yaxis: { title: { text: "stand-alone top-1, %" } },
      margin: { l: 46, r: 12, t: 14, b: 44 },
    });
  }

  function drawTruth() {
    return draw("truth-chart", [{
      type: "scatter", mode: "markers", x: toPercent(truth.one_shot), y: toPercent(truth.stand_alone),
      customdata: truth.flops.map((flops) => formatCost(flops) + " FLOPs"),
      hovertemplate: "one-shot %{x:.2f} %, stand-alone %{y:.2f} %<br>%{customdata}<extra></extra>",
      marker: { size: 5, opacity: 0.6, color: cssVariable("accent") },
    }], {
      xaxis: { title: { text: "one-shot top-1, %" } }, yaxis: { title: { text: "known stand-alone top-1, %" } },
      margin: { l: 46, r: 12, t: 14, b: 44 },
    });
  }

  // The whole page

  function makeLegendItem(className, text, colour) {
    const mark = makeElement("i", className);
    if (colour) mark.style.setProperty("--c", colour);
    return makeElement("span", "", mark, text);
  }

  function listCharts() {
    const charts = [];
    if (search) {
      charts.push(drawScatter, drawBest);
      const addHeatmaps = (name, rows, shares) => {
        const largest = Math.max(...[...shares.all, ...shares.top].flat().filter((share) => share !== null));
        charts.push(() => drawHeatmap(name + "-all", "all candidates", rows, shares.all, largest));
        charts.push(() => drawHeatmap(name + "-top", "the best", rows, shares.top, largest));
      };
      addHeatmaps("choices", space.ops, search.choice_shares);
      if (search.widths) addHeatmaps("widths", search.widths.slice(1).map((width) => "width " + formatWidth(width)), search.width_shares);
      if (search.bits) addHeatmaps("bits", search.bits.slice(1), search.bits_shares);
    }
    if (audit && audit.one_shot.length) charts.push(drawFidelity);
    if (truth && truth.one_shot.length) charts.push(drawTruth);
    if (mistakes && byId("confusion-matrix")) charts.push(drawConfusions);
    if (mistakes) charts.push(drawReliability);
    if (trainings.length) {
      charts.push(() => drawTrainings("loss", "loss", "loss"));
      charts.push(() => drawTrainings("top1", "top-1, %", "top1", { range: [0, 100] }));
      charts.push(() => drawTrainings("lr", "learning rate", "lr"));
    }
    return charts;
  }

  async function drawAll() {
    if (trainings.length)
      byId("training-legend").replaceChildren(
        ...trainings.map((curve, number) => makeLegendItem("line", curve.name, listTrainingColours()[number])));
    for (const drawChart of listCharts()) {
      await drawChart();
      await new Promise((done) => setTimeout(done)); // so that the page stays responsive between two charts
    }
  }

  async function start() {
    if (search) {
      prepareScatter();
      for (const strip of document.querySelectorAll("[data-line]")) fillStrip(strip, Number(strip.dataset.line));
      byId("legend").append(...space.ops.map((name, op) => makeLegendItem(opClass(op), name)));
      keepCard(search.winner);
    }
    document.querySelectorAll("table.sortable").forEach(makeSortable);
    await drawAll();
    if (search) listenToScatter();
    window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
    window.matchMedia("(max-width: 600px)").addEventListener("change", drawAll);
    document.body.dataset.drawn = "yes";
  }

  start();
})();
