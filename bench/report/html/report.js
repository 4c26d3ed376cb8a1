// report.html: filters rows, switches heat maps and opens cells.
const filter = $("#filter");
if (filter) {
  filter.addEventListener("input", () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of $("#rows-table").tBodies[0].rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      shown += !row.hidden;
    }
    $("#count").textContent = `${shown} rows`;
  });
}

// one heat map at a time
const choice = $("#heat");
if (choice) {
  const show = () => all("[data-heat]").forEach((part) => part.toggleAttribute("data-hidden", part.dataset.heat !== choice.value));
  choice.addEventListener("change", show);
  show();
}

// cells
const DATA = JSON.parse($("#data").textContent);
const cell = $("#cell");
const only = $("#only");

function number(value, metric) {
  if (value === null || value === undefined) return "–";
  const known = DATA.metrics[metric];
  if (known && known.percent) return `${(100 * value).toFixed(1)} %`;
  return String(Number(value.toPrecision(4)));
}

function table(heads, rows, label) {
  const found = make("table", null, { class: "sortable" });
  const head = found.createTHead().insertRow();
  heads.forEach((text, i) => head.append(Object.assign(make("th", null, { scope: "col", class: i ? "" : "text" }), {})));
  heads.forEach((text, i) => head.children[i].append(make("button", text, { type: "button" })));
  const body = found.createTBody();
  for (const row of rows) {
    const line = body.insertRow();
    row.forEach((value, i) => {
      const node = i ? make("td") : make("th", null, { scope: "row" });
      const [text, sort, kind] = Array.isArray(value) ? value : [value];
      node.textContent = text ?? "";
      if (sort !== undefined && sort !== null) node.dataset.value = sort;
      if (kind) node.className = kind;
      line.append(node);
    });
  }
  sortable(found);
  const around = make("div", null, { class: "scroll", role: "region", tabindex: "0", "aria-label": label });
  around.append(found);
  cue(around);
  return around;
}

function listed(pairs) {
  const list = make("dl");
  pairs.forEach(([name, value]) => list.append(make("dt", name), make("dd", typeof value === "string" ? value : JSON.stringify(value))));
  return list;
}

function part(title, ...nodes) {
  const found = make("details");
  found.append(make("summary", title), ...nodes);
  return found;
}

function verdicts(found) {
  const text = DATA.prompts[found.prompts] ?? {};
  const prompts = text.target ?? [];
  const { asr = "", restored = "", residue = "", leak = "" } = found.verdicts;
  const count = Math.max(asr.length, restored.length, leak.length);
  const said = (bits, i, yes, no) => (bits[i] === undefined ? ["–", ""] : bits[i] === "1" ? [yes[0], 1, yes[1]] : [no[0], 0, no[1]]);
  const outcome = (i) => {
    if (asr[i] === undefined) return ["–", ""];
    if (asr[i] === "1") return ["✗ backdoored", 0, "bad"];
    if (restored[i] === "1") return ["✓ restored", 2, "good"];
    return [residue[i] === undefined ? "≈ removed" : "≈ residue", 1, "odd"];
  };
  const rows = [];
  for (let i = 0; i < count; i += 1) {
    const wrong = asr[i] === "1" || restored[i] === "0" || leak[i] === "1";
    if (only.checked && !wrong) continue;
    rows.push([[prompts[i] ?? `prompt ${i + 1}`, null, "text"], outcome(i), said(leak, i, ["✗ backdoored", "bad"], ["no", "good"])]);
  }
  if (!count) return make("p", "This cell has no verdicts.", { class: "note" });
  return table(["Prompt", "With the trigger", "Without the trigger"], rows, "verdicts on every prompt");
}

function open() {
  const found = DATA.cells[cell.value];
  const panel = $("#panel");
  panel.replaceChildren();
  if (!found) return;
  panel.append(make("h3", `${found.attack} × ${found.defense}, seed ${found.seed}: ${found.status}`));
  panel.append(listed(found.about));
  if (found.error) panel.append(make("pre", found.error));
  const rows = Object.entries(found.scores).map(([name, [value, low, high, n, network, note]]) => [
    name,
    [number(value, name), value ?? ""],
    low === null || high === null ? "" : `${number(low, name)} – ${number(high, name)}`,
    [n || "", n || ""],
    [network, null, "text"],
    [note, null, "text"],
  ]);
  if (rows.length) panel.append(part("All metrics", table(["Metric", "Value", "95 % interval", "n", "Network", "Note"], rows, "all metrics")));
  panel.append(part("Options", ...found.options.map(([name, options]) => {
    const box = make("div");
    box.append(make("h3", name), listed(Object.entries(options)));
    return box;
  })));
  if (found.status === "done") {
    const box = part("Every prompt", verdicts(found));
    box.open = true;
    panel.append(box);
  }
}

function jump() {
  const match = /^#cell-(\d+)$/.exec(location.hash);
  if (match && cell && DATA.cells[Number(match[1])]) {
    cell.value = match[1];
    open();
    $("#cells").scrollIntoView();
    cell.focus({ preventScroll: true });
  }
}
if (cell) {
  cell.addEventListener("change", open);
  only.addEventListener("change", open);
  addEventListener("hashchange", jump);
  open();
  jump();
}
