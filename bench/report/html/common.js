"use strict";
// What every page does: light and dark, sorting, and cues beside what scrolls. Pages read without it. Every text goes in as text, never as HTML.
document.documentElement.classList.add("js");
const $ = (query, root = document) => root.querySelector(query);
const all = (query, root = document) => [...root.querySelectorAll(query)];

function make(tag, text, attributes = {}) {
  const node = document.createElement(tag);
  if (text !== undefined && text !== null) node.textContent = text;
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

// light and dark, remembered where the browser lets a page remember
const remembered = (value) => {
  try {
    if (value) localStorage.setItem("theme", value);
    return localStorage.getItem("theme");
  } catch {
    return null;
  }
};
if (["light", "dark"].includes(remembered())) document.documentElement.dataset.theme = remembered();
$("#theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  remembered(root.dataset.theme);
});

// a cue beside a table that goes on to the right
function cue(box) {
  const more = () => box.classList.toggle("more", box.scrollLeft + box.clientWidth < box.scrollWidth - 2);
  box.addEventListener("scroll", more, { passive: true });
  const watcher = new ResizeObserver(more);
  watcher.observe(box);
  if (box.firstElementChild) watcher.observe(box.firstElementChild);
}
all(".scroll").forEach(cue);

// sortable tables
function sortable(table) {
  all("thead th button", table).forEach((button) => {
    button.addEventListener("click", () => {
      const head = button.closest("th");
      const column = [...head.parentNode.children].indexOf(head);
      const up = head.getAttribute("aria-sort") !== "ascending";
      all("th", head.parentNode).forEach((th) => th.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const value = (row) => row.children[column].dataset.value ?? row.children[column].textContent;
      const rows = [...table.tBodies[0].rows];
      rows.sort((a, b) => {
        const [x, y] = [value(a), value(b)];
        if (x === "" || y === "") return (x === "") - (y === ""); // nothing goes last, both ways
        const [p, q] = [Number(x), Number(y)];
        const order = Number.isNaN(p) || Number.isNaN(q) ? x.localeCompare(y) : p - q;
        return up ? order : -order;
      });
      table.tBodies[0].append(...rows);
    });
  });
}
all("table.sortable").forEach(sortable);

// what is reached by keys is not left under the column that stays in place
document.addEventListener("focusin", ({ target }) => {
  const [box, first] = [target.closest(".scroll"), target.closest("tr")?.children[0]];
  if (!box || !first || first.contains(target)) return;
  const hidden = first.getBoundingClientRect().right - target.getBoundingClientRect().left;
  if (hidden > 0 && getComputedStyle(first).position === "sticky") box.scrollLeft -= hidden + 4;
});
