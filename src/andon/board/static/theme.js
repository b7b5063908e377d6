// Before first paint, so that a remembered theme never flashes the other one.
(() => {
  try {
    const kept = localStorage.getItem("andon-theme");
    if (kept === "light" || kept === "dark") document.documentElement.dataset.theme = kept;
  } catch { /* storage is off: the system's preference holds */ }
})();
