"""How the report looks: one sheet of styles for light and dark, wide and narrow, screen and paper."""

LIGHT = """
  --paper: #faf9f6; --card: #ffffff; --ink: #22232a; --faint: #6d6f78; --line: #e5e3dd; --grid: #eeece6; --chip: #f1efe9;
  --teacher: #2e6bd6; --student: #d0702a; --third: #2f8f63; --fourth: #94509a; --warn: #a8451f; --hit: #2e6bd6; --miss: #c8452f;
"""
DARK = """
  --paper: #141519; --card: #1c1d23; --ink: #e9e8e4; --faint: #9d9fa8; --line: #2d2f37; --grid: #282a31; --chip: #26282f;
  --teacher: #7ba8ff; --student: #f2a363; --third: #6fcd9f; --fourth: #d093d3; --warn: #f0a080; --hit: #6f9dff; --miss: #ff7a62;
"""
STYLE = f"""
:root {{ color-scheme: light dark; {LIGHT} }}
@media (prefers-color-scheme: dark) {{ :root {{ {DARK} }} }}
""" + """
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "Noto Sans",
  "DejaVu Sans", sans-serif; -webkit-text-size-adjust: 100%; }
main { max-width: 1120px; margin: 0 auto; padding: 40px 24px 64px; }
header { margin-bottom: 28px; }
h1 { font-size: 30px; line-height: 1.2; letter-spacing: -0.01em; margin: 0 0 6px; font-weight: 650; }
h2 { font-size: 19px; letter-spacing: -0.005em; margin: 40px 0 12px; font-weight: 650; }
h3 { font-size: 14px; margin: 0 0 8px; font-weight: 600; }
p { margin: 0 0 10px; max-width: 78ch; }
.card + p { margin-top: 10px; }
.faint, figcaption, .key { color: var(--faint); font-size: 13px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin: 22px 0 8px; }
.tile, .card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
.tile { padding: 12px 16px; }
.tile b { display: block; font-size: 25px; line-height: 1.25; font-weight: 650; font-variant-numeric: tabular-nums; }
.tile span { color: var(--faint); font-size: 13px; display: block; line-height: 1.4; }
.grid2 { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr)); gap: 14px; }
.card { padding: 16px 18px; min-width: 0; }
.warn { border-left: 3px solid var(--warn); padding: 8px 14px; background: var(--chip); border-radius: 0 8px 8px 0;
  margin: 8px 0; font-size: 14px; }
svg { display: block; width: 100%; height: auto; overflow: visible; }
svg text { font-size: 11.5px; fill: var(--faint); font-variant-numeric: tabular-nums; }
svg .grid { stroke: var(--grid); stroke-width: 1; }
svg .curve { fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
svg .sure { fill: var(--teacher); } svg .unsure { fill: var(--faint); fill-opacity: .45; }
svg .before { fill: none; stroke: var(--ink); stroke-width: 1.2; stroke-opacity: .55; stroke-dasharray: 3 3; }
svg .threshold { stroke: var(--ink); stroke-width: 1; stroke-opacity: .6; }
svg polygon { stroke: var(--card); stroke-width: .5; }
svg .hit { fill: var(--hit); } svg .miss { fill: var(--miss); } svg .border { fill: none; stroke: var(--line); }
svg text.strong { fill: var(--card); } svg text.weak { fill: var(--ink); }
svg.spark { width: 110px; height: 22px; }
.key { display: flex; flex-wrap: wrap; gap: 3px 16px; margin-top: 6px; }
.key i, .swatch { display: inline-block; width: 11px; height: 11px; border-radius: 3px; margin-right: 6px;
  vertical-align: -1px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14px; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; color: var(--faint); font-size: 12.5px; padding: 4px 14px 6px 0;
  white-space: nowrap; vertical-align: bottom; }
td { padding: 5px 14px 5px 0; border-top: 1px solid var(--line); vertical-align: middle; }
td:first-child { white-space: nowrap; }
td.n, th.n { text-align: right; white-space: nowrap; }
.bar { display: inline-block; width: 110px; height: 8px; background: var(--grid); border-radius: 4px; vertical-align: 1px;
  margin-right: 8px; overflow: hidden; }
.bar i { display: block; height: 100%; border-radius: 4px; }
.panel { display: grid; gap: 8px 8px; align-items: start; min-width: 560px; }
.panel figure { margin: 0; min-width: 0; }
.panel img { display: block; width: 100%; height: auto; border-radius: 5px;
  background: repeating-linear-gradient(45deg, var(--grid) 0 4px, var(--card) 4px 8px); }
.panel .head { font-size: 12.5px; color: var(--faint); }
code, pre { font: 12.5px/1.55 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
pre { background: var(--chip); border-radius: 8px; padding: 10px 14px; margin: 4px 0 14px; white-space: pre-wrap;
  overflow-wrap: anywhere; }
code { overflow-wrap: anywhere; }
details summary { cursor: pointer; color: var(--faint); font-size: 14px; margin: 10px 0; }
footer { margin-top: 40px; color: var(--faint); font-size: 13px; }
@media (max-width: 560px) { main { padding: 24px 14px 48px; } h1 { font-size: 24px; } .card { padding: 12px 12px;
  } .bar { width: 60px; } }
@media print { body { background: #fff; } .card, .tile { break-inside: avoid; } }
"""
