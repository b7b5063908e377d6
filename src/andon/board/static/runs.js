// The pages of runs: chosen columns, selected rows, groups that open, output that is followed, and which value is best.
(() => {
  "use strict";
  const { $, $$ } = window.andon;
  const keep = (key, value) => { try { value === null ? localStorage.removeItem(key) : localStorage.setItem(key, value); } catch { /* not remembered, then */ } };

  // --- columns: kept for each experiment
  const columnsKey = () => `andon-columns:${$("#find [name=experiment]")?.value || ""}`;
  $("#choose")?.addEventListener("submit", () => keep(columnsKey(), JSON.stringify($$("#columns input[name=column]:checked").map((box) => box.value))));
  document.addEventListener("click", (event) => { if (event.target.closest("[data-forget-columns]")) keep(columnsKey(), null); });
  document.addEventListener("input", (event) => {
    const finder = event.target.closest("[data-find]");
    if (!finder) return;
    const words = finder.value.toLowerCase().split(/\s+/).filter(Boolean);
    $$(finder.dataset.find).forEach((label) => { label.hidden = !words.every((word) => label.textContent.toLowerCase().includes(word)); });
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && event.target.closest("[data-find]")) event.preventDefault();
    if (event.key === "Escape") $$("details.menu[open]").forEach((menu) => { menu.open = false; $("summary", menu).focus(); });
  });
  document.addEventListener("click", (event) => $$("details.menu[open]").forEach((menu) => { if (!menu.contains(event.target)) menu.open = false; }));
  document.addEventListener("change", (event) => { if (event.target.matches("[data-submits]")) event.target.form.requestSubmit(); });
  const wrong = $("[data-wrong]");
  if (wrong) {
    const [from, to] = wrong.dataset.wrong.split(" ").map(Number);
    wrong.focus();
    wrong.setSelectionRange(from, to);
  }

  // --- how many match: counted after the page is there
  const count = async () => {
    const section = $("[data-count-url]"), place = section && $("[data-count]", section);
    if (!place) return;
    try {
      const answer = await fetch(section.dataset.countUrl);
      const found = answer.ok ? await answer.json() : null;
      if (found) place.textContent = `${$$("tbody tr", section).length.toLocaleString("en")} of ${found.count.toLocaleString("en")}${found.exact ? "" : " or more"} that match`;
    } catch { /* the page does without */ }
  };

  // --- selected rows
  const boxes = () => $$("#runs input[name=run]");
  let lastPicked = null;
  const showPicked = () => {
    const bar = $("#picked-bar");
    if (!bar) return;
    const picked = boxes().filter((box) => box.checked).length, all = $("[data-pick-all]");
    bar.hidden = !picked;
    $("[data-picked-count]", bar).textContent = String(picked);
    $$("[data-needs]", bar).forEach((button) => { button.disabled = picked < Number(button.dataset.needs) || picked > 30; });
    if (all) { all.checked = picked > 0 && picked === boxes().length; all.indeterminate = picked > 0 && picked < boxes().length; }
  };
  document.addEventListener("click", (event) => {
    const box = event.target.closest("#runs input[name=run]");
    if (box) {
      const all = boxes();
      if (event.shiftKey && lastPicked && all.includes(lastPicked)) {
        const [from, to] = [all.indexOf(lastPicked), all.indexOf(box)].sort((a, b) => a - b);
        all.slice(from, to + 1).forEach((one) => { one.checked = box.checked; });
      }
      lastPicked = box;
    }
    if (event.target.closest("[data-pick-all]")) boxes().filter((one) => one.offsetParent).forEach((one) => { one.checked = event.target.checked; });
    if (event.target.closest("[data-pick-none]")) boxes().forEach((one) => { one.checked = false; });
    if (event.target.closest("#runs, [data-pick-none]")) showPicked();
    const opener = event.target.closest("[data-opens]");
    if (opener) openGroup(opener, opener.getAttribute("aria-expanded") !== "true");
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "x" || event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, textarea, select")) return;
    const box = event.target.closest("#runs tr")?.querySelector("input[name=run]");
    if (box) { box.checked = !box.checked; lastPicked = box; showPicked(); }
  });
  // The runs of a group come when it is opened: the first page of the table that its filter gives.
  const openGroup = async (opener, open) => {
    opener.setAttribute("aria-expanded", String(open));
    const row = opener.closest("tr"), inside = [];
    for (let next = row.nextElementSibling; next?.classList.contains("inside"); next = next.nextElementSibling) inside.push(next);
    inside.forEach((one) => { one.hidden = !open; });
    if (!open || inside.length || opener._asking) return;
    opener._asking = true;
    try {
      const answer = await fetch(opener.dataset.opens, { headers: { accept: "text/html" } });
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const rows = $$("#runs tbody tr", page).map((one) => document.importNode(one, true));
      rows.forEach((one) => { one.classList.add("inside"); one.cells[1].after(document.createElement("td")); });
      if (opener.getAttribute("aria-expanded") !== "true") rows.forEach((one) => { one.hidden = true; });
      row.after(...rows);
      if ($("[rel=next]", page)) {
        const more = document.createElement("tr"), cell = document.createElement("td"), link = document.createElement("a");
        more.className = "inside";
        Object.assign(link, { href: opener.dataset.opens, className: "link", textContent: "all of them" });
        cell.colSpan = row.cells.length; cell.className = "small"; cell.append(link); more.append(document.createElement("td"), cell);
        rows.at(-1).after(more);
      }
    } catch { opener.setAttribute("aria-expanded", "false"); } finally { opener._asking = false; }
  };
  const opened = () => $$("[data-opens][aria-expanded=true]").map((opener) => opener.getAttribute("aria-label"));
  let openNow = [];
  document.addEventListener("click", () => { openNow = opened(); });
  document.addEventListener("andon:swapped", (event) => {
    if (event.detail.id === "runs") {
      $$("[data-opens]", event.detail).forEach((opener) => { if (openNow.includes(opener.getAttribute("aria-label"))) openGroup(opener, true); });
      showPicked();
      count();
    }
    if (event.detail.id === "compare-metrics") showAims();
  });

  // --- output: what is printed follows, as long as the run goes on
  const SHOWN = 2_000_000, EACH_MS = 1000;
  const printed = (text) => text.replace(/\r+\n/g, "\n").replace(/[^\n]*\r(?=[^\n])/g, "");
  const following = new Map();
  const append = (pre, text) => {
    const state = following.get(pre), bottom = pre.scrollHeight - pre.scrollTop - pre.clientHeight < 40;
    const whole = state.line.data + text, cut = whole.lastIndexOf("\n") + 1;
    state.line.before(document.createTextNode(printed(whole.slice(0, cut))));
    state.line.data = printed(whole.slice(cut));
    let length = pre.textContent.length;
    while (length > SHOWN && pre.firstChild !== state.line) { length -= pre.firstChild.data.length; pre.firstChild.remove(); }
    if (bottom) pre.scrollTop = pre.scrollHeight;
  };
  const read = async (pre) => {
    const state = following.get(pre);
    if (state.busy || document.hidden) return;
    state.busy = true;
    try {
      for (;;) {
        const answer = await fetch(`${pre.dataset.log}&offset=${pre.dataset.offset}`);
        if (!answer.ok) break;
        const part = await answer.json();
        if (part.known) { pre.closest("section").hidden = false; pre.dataset.known = "yes"; }
        if (part.text) append(pre, part.text);
        const moved = String(part.next_offset) !== pre.dataset.offset;
        pre.dataset.offset = String(part.next_offset);
        if (part.done) pre.dataset.done = "yes";
        if (!moved || part.next_offset >= part.size_bytes) break;
      }
    } catch { /* the server is away: ask again */ } finally { state.busy = false; }
    // Another client's run prints nothing that is kept here: do not go on asking for long.
    state.asked += 1;
    if (pre.dataset.done || (!pre.dataset.known && state.asked > 20)) clearInterval(state.timer);
    if ($$("[data-log]").every((one) => one.dataset.done)) { const said = $("[data-log-state]"); if (said) said.textContent = ""; }
  };
  for (const pre of $$("[data-log]")) {
    const text = pre.textContent, cut = text.lastIndexOf("\n") + 1, line = document.createTextNode(text.slice(cut));
    pre.replaceChildren(document.createTextNode(text.slice(0, cut)), line);
    pre.scrollTop = pre.scrollHeight;
    if (pre.dataset.done) continue;
    following.set(pre, { line, busy: false, asked: 0, timer: setInterval(() => read(pre), EACH_MS) });
    read(pre);
  }
  const showTab = (tab) => {
    $$("[role=tab]", tab.parentNode).forEach((one) => {
      const on = one === tab;
      one.setAttribute("aria-selected", String(on));
      one.tabIndex = on ? 0 : -1;
      const panel = document.getElementById(one.getAttribute("aria-controls"));
      panel.hidden = !on;
      if (on) panel.scrollTop = panel.scrollHeight;
    });
  };
  document.addEventListener("click", (event) => { const tab = event.target.closest("[role=tab]"); if (tab) showTab(tab); });
  document.addEventListener("keydown", (event) => {
    const tab = event.target.closest?.("[role=tab]");
    if (!tab || (event.key !== "ArrowLeft" && event.key !== "ArrowRight")) return;
    const tabs = $$("[role=tab]", tab.parentNode), to = tabs[(tabs.indexOf(tab) + (event.key === "ArrowRight" ? 1 : -1) + tabs.length) % tabs.length];
    to.focus();
    showTab(to);
  });

  // --- which value is better: told by the metric's name, or by whoever looks
  const AIMS = { "": ["·", "neither is better"], low: ["↓", "lower is better"], high: ["↑", "higher is better"] };
  let aims = {};
  try { aims = JSON.parse(localStorage.getItem("andon-aims") || "{}"); } catch { /* none, then */ }
  const showAims = () => $$("#compare-metrics tbody tr").forEach((row) => {
    const button = $(".aim", row), aim = aims[row.dataset.name] ?? button.dataset.aim;
    button.dataset.aim = aim;
    [button.children[0].textContent, button.children[1].textContent] = AIMS[aim] || AIMS[""];
    const cells = $$("td", row).map((td) => [td, td.dataset.v === "" ? null : Number(td.dataset.v)]), known = cells.map(([, value]) => value).filter((value) => value !== null);
    const best = aim && new Set(known).size > 1 ? Math[aim === "low" ? "min" : "max"](...known) : null;
    cells.forEach(([td, value]) => td.classList.toggle("best", best !== null && value === best));
  });
  document.addEventListener("click", (event) => {
    const button = event.target.closest(".aim");
    if (!button) return;
    const order = ["low", "high", ""];
    aims[button.closest("tr").dataset.name] = order[(order.indexOf(button.dataset.aim) + 1) % 3];
    keep("andon-aims", JSON.stringify(aims));
    showAims();
  });

  addEventListener("pageshow", showPicked);
  showPicked();
  showAims();
  count();
})();
