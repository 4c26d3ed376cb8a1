// A board: filters, chosen columns and the order of rows.
const board = $("#board");
const boxes = all("[data-column]");
const heads = all("thead th", board);

controls(() => {
  const words = $("#filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const row of board.tBodies[0].rows) {
    const text = row.textContent.toLowerCase();
    row.hidden = !words.every((word) => text.includes(word)) || ($("#run").value && row.dataset.run !== $("#run").value) || ($("#ranked").checked && !("ranked" in row.dataset));
    shown += !row.hidden;
  }
  $("#count").textContent = `${shown} rows`;
});

function columns() {
  const hidden = boxes.filter((box) => !box.checked).map((box) => Number(box.dataset.column));
  for (const row of board.rows) [...row.cells].forEach((cell, i) => { cell.hidden = hidden.includes(i); });
  return hidden;
}
boxes.forEach((box) => box.addEventListener("change", () => keep({ hide: columns().join(",") })));
const gone = (state().get("hide") ?? "").split(",");
boxes.forEach((box) => { box.checked = !gone.includes(box.dataset.column); });
columns();

heads.forEach((head, i) => $("button", head).addEventListener("click", () => {
  keep({ sort: String(i), down: head.getAttribute("aria-sort") === "descending" ? "1" : "" });
}));
const asked = heads[Number(state().get("sort") ?? NaN)];
if (asked) {
  const down = state().get("down") === "1";
  $("button", asked).click();
  if (down) $("button", asked).click();
}
