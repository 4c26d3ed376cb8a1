"""What a reader of report.html can do, where there is a Chromium."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import subprocess
from pathlib import Path

import pytest
from browser import BROWSER
from report_pages import EVIL, PROMPTS, made, read, run  # noqa: F401 - a fixture

from t2i_backdoor_bench.contract.printable import lines
from t2i_backdoor_bench.report.html import page

PROBE = """
<script>
addEventListener("error", (event) => { document.title = "ERROR " + event.message; });
addEventListener("securitypolicyviolation", (event) => {
  document.title = "BLOCKED " + event.violatedDirective;
});
addEventListener("load", () => {
  const said = {};
  const sort = document.querySelectorAll("#rows-table thead button")[3];
  sort.click();
  const rows = () => [...document.querySelectorAll("#rows-table tbody tr")];
  const values = () => rows().map((row) => row.children[3].dataset.value);
  said.up = values();
  sort.click();
  said.down = values();
  said.aria = sort.closest("th").getAttribute("aria-sort");
  const filter = document.querySelector("#filter");
  filter.value = "skdcag bad_pixel";
  filter.dispatchEvent(new Event("input"));
  said.shown = rows().filter((row) => !row.hidden).length;
  const heat = document.querySelector("#heat");
  heat.value = "asr";
  heat.dispatchEvent(new Event("change"));
  const heats = [...document.querySelectorAll("[data-heat]")];
  said.heats = heats.filter((part) => part.offsetParent).map((part) => part.dataset.heat);
  location.hash = "#cell-1";
  dispatchEvent(new HashChangeEvent("hashchange"));
  said.panel = document.querySelector("#panel h3").textContent;
  said.verdicts = document.querySelectorAll("#panel details[open] tbody tr").length;
  document.querySelector("#only").click();
  said.wrong = document.querySelectorAll("#panel details[open] tbody tr").length;
  said.prompt = document.querySelector("#panel details[open] tbody th").textContent;
  const ground = () => getComputedStyle(document.body).backgroundColor;
  const before = ground();
  document.querySelector("#theme").click();
  said.theme = before !== ground();
  const right = (node) => node.getBoundingClientRect().right;
  const outside = (node) => !node.closest(".scroll") && right(node) > innerWidth + 1;
  const over = [...document.querySelectorAll("body *")].filter(outside).slice(0, 3);
  said.over = over.map((node) => node.outerHTML.slice(0, 120));
  said.wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  said.images = document.images.length;
  said.title = document.title;
  const out = document.createElement("pre");
  out.id = "said";
  out.textContent = JSON.stringify(said);
  document.body.append(out);
});
</script></body>
"""


def with_probe(text: str) -> str:
    """The page with the script above, which its policy is made to allow."""
    script = re.search("<script>(.*)</script>", PROBE, re.S)[1]
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    text = text.replace("script-src ", f"script-src &#39;sha256-{allowed}&#39; ")
    return text.replace("</body>", PROBE)


@pytest.mark.skipif(
    BROWSER is None,
    reason="no Chromium here: the structure is checked above, what a reader can do is not",
)
@pytest.mark.parametrize(
    "size", ["1200,900", "500,800"]
)  # Chromium makes no window narrower than 500 pixels
def test_in_a_browser(run, tmp_path: Path, size: str):
    store, records = run
    path = tmp_path / "probe.html"
    path.write_text(with_probe(page.render_report(store, records)), encoding="utf-8")
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path / 'profile'}",
        f"--window-size={size}",
    ]
    done = subprocess.run(
        [BROWSER, *flags, "--virtual-time-budget=4000", "--dump-dom", path.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    found = re.search(r'<pre id="said">(.*?)</pre>', done.stdout, re.S)
    assert found, done.stdout[-500:] + done.stderr[-2000:]
    said = json.loads(html.unescape(found[1]))
    assert said["title"] == page.title_of(records), "no error, and nothing was blocked"
    numbers = [float(v) for v in said["up"] if v]
    assert numbers == sorted(numbers)
    assert [float(v) for v in said["down"] if v] == sorted(numbers, reverse=True)
    assert said["up"][-1] == said["down"][-1] == "", "nothing goes last, both ways"
    assert said["aria"] == "descending"
    assert said["shown"] == 1
    assert said["heats"] == ["asr"]
    assert said["panel"].startswith("bad_pixel × skdcag, seed 0")
    assert said["verdicts"] == 10
    assert said["wrong"] == 2, (
        "the one that still shows the backdoor, and the one that is not as asked"
    )
    assert said["prompt"] == lines(PROMPTS[0])
    assert said["theme"]
    assert said["wide"] <= 0, f"the page is never wider than the window: {said['over']}"
    assert said["images"] > 10
