// Draws the report. Text from the run's files becomes text nodes, or is escaped where plotly.js reads markup.
"use strict";
(() => {
  const DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_";
  const COLOURS = 7; // of ops; page.py knows them too
  const MANY = 2000; // points from which on WebGL draws them, where there is one
  const data = JSON.parse(document.getElementById("data").textContent);
  const { space, search, audit, trainings } = data;
  const byId = (name) => document.getElementById(name);
  const narrow = () => window.matchMedia("(max-width: 600px)").matches;
  const touch = window.matchMedia("(pointer: coarse)").matches;
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
  const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const percent = (share, digits = 2) => (share === null ? "–" : (100 * share).toFixed(digits) + " %");
  const hundred = (shares) => shares.map((share) => (share === null ? null : 100 * share));

  function make(name, className, ...content) {
    const element = document.createElement(name);
    if (className) element.className = className;
    element.append(...content);
    return element;
  }

  function cost(number) { // as `space.cost.format_cost`
    const rounded = Number(number.toPrecision(4));
    for (const [unit, size] of [["T", 1e12], ["G", 1e9], ["M", 1e6], ["K", 1e3]])
      if (rounded >= size) return Number((rounded / size).toPrecision(4)) + unit;
    return String(number);
  }

  // Architectures

  function opClass(op) {
    if (space.identity.includes(op)) return "b identity";
    return "b op" + (op % COLOURS) + (op >= COLOURS ? " hatched" : "");
  }

  function optionsOf(line) {
    const layers = space.layers.length;
    return space.layers.map((ops, layer) => {
      const at = line * layers + layer;
      const choice = DIGITS.indexOf(search.archs[at]);
      const code = search.width_codes;
      const width = code ? search.widths[DIGITS.indexOf(code[2 * at]) * DIGITS.length + DIGITS.indexOf(code[2 * at + 1])] : 0;
      return { choice, width, op: ops[choice] };
    });
  }

  const widthText = (width) => (width % 1000 ? String(width / 1000) : (width / 1000).toFixed(1));

  const literal = (line) =>
    optionsOf(line).map(({ choice, width }) => choice + (width ? "@" + widthText(width) : "")).join(",");

  function fill(strip, line) {
    const most = search.widths ? Math.max(...search.widths) : 0;
    strip.replaceChildren(...optionsOf(line).map(({ choice, width, op }, layer) => {
      const block = make("i", opClass(op), String(choice));
      if (layer && space.stages[layer] !== space.stages[layer - 1]) block.classList.add("first");
      if (width) block.style.setProperty("--h", 0.5 + (0.5 * width) / most);
      block.title = `layer ${layer}: ${space.ops[op]}` + (width ? `, width ${widthText(width)}` : "");
      return block;
    }));
    return strip;
  }

  const sets = search && Object.fromEntries(["partial", "tied", "exported", "earlier"].map((name) => [name, new Set(search[name])]));

  function cardOf(line) {
    const images = Array.isArray(search.images) ? search.images[line] : search.images;
    const remarks = [];
    if (line === search.winner) remarks.push("the winner");
    else if (sets.tied.has(line)) remarks.push("tied with the winner");
    if (sets.partial.has(line)) remarks.push("stopped early");
    if (search.origin[line] === search.origins.indexOf("imported")) remarks.push("scored on other images");
    if (sets.earlier.has(line)) remarks.push("of an earlier search");
    if (sets.exported.has(line)) remarks.push("exported");
    const rows = [
      ["top-1", `${percent(search.top1[line])} (${percent(search.low[line], 1)} to ${percent(search.high[line], 1)})`],
      ["top-5", percent(search.top5[line])],
      ["FLOPs", cost(search.flops[line])],
      ["parameters", cost(search.params[line])],
      ["images", images.toLocaleString("en")],
      ["found", `generation ${search.generation[line]}, ${search.origins[search.origin[line]]}`],
    ];
    if (remarks.length) rows.push(["remarks", remarks.join(", ")]);
    const list = make("dl");
    for (const [name, value] of rows) list.append(make("dt", "", name), make("dd", "", value));
    list.append(make("dt", "", "literal"), make("dd", "", make("code", "", literal(line))));
    return [fill(make("span", "strip"), line), list];
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

  const keep = (line) => byId("kept").replaceChildren(...cardOf(line));

  // Pictures

  function layout(extra) {
    const axis = {
      gridcolor: css("grid"), linecolor: css("line"), zeroline: false, automargin: true, color: css("soft"),
    };
    const { xaxis, yaxis, ...rest } = extra;
    return {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: css("soft") },
      margin: { l: 46, r: 12, t: 26, b: 44 }, showlegend: false, dragmode: touch ? false : "zoom",
      hovermode: "closest",
      hoverlabel: { bgcolor: css("sheet"), bordercolor: css("line"), font: { color: css("ink") } },
      legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, font: { color: css("ink") } },
      xaxis: { ...axis, ...xaxis }, yaxis: { ...axis, ...yaxis, title: { standoff: 10, ...yaxis.title } },
      ...rest,
    };
  }

  const options = {
    responsive: true, displayModeBar: false, // dragging enlarges, a double click goes back
  };

  const draw = (name, traces, extra) => Plotly.react(byId(name), traces, layout(extra), options);

  function hasWebGL() {
    try {
      const canvas = document.createElement("canvas");
      return Boolean(canvas.getContext("webgl2") || canvas.getContext("webgl"));
    } catch {
      return false;
    }
  }

  let axisOf = "flops";
  const groups = {}; // lines of the journal, by how their points look
  let kind = "scatter";

  function prepareScatter() {
    const imported = search.origins.indexOf("imported");
    const lines = search.flops.map((_, line) => line);
    groups.imported = lines.filter((line) => search.origin[line] === imported);
    groups.partial = search.partial.filter((line) => search.origin[line] !== imported);
    groups.complete = lines.filter((line) => search.origin[line] !== imported && !sets.partial.has(line));
    if (lines.length > MANY) {
      const said = byId("drawing");
      kind = hasWebGL() ? "scattergl" : "scatter";
      if (kind === "scatter") {
        said.textContent = `This browser has no WebGL, so ${lines.length.toLocaleString("en")} points take a while to draw.`;
        said.hidden = false;
      }
    }
  }

  function scatter() {
    const costs = search[axisOf], limit = search.limits[axisOf];
    const scale = [[0, css("early")], [0.5, css("middle")], [1, css("late")]];
    const points = (lines, marker, extra = {}) => ({
      type: kind, mode: "markers", hoverinfo: "none", marker,
      x: lines.map((line) => costs[line]), y: hundred(lines.map((line) => search.top1[line])), lines, ...extra,
    });
    const winner = search.winner, last = Math.max(1, ...search.generation.slice(-1));
    const many = groups.complete.length > MANY;
    const front = search.front[axisOf];
    const traces = [
      points(groups.partial, { symbol: "x-thin-open", color: css("soft"), size: 6, opacity: 0.6 }, { name: "stopped early" }),
      points(groups.imported, { symbol: "diamond-open", color: css("soft"), size: 8 }, { name: "imported" }),
      points(groups.complete, {
        color: groups.complete.map((line) => search.generation[line]), cmin: 0, cmax: last,
        colorscale: scale, size: many ? 5 : 9, opacity: many ? 0.75 : 0.9,
        line: { width: many ? 0 : 0.5, color: css("sheet") },
        colorbar: {
          orientation: "h", y: 1.01, yanchor: "bottom", x: 0, xanchor: "left", len: 0.5, thickness: 9, outlinewidth: 0,
          title: { text: "generation", side: "right" }, tickformat: "d", nticks: 5, ticks: "",
        },
      }, { name: "candidates" }),
      points(search.tied, { symbol: "circle-open", color: css("accent"), size: many ? 9 : 14, line: { width: 1.5 } },
        { hoverinfo: "skip", name: "tied with the winner" }),
      { type: "scatter", mode: "lines+markers", hoverinfo: "skip", name: "Pareto front", line: { color: css("front"), width: 1.6, shape: "hv" },
        marker: { size: 4, color: css("front") },
        x: front.map((line) => costs[line]), y: hundred(front.map((line) => search.top1[line])) },
      { type: "scatter", mode: "markers", hoverinfo: "skip", name: "the winner",
        marker: { symbol: "star", size: 18, color: css("limit"), line: { color: css("sheet"), width: 1.5 } },
        x: [costs[winner]], y: [100 * search.top1[winner]] },
    ].filter((trace) => trace.x.length);
    const shapes = [{
      type: "rect", xref: "paper", x0: 0, x1: 1, y0: 100 * search.low[winner], y1: 100 * search.high[winner],
      fillcolor: css("band"), line: { width: 0 }, layer: "below",
    }];
    // plotly.js puts an axis title across the tick labels here, so this one is ours.
    const annotations = [{
      xref: "paper", x: 0.5, yref: "paper", y: 0, yshift: -24, yanchor: "top", showarrow: false,
      text: axisOf === "flops" ? "FLOPs" : "parameters", font: { size: 14 },
    }];
    if (limit) {
      shapes.push({ type: "line", yref: "paper", y0: 0, y1: 1, x0: limit, x1: limit, line: { color: css("limit"), width: 1.5, dash: "dash" } });
      annotations.push({
        x: limit, yref: "paper", y: 1, text: "limit " + cost(limit), showarrow: false, xanchor: "right", yanchor: "bottom",
        font: { color: css("limit") },
      });
    }
    const small = narrow();
    return draw("scatter", traces, {
      xaxis: { tickformat: "~s", nticks: small ? 5 : 9 },
      yaxis: { title: { text: "one-shot top-1, %" } },
      margin: { l: 46, r: 14, t: 40, b: 50 }, shapes, annotations,
    });
  }

  const lineOf = (event) => {
    const point = event.points.find((found) => found.data.lines);
    return point ? point.data.lines[point.pointNumber] : null;
  };

  function listen() {
    const picture = byId("scatter");
    picture.on("plotly_hover", (event) => {
      const line = lineOf(event);
      if (line !== null && !touch) showCard(line, event.event.clientX, event.event.clientY);
      if (line !== null && touch) keep(line);
    });
    picture.on("plotly_unhover", () => { byId("card").hidden = true; });
    picture.on("plotly_click", (event) => { const line = lineOf(event); if (line !== null) keep(line); });
    addEventListener("scroll", () => { byId("card").hidden = true; }, { passive: true });
    for (const button of document.querySelectorAll("[data-cost]"))
      button.addEventListener("click", () => {
        axisOf = button.dataset.cost;
        for (const other of document.querySelectorAll("[data-cost]"))
          other.setAttribute("aria-pressed", String(other === button));
        scatter();
      });
  }

  function best() {
    const step = (name, curve, colour, width, extra = {}) => ({
      type: "scatter", mode: "lines", name, line: { color: colour, width, shape: "hv" },
      x: curve.at, y: hundred(curve.top1), hovertemplate: "%{y:.2f} % after %{x:,}<extra>" + plain(name) + "</extra>", ...extra,
    });
    const traces = [];
    for (const [name, seeds] of Object.entries((audit && audit.curves) || {}))
      seeds.forEach((seed, number) => traces.push(step(
        name === "random" ? "random search" : "audit: " + name, seed, css(name === "random" ? "random" : "evolution"), 1.4,
        { legendgroup: name, showlegend: !number, opacity: 0.75, line: { dash: name === "random" ? "dot" : "solid", shape: "hv", width: 1.4, color: css(name === "random" ? "random" : "evolution") } },
      )));
    traces.push(step("this search", search.best, css("ink"), 2.6));
    return draw("best", traces, {
      xaxis: { title: { text: "evaluations" }, rangemode: "tozero", tickformat: ",d" }, yaxis: { title: { text: "best top-1 so far, %" } },
      showlegend: traces.length > 1, margin: { l: 46, r: 12, t: traces.length > 1 ? 40 : 14, b: 44 },
    });
  }

  function heat(name, title, rows, shares, most) {
    const layers = space.layers.length;
    const wide = narrow() ? 16 : 26; // letters of a name
    const ticks = rows.map((row) => plain(row.length > wide ? row.slice(0, wide - 1) + "…" : row));
    byId(name).style.height = 110 + Math.max(3, rows.length) * 26 + "px";
    return draw(name, [{
      type: "heatmap", z: hundred2(shares), x: Array.from({ length: layers }, (_, layer) => layer), y: rows.map((_, row) => row),
      zmin: 0, zmax: 100 * most, colorscale: [[0, css("none")], [1, css("full")]], xgap: 1, ygap: 1, hoverongaps: false,
      customdata: rows.map((row) => Array(layers).fill(plain(row))),
      hovertemplate: "layer %{x}, %{customdata}: %{z:.0f} %<extra></extra>",
      colorbar: { thickness: 8, outlinewidth: 0, ticksuffix: " %", nticks: 4, len: 1 },
    }], {
      title: { text: plain(title), x: 0, xanchor: "left", font: { size: 13, color: css("ink") } },
      xaxis: { title: { text: "layer" }, showgrid: false, dtick: Math.ceil(layers / 10), tick0: 0 },
      yaxis: { autorange: "reversed", showgrid: false, tickvals: rows.map((_, row) => row), ticktext: ticks },
      margin: { l: 20, r: 8, t: 34, b: 44 }, dragmode: false,
    });
  }
  const hundred2 = (rows) => rows.map(hundred);

  function training(name, title, field, extra = {}) {
    const colours = trainingColours();
    const traces = trainings.flatMap((curve, number) => {
      const said = plain(curve.name), scale = field === "top1" ? hundred : (values) => values;
      const line = {
        type: "scatter", mode: "lines", name: said, x: curve.step, y: scale(curve[field]), line: { color: colours[number], width: 1.6 },
        hovertemplate: "step %{x:,}: %{y:.4g}<extra>" + said + "</extra>",
      };
      const values = curve["val_" + field];
      if (!values || !values.length) return [line];
      return [line, {
        type: "scatter", mode: "lines+markers", name: said + ", validation", line: { color: colours[number], width: 1, dash: "dot" }, x: curve.val_step, y: scale(values),
        marker: { color: colours[number], size: 7, line: { color: css("sheet"), width: 1 } },
        hovertemplate: "step %{x:,}: %{y:.4g}<extra>" + said + ", validation</extra>",
      }];
    });
    return draw(name, traces, {
      title: { text: title, x: 0, xanchor: "left", font: { size: 13, color: css("ink") } },
      xaxis: { title: { text: "step" }, nticks: 5, rangemode: "tozero", tickformat: "~s" }, yaxis: { rangemode: "tozero", ...extra },
      margin: { l: 40, r: 8, t: 34, b: 44 },
    });
  }

  const trainingColours = () => {
    const colours = [css("ink"), css("accent"), "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];
    if (trainings.length && trainings[0].name !== "supernet") colours.shift();
    return trainings.map((_, number) => colours[number % colours.length]);
  };

  function fidelity() {
    return draw("fidelity-chart", [{
      type: "scatter", mode: "markers", x: hundred(audit.one_shot), y: hundred(audit.alone),
      customdata: audit.one_shot.map((_, i) => (audit.flops[i] === undefined ? "" : cost(audit.flops[i]) + " FLOPs")),
      hovertemplate: "one-shot %{x:.2f} %, alone %{y:.2f} %<br>%{customdata}<extra></extra>",
      marker: { size: 11, color: css("accent"), line: { color: css("sheet"), width: 1 } },
    }, ...(audit.winner.length ? [{
      type: "scatter", mode: "markers", name: "the winner", x: [100 * audit.winner[0]], y: [100 * audit.winner[1]],
      hovertemplate: "the winner: one-shot %{x:.2f} %, alone %{y:.2f} %<extra></extra>",
      marker: { symbol: "star", size: 18, color: css("limit"), line: { color: css("sheet"), width: 1.5 } },
    }] : [])], {
      xaxis: { title: { text: "one-shot top-1, %" } }, yaxis: { title: { text: "top-1 alone, %" } },
      margin: { l: 46, r: 12, t: 14, b: 44 },
    });
  }

  // All of it

  function chip(className, text, colour) {
    const mark = make("i", className);
    if (colour) mark.style.setProperty("--c", colour);
    return make("span", "", mark, text);
  }

  function pictures() {
    const jobs = [];
    if (search) {
      jobs.push(scatter, best);
      const heats = (name, rows, shares) => {
        const most = Math.max(...[...shares.all, ...shares.top].flat().filter((share) => share !== null));
        jobs.push(() => heat(name + "-all", "all candidates", rows, shares.all, most));
        jobs.push(() => heat(name + "-top", "the best", rows, shares.top, most));
      };
      heats("choices", space.ops, search.shares);
      if (search.widths) heats("widths", search.widths.slice(1).map((width) => "width " + widthText(width)), search.width_shares);
    }
    if (audit && audit.one_shot.length) jobs.push(fidelity);
    if (trainings.length) {
      jobs.push(() => training("loss", "loss", "loss"));
      jobs.push(() => training("top1", "top-1, %", "top1", { range: [0, 100] }));
      jobs.push(() => training("lr", "learning rate", "lr"));
    }
    return jobs;
  }

  async function drawAll() {
    if (trainings.length)
      byId("training-legend").replaceChildren(
        ...trainings.map((curve, number) => chip("line", curve.name, trainingColours()[number])));
    for (const job of pictures()) {
      await job();
      await new Promise((done) => setTimeout(done)); // the page stays alive between two pictures
    }
  }

  async function start() {
    if (search) {
      prepareScatter();
      for (const strip of document.querySelectorAll("[data-line]")) fill(strip, Number(strip.dataset.line));
      byId("legend").append(...space.ops.map((name, op) => chip(opClass(op), name)));
      keep(search.winner);
    }
    await drawAll();
    if (search) listen();
    window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
    window.matchMedia("(max-width: 600px)").addEventListener("change", drawAll);
    document.body.dataset.drawn = "yes";
  }

  start();
})();
