// The state of a page's controls is in its address, so that a link leads to what is seen: #q=skd&sort=4&down=1&hide=5,6
const state = () => new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : "");
function keep(changes) {
  const now = state();
  for (const [name, value] of Object.entries(changes)) {
    if (value) now.set(name, value);
    else now.delete(name);
  }
  history.replaceState(null, "", `#${now}`);
}
function controls(act) {
  const known = all("[data-state]");
  const read = () => {
    const now = state();
    for (const control of known) {
      const value = now.get(control.dataset.state);
      if (control.type === "checkbox") control.checked = value === "1";
      else if (value !== null && (control.tagName !== "SELECT" || [...control.options].some((o) => o.value === value))) control.value = value;
    }
    act();
  };
  for (const control of known) {
    control.addEventListener(control.type === "search" ? "input" : "change", () => {
      keep({ [control.dataset.state]: control.type === "checkbox" ? (control.checked ? "1" : "") : control.value });
      act();
    });
  }
  addEventListener("hashchange", () => { if (location.hash.includes("=")) read(); });
  read();
}
