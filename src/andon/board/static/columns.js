// Before first paint: a table of runs that is opened without columns gets those that this browser keeps for its experiment.
(() => {
  const url = new URL(location.href);
  if (url.pathname !== "/runs" || url.searchParams.has("column")) return;
  try {
    const kept = JSON.parse(localStorage.getItem(`andon-columns:${url.searchParams.get("experiment") || ""}`) || "null");
    if (!Array.isArray(kept) || !kept.every((one) => typeof one === "string")) return;
    for (const one of kept.length ? kept : [""]) url.searchParams.append("column", one);
    location.replace(url);
  } catch { /* storage is off: the usual columns, then */ }
})();
