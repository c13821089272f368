"""The script of the live page in a browser, where there is one: what is replaced, and what stays as it was."""

import shutil
import subprocess
from pathlib import Path

import pytest

from sana.report.live import pages

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
BEFORE = """<!doctype html><html><body><span id="light"></span><main data-page="training" data-about="x">
<div id="part-samples" data-digest="1"><h2>S</h2><div class="steps" data-key="p"><figure data-key="a">
<video id="va" controls></video><figcaption>a</figcaption></figure>
<figure data-key="b"><video id="vb"></video></figure></div></div>
<div id="part-form" data-digest="1"><form class="filter"><input name="find" value=""></form>
<details data-key="c"><summary>s</summary>t</details><table><tbody><tr data-key="r1"><td>1</td></tr>
<tr data-key="r2"><td>2</td></tr></tbody></table></div>
</main><script>
let part = null;
window.EventSource = class {
  constructor(url) { window.asked = url; } addEventListener(name, heard) { part = heard; } close() {}
};
Object.defineProperty(document, "hidden", {get: () => false});
</script><script src="live.js"></script><script>
const found = [], note = (name, is) => found.push(name + "=" + (is ? "yes" : "NO"));
window.onerror = error => found.push("error " + error);
const all = (what, of) => [...document.querySelectorAll(what)].map(of).join();
const one = what => document.querySelector(what);
const send = (name, digest, html) => part({data: JSON.stringify({part: name, digest, html})});
const [va, vb, input, details] = ["#va", "#vb", "input", "details"].map(one);
let taken = 0;
new MutationObserver(changes => changes.forEach(change => change.removedNodes.forEach(node => {
  taken += node === va.parentNode || node === vb.parentNode;
}))).observe(one(".steps"), {childList: true});
input.value = "typed"; input.focus(); details.open = true;
note("asks-for-the-rest", asked.includes("have=samples%3A1%2Cform%3A1") && asked.includes("page=training"));
send("samples", "2", `<h2>S2</h2><div class="steps" data-key="p"><figure data-key="a"><video id="va" controls></video>
<figcaption>a2</figcaption></figure><figure data-key="n"><video id="vn"></video></figure><figure data-key="b">
<video id="vb"></video></figure></div><p>more</p>`);
note("videos-stay", one("#va") === va && one("#vb") === vb && all("video", v => v.id) === "va,vn,vb");
note("videos-hide-their-controls", !va.controls && va.tabIndex === 0 && one("#vn").tabIndex === 0);
va.focus();
note("controls-show-with-the-focus", va.controls);
input.focus();
note("texts-change", one("h2").textContent + one("figcaption").textContent + one("p").textContent === "S2a2more");
send("form", "2", `<form class="filter"><input name="find" value=""></form>
<details data-key="c"><summary>s</summary>t2</details><table><tbody><tr data-key="r0"><td>0</td></tr>
<tr data-key="r2"><td>2x</td></tr></tbody></table>`);
note("typing-stays", one("input") === input && input.value === "typed" && document.activeElement === input);
note("details-stay-open", one("details") === details && details.open && details.textContent.includes("t2"));
note("rows-change", all("tr", row => row.textContent) === "0,2x");
send("form", "3", "<script>found.push(2)</" + "script>");
send("form", "4", "");
note("part-may-be-empty", one("#part-form").innerHTML === "" && one("#part-form").dataset.digest === "4");
send("unknown", "1", "x");
setTimeout(() => {
  note("videos-never-left", taken === 0);
  document.body.textContent = "found: " + found.join(" ") + " end";
}, 50);
</script></body></html>"""


@pytest.mark.skipif(BROWSER is None, reason="needs chromium")
@pytest.mark.timeout(120)
def test_what_changed_is_put_in_place_and_the_rest_stays(tmp_path: Path) -> None:
    (tmp_path / "live.js").write_text(pages.static("live.js"))
    (tmp_path / "page.html").write_text(BEFORE)
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", f"--user-data-dir={tmp_path}/profile"]
    command = [str(BROWSER), *options, "--virtual-time-budget=2000", "--dump-dom", f"file://{tmp_path}/page.html"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True).stdout
    words = shown.partition("found: ")[2].partition(" end")[0].split()
    assert len(words) == 10 and all(word.endswith("=yes") for word in words), words
