// The board's own script: theme, keys, sortable tables, chart cross-hairs, and live parts by server-sent events. No framework.
(() => {
  "use strict";
  const $ = (selector, root = document) => root.querySelector(selector);
  const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
  // What the scripts of single pages listen to: theme, swapped (a live part), refreshed (all of them).
  const tell = (what, detail = null) => document.dispatchEvent(new CustomEvent(`andon:${what}`, { detail }));

  // --- addresses that an MLflow client prints: #/experiments/3/runs/ID
  const printed = location.pathname === "/" && /^#\/experiments\/(\d+)(?:\/runs\/([\w-]+))?/.exec(location.hash);
  if (printed) location.replace(printed[2] ? `/runs/${printed[2]}` : `/experiments/${printed[1]}`);

  // --- theme
  const isDark = () => (document.documentElement.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const toggleTheme = () => {
    const next = isDark() ? "light" : "dark";
    document.documentElement.dataset.theme = next;
    try { localStorage.setItem("andon-theme", next); } catch { /* not remembered, then */ }
    tell("theme");
  };
  document.addEventListener("click", (event) => {
    if (event.target.closest("[data-theme-toggle]")) toggleTheme();
    if (event.target.closest("[data-help]")) openHelp();
    const sorter = event.target.closest("th button[data-sort]");
    if (sorter) sortBy(sorter.closest("th"));
  });

  // --- keys
  const GO = { l: "/", r: "/runs", e: "/registry", i: "/incidents" };
  let pending = 0;
  const openHelp = () => { const dialog = $("#help"); if (dialog && !dialog.open) dialog.showModal(); };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, textarea, select, [contenteditable]")) return;
    if (pending && GO[event.key]) { clearTimeout(pending); pending = 0; location.href = GO[event.key]; return; }
    if (event.key === "g") { pending = setTimeout(() => { pending = 0; }, 1200); return; }
    if (event.key === "?") { event.preventDefault(); openHelp(); }
    else if (event.key === "t") toggleTheme();
    else if (event.key === "/" && $("[data-filter], [data-focus-key]")) { event.preventDefault(); $("[data-filter], [data-focus-key]").focus(); }
    else if ((event.key === "j" || event.key === "k") && !event.target.closest("[data-chart]")) stepRow(event.key === "j" ? 1 : -1);
  });
  const stepRow = (by) => {
    const links = $$("main [data-row]").filter((link) => link.offsetParent !== null);
    if (!links.length) return;
    const at = links.indexOf(document.activeElement);
    links[Math.min(links.length - 1, Math.max(0, at < 0 ? (by > 0 ? 0 : links.length - 1) : at + by))].focus();
  };

  // --- sortable tables, and a filter for long ones
  const sortBy = (th, wanted) => {
    const table = th.closest("table"), column = [...th.parentNode.children].indexOf(th);
    const direction = wanted || (th.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending");
    $$("th", th.parentNode).forEach((other) => other.removeAttribute("aria-sort"));
    th.setAttribute("aria-sort", direction);
    const value = (row) => { const cell = row.children[column]; return cell?.dataset.v ?? cell?.textContent.trim() ?? ""; };
    const rows = $$("tbody tr", table), sign = direction === "ascending" ? 1 : -1;
    rows.sort((a, b) => {
      const x = value(a), y = value(b);
      if (x === "" || y === "") return (x === "") - (y === "");
      const numeric = !Number.isNaN(Number(x)) && !Number.isNaN(Number(y));
      return sign * (numeric ? Number(x) - Number(y) : x.localeCompare(y, "en", { numeric: true }));
    });
    table.tBodies[0].append(...rows);
  };
  document.addEventListener("input", (event) => {
    if (!event.target.matches("[data-filter]")) return;
    filterRows(event.target);
  });
  const filterRows = (input) => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    $$(`${input.dataset.filter} tbody tr`).forEach((row) => { row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word)); });
  };

  // --- times that say how long ago
  const ago = (us) => {
    const s = Math.max(0, (Date.now() - us / 1000) / 1000);
    if (s < 45) return "just now";
    if (s < 3600) return `${Math.max(1, Math.round(s / 60))} min ago`;
    if (s < 86400) return `${Math.round(s / 3600)} h ago`;
    return s < 30 * 86400 ? `${Math.round(s / 86400)} d ago` : null;
  };
  const tellTimes = (root = document) => $$("time[data-ago]", root).forEach((time) => { const said = ago(Number(time.dataset.ago)); if (said) time.textContent = said; });
  setInterval(tellTimes, 20000);

  // --- a cross-hair on charts: mouse, touch and arrow keys
  // x|y|key|words of each point. The narrow drawing of the same chart borrows keys and words from the wide one.
  const linesOf = (svg) => svg.dataset.points.split(";").filter(Boolean).map((one) => one.split("|"));
  const pointsOf = (svg) => (svg._points ||= (() => {
    const whole = linesOf($("[data-chart]", svg.closest(".plots")) || svg), to = svg.dataset.to;
    return linesOf(svg).map(([x, y], index) => ({ x: Number(x), y: Number(y), u: to && whole[index]?.[2] ? to + whole[index][2] : "", t: whole[index]?.[3] || "" }));
  })());
  const point = (svg, index) => {
    const plot = svg.closest(".plot"), tip = $(".tip", plot), cross = $(".cross", svg), points = pointsOf(svg);
    if (index === null || !points.length) { tip.classList.remove("on"); cross.classList.remove("on"); svg._at = null; return; }
    svg._at = Math.max(0, Math.min(points.length - 1, index));
    const at = points[svg._at], box = svg.viewBox.baseVal, scale = svg.clientWidth / box.width;
    cross.setAttribute("x1", at.x); cross.setAttribute("x2", at.x); cross.classList.add("on");
    tip.textContent = at.t;
    tip.classList.add("on");
    const half = tip.offsetWidth / 2;
    tip.style.left = `${Math.min(svg.clientWidth - half, Math.max(half, at.x * scale))}px`;
    tip.style.top = `${Math.max(tip.offsetHeight, at.y * scale - 10)}px`;
  };
  const nearest = (svg, clientX) => {
    const box = svg.getBoundingClientRect(), x = ((clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
    let best = 0;
    pointsOf(svg).forEach((at, index, all) => { if (Math.abs(at.x - x) < Math.abs(all[best].x - x)) best = index; });
    return best;
  };
  document.addEventListener("pointermove", (event) => {
    const svg = event.target.closest?.("[data-chart]");
    $$("[data-chart]").forEach((other) => { if (other !== svg && other._at !== null && other !== document.activeElement) point(other, null); });
    if (svg) point(svg, nearest(svg, event.clientX));
  });
  document.addEventListener("keydown", (event) => {
    const svg = event.target.closest?.("[data-chart]");
    if (!svg || event.target.closest("a")) return;
    const last = pointsOf(svg).length - 1, at = svg._at ?? last + 1;
    const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: last }[event.key];
    if (to !== undefined) { event.preventDefault(); point(svg, to); }
    if (event.key === "Escape") point(svg, null);
    if (event.key === "Enter" && svg._at != null && pointsOf(svg)[svg._at].u) location.href = pointsOf(svg)[svg._at].u;
  });
  document.addEventListener("focusout", (event) => { const svg = event.target.closest?.("[data-chart]"); if (svg) point(svg, null); });
  document.addEventListener("click", (event) => {
    const svg = event.target.closest?.("[data-chart]");
    if (svg && !event.target.closest("a")) { const found = pointsOf(svg)[nearest(svg, event.clientX)]; if (found?.u) location.href = found.u; }
  });

  // --- live: the server says "something moved", the page fetches itself again and swaps the parts that differ
  const main = $("main"), topics = (main?.dataset.topics || "").split(" ").filter(Boolean), lamp = $("[data-live-lamp]");
  if (lamp && !topics.length) lamp.hidden = true;
  const say = (state, text) => { if (lamp) { lamp.dataset.state = state; $("span", lamp).textContent = text; } };
  let source = null, waiting = 0, last = 0, busy = false, again = false;
  const relevant = (changed) => topics.includes("*") && changed.some((one) => one !== "other") || changed.some((one) => topics.includes(one));
  const refresh = async () => {
    waiting = 0;
    if (busy) { again = true; return; }
    busy = true;
    try {
      const answer = await fetch(location.href, { headers: { accept: "text/html", "x-andon-part": "1" } });
      if (!answer.ok) return;
      const next = new DOMParser().parseFromString(await answer.text(), "text/html");
      for (const fresh of $$("[data-live]", next)) {
        const old = document.getElementById(fresh.id);
        if (!old || old.innerHTML === fresh.innerHTML && old.className === fresh.className) continue;
        if (old._raw === fresh.outerHTML) continue;
        swap(old, document.importNode(fresh, true));
      }
      document.title = next.title;
      last = Date.now();
      tell("refreshed");
    } catch { /* the server is away; EventSource tells when it is back */ } finally {
      busy = false;
      if (again) { again = false; schedule(); }
    }
  };
  const swap = (old, fresh) => {
    const sorted = $$("th[aria-sort]", old).map((th) => [[...th.parentNode.children].indexOf(th), th.getAttribute("aria-sort")]);
    const focused = old.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
    const open = $$("details[open]", old).map((details) => details.id).filter(Boolean);
    const ticked = $$("input[type=checkbox]:checked", old).map((box) => [box.name, box.value]);
    fresh._raw = fresh.outerHTML;
    fresh.classList.add("changed");
    old.replaceWith(fresh);
    sorted.forEach(([column, direction]) => { const th = $$("thead th", fresh)[column]; if (th) sortBy(th, direction); });
    open.forEach((id) => { const details = document.getElementById(id); if (details) details.open = true; });
    ticked.forEach(([name, value]) => { const box = $$("input[type=checkbox]", fresh).find((one) => one.name === name && one.value === value); if (box) box.checked = true; });
    if (focused) $(`a[href="${CSS.escape(focused)}"]`, fresh)?.focus();
    $$("[data-filter]").forEach(filterRows);
    tellTimes(fresh);
    tell("swapped", fresh);
  };
  const schedule = () => { if (!waiting) waiting = setTimeout(refresh, Math.max(150, 900 - (Date.now() - last))); };
  const listen = () => {
    if (source || !main || document.hidden || !topics.length) return;
    source = new EventSource("/api/v1/events");
    // What moved between the drawing of this page and the hello is not told: look once.
    source.addEventListener("hello", () => { schedule(); say("on", "live"); });
    source.addEventListener("changed", (event) => { if (relevant(JSON.parse(event.data).changed)) schedule(); });
    source.addEventListener("beat", () => { say("on", "live"); if (main.dataset.beat && Date.now() - last > 9000) schedule(); });
    source.onerror = () => say("off", "reconnecting");
  };
  // A browser opens only six connections to a host: a hidden tab gives its own back, and catches up when it is looked at.
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) { source?.close(); source = null; } else { listen(); schedule(); }
  });
  addEventListener("pagehide", () => { source?.close(); source = null; });
  addEventListener("pageshow", listen);

  // --- forms: one submit each
  document.addEventListener("submit", (event) => { const button = event.submitter; if (button && !event.defaultPrevented) setTimeout(() => { button.disabled = true; }, 0); });
  addEventListener("pageshow", (event) => { if (event.persisted) $$("button:disabled[formaction], form button:disabled").forEach((button) => { button.disabled = false; }); });
  document.addEventListener("change", (event) => {
    const select = event.target.closest("[data-says]");
    if (select) $(select.dataset.says).textContent = select.selectedOptions[0]?.dataset.will || "";
  });

  // a lineage that is wider than its place begins where its root is
  const showRoots = () => $$(".pan").forEach((pan) => {
    const root = $(".root rect", pan);
    if (root && pan.scrollWidth > pan.clientWidth) pan.scrollLeft = root.x.baseVal.value + root.width.baseVal.value / 2 - pan.clientWidth / 2;
  });
  addEventListener("resize", showRoots);

  window.andon = { $, $$ };
  $$("[data-live]").forEach((part) => { part._raw = part.outerHTML; });
  tellTimes();
  showRoots();
  listen();
})();
