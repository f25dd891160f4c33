"""The page's style sheet. Colours are named once for light and once for dark; the charts use the same names."""

from __future__ import annotations

CSS = """
:root{color-scheme:light dark;--page:#f4f5f7;--card:#fff;--edge:#d9dee4;--text:#1c2128;--soft:#57606a;--gridline:#e7eaee;--axisline:#8c959f;
--main:#0b62d6;--other:#c2570c;--good:#14713a;--good-bg:#dff3e4;--bad:#b3261e;--bad-bg:#fbe3e1;--warn:#8a5a00;--warn-bg:#fdf0d0}
@media (prefers-color-scheme:dark){:root{--page:#0f1318;--card:#181d24;--edge:#2f3741;--text:#e8ebef;--soft:#a3adb8;--gridline:#29313a;
--axisline:#6b7681;--main:#6aa9ff;--other:#f2a05c;--good:#6fd58f;--good-bg:#143322;--bad:#ff9d94;--bad-bg:#41201e;--warn:#f0c674;--warn-bg:#3a2f14}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--text);font:15px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,sans-serif}
main{max-width:1220px;margin:0 auto;padding:24px 20px 48px}
h1{font-size:26px;line-height:1.2;margin:0;overflow-wrap:anywhere}h2{font-size:18px;margin:0 0 10px}h3{font-size:14px;margin:0 0 8px}
p{margin:0 0 12px;max-width:90ch}
.sub{max-width:none}.top{display:flex;gap:14px;align-items:center}.sub{color:var(--soft);margin:8px 0 18px}.sub strong{color:var(--text);font-weight:600}
.badge{font-weight:700;font-size:16px;padding:4px 14px;border-radius:999px;white-space:nowrap}
.badge.good{background:var(--good-bg);color:var(--good)}.badge.bad{background:var(--bad-bg);color:var(--bad)}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(190px,1fr));gap:12px;margin-bottom:16px}
.figure{background:var(--card);border:1px solid var(--edge);border-top:3px solid var(--edge);border-radius:8px;padding:12px 14px}
.figure.good{border-top-color:var(--good)}.figure.bad{border-top-color:var(--bad)}.figure.warn{border-top-color:var(--warn)}
.figure .label{color:var(--soft);font-size:13px}.figure .value{font-size:27px;font-weight:650;line-height:1.25;font-variant-numeric:tabular-nums}
.figure .change{font-size:13px;font-weight:600}.figure .change span{font-weight:400;color:var(--soft)}.figure .note,.note,figcaption{color:var(--soft);font-size:13px}
section{background:var(--card);border:1px solid var(--edge);border-radius:8px;padding:18px 20px;margin-bottom:16px}
section h3{margin-top:14px}.why ul{margin:0;padding-left:20px}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(460px,1fr));gap:8px 28px;margin:10px 0}
.plots.small{grid-template-columns:repeat(auto-fit,minmax(300px,1fr))}figure{margin:0;min-width:0;max-width:620px}figure svg{display:block;width:100%;height:auto}figcaption{margin-top:2px}.narrow{display:none}
.scroll{overflow-x:auto;margin-bottom:12px}table{border-collapse:collapse;width:100%;font-size:14px}
th{text-align:left;color:var(--soft);font-weight:600;font-size:13px}th,td{padding:6px 14px 6px 0;border-bottom:1px solid var(--gridline);vertical-align:top;overflow-wrap:break-word}td:first-child,.toned{min-width:max-content}
td.number,th.number{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
tr.good .toned{color:var(--good)}tr.bad .toned{color:var(--bad)}tr.warn .toned{color:var(--warn)}.good .toned,.bad .toned,.warn .toned{font-weight:600}
footer{color:var(--soft);font-size:13px;overflow-wrap:anywhere}
text{font:12px system-ui,-apple-system,'Segoe UI',Roboto,sans-serif}
.ink{fill:var(--text)}.muted{fill:var(--soft)}.grid{stroke:var(--gridline)}.axis{stroke:var(--axisline)}.axis,.grid,.limit{stroke-width:1;fill:none}
svg .main{stroke:var(--main);fill:var(--main)}svg .other{stroke:var(--other);fill:var(--other)}svg .hollow{fill:var(--card)}
.limit{stroke:var(--bad);stroke-dasharray:5 4}.limit-ink{fill:var(--bad)}svg .line{fill:none;stroke-width:2}svg .bar{stroke:none}
@media (max-width:640px){main{padding:14px 12px 32px}section{padding:14px}.wide{display:none}.narrow{display:block}.plots,.plots.small{grid-template-columns:1fr}
.figures{grid-template-columns:1fr 1fr}.figure .value{font-size:22px}h1{font-size:21px}
table.stacked thead{display:none}table.stacked tr{display:block;padding:8px 0;border-bottom:1px solid var(--edge)}
table.stacked td{display:flex;gap:10px;justify-content:space-between;border:0;padding:2px 0;text-align:right;white-space:normal}
table.stacked td:empty{display:none}table.stacked td::before{content:attr(data-name);color:var(--soft);text-align:left;flex:0 0 38%}}
"""
