// Charts of metrics, by the Plotly bundle of the installed package: those of one run, which follow it, one metric of several runs, and a scatter.
(() => {
  "use strict";
  const { $, $$ } = window.andon;
  const DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"];
  const THINNED = 4000;
  let plotly = null;
  const loadPlotly = (src) => (plotly ||= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = src; script.onload = () => resolve(window.Plotly); script.onerror = reject;
    document.head.append(script);
  }));
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const plain = (text) => String(text).replace(/[<>&]/g, (one) => ({ "<": "&lt;", ">": "&gt;", "&": "&amp;" })[one]);
  const charts = $("#charts");

  // --- how to draw: chosen once, kept by the browser
  const KEPT = "andon-chart";
  const chosen = { x: "step", log: false, smooth: 0 };
  try { Object.assign(chosen, JSON.parse(localStorage.getItem(KEPT) || "{}")); } catch { /* the usual, then */ }
  const showChosen = () => $$("[data-tools]").forEach((tools) => {
    $$("[data-x]", tools).forEach((button) => button.setAttribute("aria-pressed", String(button.dataset.x === chosen.x)));
    $("[data-log-y]", tools).checked = !!chosen.log;
    $("[data-smooth]", tools).value = String(chosen.smooth);
  });
  const choose = (change) => {
    Object.assign(chosen, change);
    try { localStorage.setItem(KEPT, JSON.stringify(chosen)); } catch { /* not remembered, then */ }
    showChosen();
    drawAll();
  };
  document.addEventListener("click", (event) => { const button = event.target.closest("[data-tools] [data-x]"); if (button) choose({ x: button.dataset.x }); });
  document.addEventListener("input", (event) => {
    if (event.target.matches("[data-log-y]")) choose({ log: event.target.checked });
    if (event.target.matches("[data-smooth]")) choose({ smooth: Number(event.target.value) });
  });

  // --- lines
  // An exponential mean, freed of its start's bias as in Adam (Kingma & Ba 2015, section 3).
  const smoothed = (values, weight) => {
    let mean = 0, seen = 0;
    return values.map((value) => {
      if (value === null) return null;
      mean = mean * weight + (1 - weight) * value; seen += 1;
      return mean / (1 - weight ** seen);
    });
  };
  const UNITS = [[1, "seconds"], [60, "minutes"], [3600, "hours"], [86400, "days"]];
  const unitOf = (seconds) => UNITS.findLast(([size]) => seconds >= 2 * size) || UNITS[0];
  const colour = (index) => css(["--ink", "--link", "--warn-lamp", "--pass-lamp", "--fail-lamp", "--slate-lamp"][index % 6]);
  const traces = (lines, unit) => lines.flatMap((line, index) => {
    const { steps, at_us: at, values } = line.points;
    const x = chosen.x === "time" ? at.map((us) => (us - line.started) / 1e6 / unit) : steps;
    const style = { color: colour(index), dash: DASHES[(index + Math.floor(index / 6)) % 6], width: 1.6 };
    const mode = values.length < 3 ? "markers" : "lines", weight = Number(chosen.smooth);
    const name = plain(line.name), hover = `%{y:.5g}<extra>${name}</extra>`;
    const marker = { color: style.color, symbol: index % 6, size: 7 };
    if (!weight || values.length < 3) return [{ x, y: values, name, mode, type: "scatter", line: style, marker, hovertemplate: hover }];
    return [
      { x, y: values, mode, type: "scatter", line: { color: style.color, width: 1 }, opacity: 0.25, showlegend: false, hoverinfo: "skip" },
      { x, y: smoothed(values, weight), name, mode, type: "scatter", line: style, hovertemplate: hover },
    ];
  });
  const axis = () => ({
    gridcolor: css("--line"), linecolor: css("--line"), zeroline: false, tickfont: { color: css("--ink3"), size: 11 }, automargin: true,
  });
  const layout = (xTitle, more = {}) => ({
    margin: { l: 56, r: 12, t: 34, b: 44 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", hovermode: "x unified", uirevision: xTitle,
    hoverlabel: { bgcolor: css("--card"), bordercolor: css("--line"), font: { color: css("--ink"), size: 12 } }, font: { family: css("--sans"), color: css("--ink"), size: 12 },
    xaxis: { ...axis(), title: { text: plain(xTitle), font: { color: css("--ink3"), size: 12 } } }, yaxis: { ...axis(), type: chosen.log ? "log" : "linear" }, showlegend: true,
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", font: { color: css("--ink2"), size: 12 } }, ...more,
  });
  const show = async (host, lines) => {
    const Plotly = await loadPlotly(charts?.dataset.plotly || host.dataset.plotly);
    const longest = Math.max(1, ...lines.flatMap((line) => line.points.at_us.map((us) => (us - line.started) / 1e6)));
    const [unit, word] = unitOf(longest);
    const drawn = traces(lines, unit);
    $(".loading", host)?.remove();
    const many = lines.length > 8 ? { legend: { orientation: "v", x: 1.01, y: 1, font: { color: css("--ink2"), size: 11 } }, margin: { l: 56, r: 12, t: 12, b: 44 } } : {};
    await Plotly.react(host, drawn, layout(chosen.x === "time" ? `${word} since the start` : "step", many), { displayModeBar: false, responsive: true });
    host.dataset.drawn = "yes";
    host.dataset.points = String(lines.reduce((sum, line) => sum + line.points.values.length, 0));
  };
  const fail = (host) => {
    if (host.dataset.drawn) return;
    host.replaceChildren(Object.assign(document.createElement("p"), { className: "loading", textContent: "The points could not be read; the table below has the newest values." }));
  };
  const ask = async (url) => {
    const answer = await fetch(url);
    if (!answer.ok) throw new Error(String(answer.status));
    return answer.json();
  };

  // --- one run: its charts follow it
  const held = new Map();
  const load = async (key) => {
    const url = `${charts.dataset.seriesUrl}?key=${encodeURIComponent(key)}`, old = held.get(key);
    if (!old || old.steps.length > THINNED) { held.set(key, await ask(url)); return; }
    const from = old.steps.at(-1) ?? 0, more = await ask(`${url}&after_step=${from}`);
    let keep = old.steps.length;
    while (keep && old.steps[keep - 1] >= from) keep -= 1;
    held.set(key, {
      key, total: keep + more.total, steps: [...old.steps.slice(0, keep), ...more.steps], at_us: [...old.at_us.slice(0, keep), ...more.at_us],
      values: [...old.values.slice(0, keep), ...more.values],
    });
  };
  const keysOf = (host) => JSON.parse(host.dataset.keys);
  const linesOf = (host) => keysOf(host).filter((key) => held.has(key)).map((key) => ({ name: key, started: Number(charts.dataset.started), points: held.get(key) }));
  const followRun = async () => {
    const groups = JSON.parse($("#series")?.dataset.groups || "[]");
    const hosts = $$(".plotly-host", charts);
    groups.forEach((keys, index) => {
      let host = hosts[index];
      if (!host) {
        host = Object.assign(document.createElement("div"), { className: "plotly-host" });
        host.setAttribute("role", "img");
        charts.append(host);
        $("#metrics").classList.remove("lean");
      }
      host.dataset.keys = JSON.stringify(keys);
      host.setAttribute("aria-label", `${keys.join(", ")}; the table below has the newest values`);
    });
    for (const host of $$(".plotly-host", charts)) {
      try {
        await Promise.all(keysOf(host).map(load));
        await show(host, linesOf(host));
      } catch { fail(host); }
    }
  };

  // --- one metric of several runs
  let overlaid = [];
  const loadOverlay = async () => {
    const host = $(".plotly-host", charts), key = $("#overlay-key").value;
    try {
      const answer = await ask(`${charts.dataset.overlay}key=${encodeURIComponent(key)}`);
      if (key !== $("#overlay-key").value) return;
      const named = new Map($$("#compared li").map((li) => [li.dataset.run, $("a.link", li).textContent]));
      overlaid = answer.runs.map((one) => ({ name: named.get(one.run) || one.name, started: one.started_us, points: one.points || { steps: [], at_us: [], values: [] } }));
      await show(host, overlaid);
      host.dataset.key = key;
    } catch { fail(host); }
  };

  // --- a scatter of any two rows of the tables
  const numberOf = (text) => (text === "" || text === undefined || Number.isNaN(Number(text)) ? null : Number(text));
  const rowsOf = () => $$("#compare-metrics tbody tr, #compare-params tbody tr").map((tr) => {
    const metric = tr.dataset.kind === "number", name = metric ? tr.dataset.name : $("th", tr).textContent.trim();
    const texts = $$("td", tr).map((td) => td.dataset.v), numbers = texts.map(numberOf);
    const numeric = texts.every((text, index) => text === undefined || text === "" || numbers[index] !== null);
    return { id: `${metric ? "metrics" : "params"}.${name}`, values: numeric ? numbers : texts.map((text) => text ?? null), differs: new Set(texts).size > 1, metric };
  });
  const drawScatter = async () => {
    const host = $("[data-scatter]");
    if (!host) return;
    const rows = rowsOf(), selects = [$("#scatter-x"), $("#scatter-y")];
    if (!selects[0].options.length) {
      const differing = rows.filter((row) => row.differs);
      const first = [differing.find((row) => !row.metric) || differing[0] || rows[0], differing.find((row) => row.metric) || rows.at(-1)];
      selects.forEach((select, index) => {
        select.append(...rows.map((row) => new Option(row.id, row.id, false, row.id === first[index].id)));
      });
    }
    const [x, y] = selects.map((select) => rows.find((row) => row.id === select.value) || rows[0]);
    const names = $$("#compared li > a.link").map((a) => a.textContent);
    try {
      const Plotly = await loadPlotly(charts?.dataset.plotly || host.dataset.plotly);
      $(".loading", host)?.remove();
      const drawn = names.map((name, index) => ({
        x: [x.values[index]], y: [y.values[index]], name: plain(name), mode: "markers", type: "scatter",
        marker: { color: colour(index), symbol: index % 6, size: 10 }, hovertemplate: `%{x}, %{y}<extra>${plain(name)}</extra>`,
      }));
      const made = layout(x.id, { hovermode: "closest" });
      const texts = (row) => row.values.some((value) => typeof value === "string");
      Object.assign(made.xaxis, { type: texts(x) ? "category" : "linear" });
      Object.assign(made.yaxis, { type: texts(y) ? "category" : "linear", title: { text: plain(y.id), font: { color: css("--ink3"), size: 12 } } });
      await Plotly.react(host, drawn, made, { displayModeBar: false, responsive: true });
      host.dataset.drawn = `${x.id} ${y.id}`;
    } catch { fail(host); }
  };

  let busy = false, again = false;
  const follow = async () => {
    if (busy) { again = true; return; }
    busy = true;
    if (charts?.dataset.seriesUrl) await followRun();
    if (charts?.dataset.overlay) await loadOverlay();
    busy = false;
    if (again) { again = false; follow(); }
  };
  const drawAll = () => {
    if (charts?.dataset.seriesUrl) $$(".plotly-host", charts).forEach((host) => show(host, linesOf(host)));
    if (charts?.dataset.overlay) show($(".plotly-host", charts), overlaid);
    drawScatter();
  };
  document.addEventListener("andon:refreshed", follow);
  document.addEventListener("andon:theme", drawAll);
  document.addEventListener("change", (event) => {
    if (event.target.id === "overlay-key") {
      history.replaceState(null, "", `#${encodeURIComponent(event.target.value)}`);
      loadOverlay();
    }
    if (event.target.id === "scatter-x" || event.target.id === "scatter-y") drawScatter();
  });
  const key = $("#overlay-key"), named = decodeURIComponent(location.hash.slice(1));
  if (key && named && [...key.options].some((option) => option.value === named)) key.value = named;
  showChosen();
  follow();
  drawScatter();
})();
