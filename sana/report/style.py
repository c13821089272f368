"""The page's style and its few lines of script: nothing is loaded from anywhere."""

CSS = """
:root{color-scheme:light dark;--page:#f6f7f9;--card:#fff;--ink:#161a22;--soft:#5b6473;--faint:#8a93a3;--line:#e3e6ec;
--train:#3566d6;--eval:#e2a02c;--refused:#d2463f;--open:#93acea;--band:#3566d62e;--fall:#d2463f59;--good:#1f8a55;--node:#27406f;
--chip:#eef1f6}
@media(prefers-color-scheme:dark){:root{--page:#0f1217;--card:#171b22;--ink:#e8ebf1;--soft:#a2abba;--faint:#757f90;
--line:#272d37;--train:#6f9bff;--eval:#f0b54a;--refused:#ff7a70;--open:#3f5b9e;--band:#6f9bff33;--fall:#ff7a7059;--good:#55c78d;
--node:#a9c2ff;--chip:#222832}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,
"Helvetica Neue",Arial,sans-serif;font-variant-numeric:tabular-nums;overflow-wrap:break-word}
main{max-width:1140px;margin:0 auto;padding:36px 24px 64px}
header small{color:var(--train);font-weight:650;letter-spacing:.09em;text-transform:uppercase;font-size:12px}
h1{font-size:34px;line-height:1.15;margin:4px 0 6px;letter-spacing:-.015em}
h2{font-size:21px;margin:0 0 2px;letter-spacing:-.01em}
h3{font-size:14px;margin:0;font-weight:650}
.meta,.lead{color:var(--soft);margin:0}.lead{margin-bottom:14px;max-width:88ch}
section{margin-top:44px}
.about{color:var(--soft);font-size:13px;margin:1px 0 10px}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(160px,1fr));gap:12px;margin-top:24px}
.tile,.panel{background:var(--card);border:1px solid var(--line);border-radius:10px}
.tile{padding:13px 16px}.tile span{color:var(--soft);font-size:13px;display:block}
.tile b{font-size:25px;font-weight:650;letter-spacing:-.015em;display:block;line-height:1.25}
.tile small{color:var(--faint);font-size:12.5px;display:block;line-height:1.35}
.panel{padding:16px 18px;margin-top:12px;min-width:0}
.grid2{display:grid;grid-template-columns:1fr 1fr;gap:12px;align-items:stretch}.grid2 .panel{margin-top:0}
.grid2+.grid2,.grid2+.panel,.panel+.grid2{margin-top:12px}
.wide{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:13.5px}
th{text-align:left;color:var(--soft);font-weight:550;font-size:12.5px;padding:4px 14px 6px 0;white-space:nowrap;
border-bottom:1px solid var(--line);overflow-wrap:normal}
td{padding:6px 14px 6px 0;border-bottom:1px solid var(--line);vertical-align:top}
tbody tr:last-child td{border-bottom:0}
th.n,td.n{text-align:right;white-space:nowrap;overflow-wrap:normal}th:last-child,td:last-child{padding-right:0}
code,.mono{font:12.5px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
.chip{display:inline-block;background:var(--chip);border-radius:5px;padding:0 7px;font-size:12.5px;white-space:nowrap}
.ok{color:var(--good)}.bad{color:var(--refused)}.zero{color:var(--faint)}.soft-text{color:var(--soft)}
.bar{display:flex;height:12px;border-radius:3px;overflow:hidden;background:var(--chip);min-width:120px;margin-top:5px;
gap:1px}
.bar i{display:block;min-width:2px}
i.train{background:var(--train)}i.eval{background:var(--eval)}i.refused{background:var(--refused)}
i.open{background:var(--open)}
.key{font-size:13px;color:var(--soft);margin:0 0 6px}.key i{display:inline-block;width:10px;height:10px;
border-radius:2px;
margin:0 6px 0 14px}.key i:first-child{margin-left:0}.key i.square{background:none;border:1.8px solid var(--eval)}
td.wide-cell{width:46%}
.by-bucket td{vertical-align:middle}.by-bucket td:nth-child(3){width:44%}.by-bucket .bar{margin:0}
.by-stage td{vertical-align:middle}.by-stage .bar{margin:0}.by-stage td:nth-child(2){width:50%}
code{overflow-wrap:anywhere}
.by-stage td:not(:nth-child(2)),.by-bucket td{white-space:nowrap}
svg{display:block;width:100%;height:auto}svg.glyph{width:24px;height:24px}.glyph rect{fill:var(--band);
stroke:var(--train);
stroke-width:1.2}
svg text{fill:var(--ink);font-size:13px}svg .tick{fill:var(--faint);font-size:11.5px}svg .name{font-weight:650;
font-size:14px}
svg .sub{fill:var(--soft)}svg .reason{fill:var(--refused);font-size:12.5px}
svg .grid{stroke:var(--line)}svg .train{fill:var(--train)}svg .open{fill:var(--open)}svg .band{fill:var(--band)}
svg .soft{fill:var(--fall)}svg .node{fill:var(--node)}svg .disc{fill:var(--train);fill-opacity:.35;
stroke:var(--train)}
svg .shape{fill:none;stroke:var(--eval);stroke-width:1.8}
.strip{display:flex;flex-wrap:wrap;gap:8px;align-items:flex-end;padding:12px 0;border-top:1px solid var(--line)}
.strip:first-of-type{border-top:0;padding-top:2px}
.strip div{width:132px;align-self:center}.strip div b{display:block;font-weight:600}
.strip div small{color:var(--soft)}
.strip img{display:block;border-radius:5px;background:var(--chip)}.strip img.eval{outline:2px solid var(--eval);
outline-offset:1px}
blockquote{margin:0;padding:9px 0;border-top:1px solid var(--line)}blockquote:first-of-type{border-top:0;
padding-top:0}
blockquote .mono{color:var(--faint);display:block}
.finder{display:none;gap:10px;align-items:center;margin:0 0 8px}.scripted .finder{display:flex}
.finder input{flex:1;font:inherit;padding:6px 10px;border:1px solid var(--line);border-radius:7px;
background:var(--page);
color:inherit;min-width:0}.finder output{color:var(--soft);font-size:13px;white-space:nowrap}
.scroll{max-height:440px;overflow:auto}.scroll thead th{position:sticky;top:0;background:var(--card)}
.refused-files td{overflow-wrap:anywhere}.refused-files td:nth-child(1){min-width:220px}
.refused-files td:nth-child(4){min-width:240px}
.refused-files td:nth-child(2),.refused-files td:nth-child(5){white-space:nowrap}
footer{margin-top:44px;color:var(--faint);font-size:13px}
@media(max-width:800px){.grid2{grid-template-columns:1fr}main{padding:22px 14px}}
@media print{:root{--page:#fff}body{font-size:12px}main{max-width:none;padding:0}.scroll{max-height:none;
overflow:visible}
.finder{display:none!important}.panel,.tile{break-inside:avoid}.panel.long{break-inside:auto}
.refused-files tr{break-inside:avoid}section{margin-top:24px}
*{-webkit-print-color-adjust:exact;print-color-adjust:exact}}
"""

# Filters the table of refused files: every word must stand in a row.
SCRIPT = """
document.documentElement.classList.add("scripted");
const box = document.querySelector("#find"), count = document.querySelector("#found");
const rows = box ? [...document.querySelectorAll(".refused-files tbody tr")] : [];
const texts = rows.map(row => row.textContent.toLowerCase());
function filter() {
  const words = box.value.toLowerCase().split(/\\s+/).filter(Boolean);
  let shown = 0;
  rows.forEach((row, i) => { row.hidden = !words.every(word => texts[i].includes(word)); shown += !row.hidden; });
  count.textContent = shown + " of " + rows.length + " shown";
}
if (box) { box.addEventListener("input", filter); filter(); }
"""
