// Two runs beside each other, on the cells that both have.
const DATA = JSON.parse($("#data").textContent);
const compared = $("#compared");
sortable(compared);
const runs = Object.fromEntries(DATA.runs.map((run) => [run.slug, run]));
if (DATA.runs.length > 1) $("#b").selectedIndex = DATA.runs.findIndex((run, i) => i > 0 && run.measured === DATA.runs[0].measured && run.family === DATA.runs[0].family);
if ($("#b").selectedIndex < 0) $("#b").selectedIndex = 0;

controls(() => {
  const [one, two, metric] = [runs[$("#a").value], runs[$("#b").value], $("#metric").value];
  const body = compared.tBodies[0];
  body.replaceChildren();
  const said = (text) => { $("#said").textContent = text; };
  if (!one || !two) return;
  if (one === two) return said("Choose two different runs.");
  if (one.measured !== two.measured || one.family !== two.family) return said("These runs are of different protocols or families of base models: their numbers do not compare.");
  const way = DATA.metrics[metric];
  const [first, second] = [one.values[metric] ?? {}, two.values[metric] ?? {}];
  const text = (v) => (way.percent ? (100 * v).toFixed(1) : String(Number(v.toPrecision(3))));
  const ends = ([, low, high]) => (low === null || high === null ? null : `${text(low)} – ${text(high)}`);
  const pairs = Object.keys(first).filter((pair) => pair in second);
  for (const pair of pairs) {
    const [attack, defense] = one.pairs[pair];
    const [x, y] = [first[pair], second[pair]];
    const row = body.insertRow();
    row.append(make("th", attack, { scope: "row" }), make("td", defense, { class: "text" }));
    for (const cell of [x, y]) {
      const node = make("td", text(cell[0]), { "data-value": cell[0] });
      if (ends(cell)) node.append(" ", make("small", ends(cell)));
      row.append(node);
    }
    const moved = y[0] - x[0];
    const known = ends(x) && ends(y);
    const apart = known && (x[2] < y[1] || y[2] < x[1]);
    const better = way.better === "none" || !apart ? "" : (moved > 0) === (way.better === "higher") ? "good" : "bad";
    row.append(make("td", `${moved > 0 ? "+" : ""}${text(moved)}`, { "data-value": moved, class: better }), make("td", known ? (apart ? "apart" : "overlap") : "none", { class: "text" }));
  }
  const left = Object.keys(first).length + Object.keys(second).length - 2 * pairs.length;
  said(`${pairs.length} cells in both${left ? `; ${left} are in one alone` : ""}. Intervals that overlap do not show that two numbers are equal.`);
});
