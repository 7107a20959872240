"""The style sheets: light and dark, phone and paper; colour-blind-safe colours.

``STYLE`` serves every page, ``GAP_STYLE`` is what the page of a comparison adds to it.
"""

STYLE = """
:root{--bg:#fff;--fg:#1b1f24;--soft:#57606a;--rule:#d0d7de;--panel:#f6f8fa;--good:#116329;--bad:#b42318;--even:#57606a;
--c0:#0072b2;--c1:#d55e00;--c2:#00805a;--c3:#a2468b;--c4:#8a6d00;--c5:#3a6ea5;color-scheme:light dark}
@media screen and (prefers-color-scheme:dark){:root{--bg:#0d1117;--fg:#e6edf3;--soft:#9da7b3;--rule:#30363d;
--panel:#161b22;--good:#4ac26b;--bad:#ff7b72;--even:#9da7b3;--c0:#56b4e9;--c1:#ff9b57;--c2:#2fc394;--c3:#e29bce;--c4:#f0e442;--c5:#9ecbff}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:64rem;padding:1rem;background:var(--bg);color:var(--fg);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;overflow-wrap:break-word}
h1{font-size:1.5rem;line-height:1.25}h2{font-size:1.2rem;margin-top:2.2rem;border-bottom:1px solid var(--rule)}
h3{font-size:1rem;margin-bottom:.3rem}
.summary{font-size:1.1rem}.soft,figcaption,caption{color:var(--soft);font-size:.9rem}caption{text-align:left}
caption span{display:block;max-width:calc(100vw - 2rem)}
.skip{position:absolute;left:-999px}.skip:focus{left:1rem;top:0;background:var(--bg);padding:.5rem;z-index:1}
a{color:var(--c0)}:focus-visible{outline:3px solid var(--c0);outline-offset:2px}
.scroll{overflow-x:auto;max-width:100%}header ul{padding-left:1.2rem}header li{margin:.25rem 0}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;margin:.4rem 0;font-size:.92rem}
th,td{padding:.25rem .6rem;border-bottom:1px solid var(--rule);text-align:right;vertical-align:top}
th:first-child,td:first-child,.left,.words td,.words th{text-align:left}thead th{border-bottom:2px solid var(--rule)}
tbody th{position:sticky;left:0;background:var(--bg)}
.nowrap,td.num{white-space:nowrap}.words td:last-child,td.left:not(.nowrap){min-width:12rem}
.ahead{color:var(--good)}.behind{color:var(--bad)}.even{color:var(--even)}
.alarm{border-left:4px solid var(--bad);background:var(--panel);padding:.5rem .8rem;color:var(--bad)}
.note{border-left:4px solid var(--rule);background:var(--panel);padding:.5rem .8rem}
pre{background:var(--panel);padding:.6rem;overflow-x:auto;font-size:.85rem}code{font-size:.9em}
figure{margin:.8rem 0}svg{width:100%;max-width:32rem;height:auto;display:block}img{max-width:100%;height:auto}
svg text{font:13px system-ui,sans-serif;fill:var(--fg)}svg text.axis{fill:var(--soft)}svg text.heading{font-weight:600}
.grid{stroke:var(--rule);stroke-width:1}.zero{stroke:var(--fg);stroke-width:1.5}
.interval{stroke:var(--even);stroke-width:2}.interval.ahead{stroke:var(--good)}.interval.behind{stroke:var(--bad)}
.mark{stroke:none;fill:var(--even)}.mark.ahead{fill:var(--good)}.mark.behind{fill:var(--bad)}.stroke{stroke-width:2}
.curve{fill:none;stroke-width:2}.hollow{fill:var(--bg)!important;stroke:currentColor;stroke-width:2}
.mark.c0,.bar.c0{fill:var(--c0)}.mark.c1,.bar.c1{fill:var(--c1)}.mark.c2,.bar.c2{fill:var(--c2)}
.mark.c3,.bar.c3{fill:var(--c3)}.mark.c4,.bar.c4{fill:var(--c4)}.mark.c5,.bar.c5{fill:var(--c5)}
.curve.c0,.stroke.c0{stroke:var(--c0)}.curve.c1,.stroke.c1{stroke:var(--c1)}.curve.c2,.stroke.c2{stroke:var(--c2)}
.curve.c3,.stroke.c3{stroke:var(--c3)}.curve.c4,.stroke.c4{stroke:var(--c4)}.curve.c5,.stroke.c5{stroke:var(--c5)}
details>summary{cursor:pointer;font-weight:600;margin:.4rem 0}
.examples{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(14rem,48%),1fr));gap:.6rem}
.examples figure{margin:0}
@media (max-width:480px){table{font-size:.78rem}th,td{padding:.2rem .3rem}.summary{font-size:1rem}
tbody th{max-width:8rem}}
@media print{:root{--fg:#000;--panel:#fff;color-scheme:light}body{max-width:none;font-size:11pt}
.scroll{overflow:visible}tbody th{position:static}h2,h3,h4{break-after:avoid}figure,tr{break-inside:avoid}
details::details-content{content-visibility:visible}nav,.skip{display:none}pre{white-space:pre-wrap}}
"""

# A table that is wider than the page has a shadow at the end where it goes on: the two linear gradients move with the
# content and cover the shadow once that end is reached. From 1100 px up a folded table of numbers is shown beside its
# chart; a browser that cannot open it by style keeps its summary.
GAP_STYLE = """
:root{--edge:#0006}@media screen and (prefers-color-scheme:dark){:root{--edge:#fff9}}
.scroll,pre{background-color:var(--under);background-image:linear-gradient(to right,var(--under) 50%,transparent),
linear-gradient(to left,var(--under) 50%,transparent),radial-gradient(farthest-side at 0 50%,var(--edge),transparent),
radial-gradient(farthest-side at 100% 50%,var(--edge),transparent);background-position:0 0,100% 0,0 0,100% 0;
background-repeat:no-repeat;background-size:2.5rem 100%,2.5rem 100%,.8rem 100%,.8rem 100%;
background-attachment:local,local,scroll,scroll}
.scroll{--under:var(--bg)}pre{--under:var(--panel)}
.band{stroke:none;opacity:.18}.band.c0{fill:var(--c0)}.band.c1{fill:var(--c1)}.band.c2{fill:var(--c2)}
.band.c3{fill:var(--c3)}.band.c4{fill:var(--c4)}.band.c5{fill:var(--c5)}
.answers{display:grid;grid-template-columns:6.5rem minmax(0,1fr);gap:.7rem 1rem;max-width:64rem;margin:1rem 0}
.answers dt{color:var(--soft);font-weight:600}.answers dd{margin:0}.answers p{margin:0 0 .4rem}
.answers ul{margin:0}
@media (max-width:480px){.answers{grid-template-columns:minmax(0,1fr);gap:0}.answers dd{margin-bottom:.7rem}}
.examples{grid-template-columns:repeat(auto-fill,minmax(min(18rem,100%),1fr))}
@media (min-width:1100px){body{max-width:86rem}p,ul,.note{max-width:64rem}
.charted td.left:not(.nowrap){min-width:7rem}
.charted{display:grid;grid-template-columns:minmax(0,32rem) minmax(0,1fr);gap:1rem 2rem;align-items:start}
@supports selector(::details-content){.numbers::details-content{content-visibility:visible;block-size:auto}
.numbers>summary{display:none}}}
@media print{.scroll,pre{background-image:none}}
"""
