"""What ``report.html`` looks like by day, by night, on a phone and on paper, and the little that it does by itself."""

from __future__ import annotations

import base64
import hashlib

DAY = """
  --paper: #fff; --ink: #16191d; --soft: #56606c; --line: #d5dae1; --card: #f6f7f9;
  --arm: #0b62b0; --worse: #b04a08; --base: #6d7681; --bad: #8a5300; --chip: #fff;"""

NIGHT = """
  --paper: #121518; --ink: #e7eaee; --soft: #a3adb8; --line: #363e47; --card: #1a1e23;
  --arm: #6ab4f5; --worse: #f39a5b; --base: #98a2ad; --bad: #e2ad55; --chip: #121518;"""

STYLE = (
    ":root { color-scheme: light dark;"
    + DAY
    + " }\n@media screen and (prefers-color-scheme: dark) { :root {"
    + NIGHT
    + """ } }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; } @media (prefers-reduced-motion: reduce) { html { scroll-behavior: auto; } }
body { margin: 0 auto; padding: 1.2rem 1rem 4rem; max-width: 76rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, sans-serif; overflow-wrap: break-word; font-variant-numeric: tabular-nums; }
a { color: var(--arm); text-underline-offset: .15em; }
:focus-visible { outline: 3px solid var(--arm); outline-offset: 2px; border-radius: 3px; }
.skip { position: absolute; left: -99rem; } .skip:focus { position: static; }
h1 { font-size: clamp(1.35rem, 1rem + 1.6vw, 1.95rem); line-height: 1.25; margin: .2rem 0 .6rem; max-width: 46rem;
  text-wrap: balance; }
h2 { font-size: 1.25rem; margin: 2.4rem 0 .6rem; padding-top: .7rem; border-top: 1px solid var(--line); }
h3 { font-size: 1.02rem; margin: 1.6rem 0 .4rem; }
p, li, dd, summary { max-width: 50rem; } p { margin: .5rem 0; } .soft { color: var(--soft); font-size: .93rem; }
.over { color: var(--soft); font-size: .9rem; margin: 0; } .question { font-size: 1.08rem; color: var(--soft); }
nav ul { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; padding: 0; list-style: none; font-size: .93rem; }
.reserved { padding-left: 1.1rem; } .reserved li { margin: .15rem 0; }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .25rem 1.1rem; margin: .8rem 0;
  overflow-wrap: anywhere; } dt { color: var(--soft); } dd { margin: 0; }
.word { display: inline-block; padding: 0 .45em; border-radius: .3em; border: 1.5px solid var(--soft);
  font-size: .8em; line-height: 1.5; font-weight: 650; letter-spacing: .02em; color: var(--soft); white-space: nowrap; }
.word.WIN { background: var(--arm); border-color: var(--arm); color: var(--chip); }
.word.LOSS { background: var(--worse); border-color: var(--worse); color: var(--chip); }
.word.INVALID, .word.UNSTABLE { border-style: dashed; border-color: var(--bad); color: var(--bad); }
.word.BASELINE { border-color: transparent; padding-left: 0; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: .93rem;
  min-width: min(100%, 36rem); }
th, td { text-align: right; padding: .32rem .6rem; border-bottom: 1px solid var(--line); white-space: nowrap;
  vertical-align: baseline; }
.text { text-align: left; } td.long { white-space: normal; min-width: 15rem; }
tbody th { font-weight: 400; } td, th { background: var(--paper); }
th:first-child { position: sticky; left: 0; z-index: 1; }
thead th { color: var(--soft); font-weight: 600; border-bottom-width: 2px; vertical-align: bottom; }
th button { all: unset; cursor: pointer; display: inline-block; white-space: normal; max-width: 9em;
  line-height: 1.25; }
th button:hover { color: var(--ink); text-decoration: underline; }
th button:focus-visible { outline: 3px solid var(--arm); outline-offset: 2px; border-radius: 3px; }
th button::after { content: "\\2195"; opacity: .45; padding-left: .25em; }
th[aria-sort=ascending] button::after { content: "\\2191"; opacity: 1; }
th[aria-sort=descending] button::after { content: "\\2193"; opacity: 1; }
.forest { list-style: none; padding: 0; margin: .6rem 0; }
.forest li { display: grid; grid-template-columns: minmax(7rem, 15rem) minmax(8rem, 1fr) 20.5rem; gap: 0 1rem;
  align-items: center; max-width: none; break-inside: avoid; }
.forest li + li { border-top: 1px solid var(--line); } .forest li.axis { border-top-color: var(--soft); }
.forest .who { overflow-wrap: anywhere; line-height: 1.25; }
.forest svg { width: 100%; height: 24px; overflow: visible; display: block; margin: .2rem 0; }
.forest .told { display: grid; grid-template-columns: 7.4rem 1fr; align-items: center; font-size: .9rem;
  white-space: nowrap; } .forest .told span span, .forest .axis { color: var(--soft); font-size: .93em; }
.forest .none { fill: var(--base); opacity: .22; } .forest .zero { stroke: var(--ink); }
.forest .span { stroke: var(--base); stroke-width: 3; } .forest circle { fill: var(--paper); stroke: var(--base);
  stroke-width: 2.5; }
.forest .WIN .span { stroke: var(--arm); } .forest .WIN circle { fill: var(--arm); stroke: var(--arm); }
.forest .LOSS .span { stroke: var(--worse); } .forest .LOSS circle { fill: var(--worse); stroke: var(--worse); }
.forest .INVALID .span, .forest .UNSTABLE .span { stroke-dasharray: 3 3; }
.forest .axis text { fill: var(--soft); font-size: 12px; text-anchor: middle; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 13.2rem), 1fr)); gap: .8rem; }
.pictures.wide { grid-template-columns: repeat(2, minmax(0, 1fr)); }
figure { margin: 0; padding: .5rem .5rem .4rem; background: var(--card); border-radius: .4rem; break-inside: avoid; }
figure svg { width: 100%; height: auto; display: block; max-width: 31rem; margin: 0 auto; overflow: visible; }
figcaption { font-size: .86rem; line-height: 1.4; color: var(--soft); } figcaption b { color: var(--ink); }
svg text { font-family: inherit; fill: var(--ink); font-size: 10.5px; } svg .axis, svg .tick { fill: var(--soft); }
svg .name { paint-order: stroke; stroke: var(--card); stroke-width: 3px; stroke-linejoin: round; }
svg .end { text-anchor: end; } svg .middle { text-anchor: middle; }
svg .grid { stroke: var(--line); stroke-width: .7; } svg .floor, svg .zero { stroke: var(--soft); }
svg circle.arm { fill: var(--arm); } svg circle.base { fill: var(--paper); stroke: var(--base); stroke-width: 1.5; }
svg circle.other { fill: var(--base); opacity: .75; } svg path { stroke: var(--worse); fill: none; stroke-width: 1.5; }
svg polyline { fill: none; stroke-width: 1.6; } svg .curve.arm { stroke: var(--arm); }
svg .curve.base { stroke: var(--base); stroke-dasharray: 5 2.5; } svg .band { opacity: .16; }
svg .band.arm { fill: var(--arm); } svg .band.base { fill: var(--base); } svg .short { stroke-width: .8; opacity: .7; }
svg .pair { stroke-width: 1.2; } svg .pair.better { stroke: var(--arm); }
svg .pair.worse { stroke: var(--worse); stroke-dasharray: 4 2.5; }
svg circle.ring { fill: none; stroke-width: 1.6; } svg .ring.arm { stroke: var(--arm); }
svg .ring.base { stroke: var(--base); } svg rect.better { fill: var(--arm); } svg rect.worse { fill: var(--worse); }
svg .front { stroke: var(--arm); stroke-width: 1.2; stroke-dasharray: 2 2; } svg .thin { stroke: var(--line); }
svg .thin.base { stroke: var(--base); stroke-dasharray: 5 2.5; }
article { margin: 1.6rem 0 2.4rem; }
article > h3 { display: flex; flex-wrap: wrap; gap: .3rem .8rem; align-items: center; break-after: avoid; }
article > h3 small { font-weight: 400; color: var(--soft); font-size: .93rem; }
article dl, header dl { font-size: .93rem; gap: .12rem 1.1rem; } dl.soft { margin: .5rem 0; gap: .05rem 1.1rem; }
details { margin: .6rem 0; } summary { cursor: pointer; } details > summary:only-child { list-style: none; }
details.part > summary { font-weight: 600; font-size: 1.02rem; }
pre { background: var(--card); padding: .8rem; border-radius: .4rem; white-space: pre-wrap; overflow-wrap: anywhere; }
code { font-size: .92em; } td code { white-space: pre; }
.quiet { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
@media screen and (max-width: 60rem) {
  .forest li { grid-template-columns: minmax(0, 1fr) auto; gap: 0 .6rem; padding: .3rem 0; }
  .forest svg { grid-row: 2; grid-column: 1 / -1; } .forest .told { display: block; text-align: right; }
  .forest .told > span { display: inline; } .forest .told span span, .forest .axis > span { display: none; }
}
@media screen and (max-width: 46rem) {
  .pictures.wide { grid-template-columns: minmax(0, 1fr); } .wide svg text { font-size: 12px; }
  th:first-child { min-width: 7.5rem; white-space: normal; overflow-wrap: break-word; }
}
@media screen and (max-width: 30rem) {
  dl { grid-template-columns: minmax(0, 1fr); gap: 0; } dd { margin-bottom: .5rem; }
}
@page { size: A4; margin: 14mm; }
@media print {
  body { max-width: none; padding: 0; font-size: 9.5pt; } nav, .skip, th button::after { display: none; }
  .scroll { overflow: visible; } table { font-size: 7.2pt; min-width: 0; } td.long { min-width: 6rem; }
  th, td { padding: .16rem .2rem; } thead th, td.text { white-space: normal; }
  th button { display: contents; } /* else Chromium leaves the heading out on the second page of a table */
  thead { display: table-header-group; } thead, tr { break-inside: avoid; } th { position: static !important; }
  h2, h3, summary { break-after: avoid; } details.aside { display: none; } .word { padding: 0 .3em; }
  details::details-content { content-visibility: visible; block-size: auto; opacity: 1; }
  .forest li { grid-template-columns: 7.5rem 1fr 16.3rem; font-size: 8.5pt; }
  .forest .told { font-size: 8pt; grid-template-columns: 6.2rem 1fr; display: grid; text-align: left; }
  .forest .told span span { display: inline; } .forest svg { height: 20px; margin: 0; }
  .pictures { grid-template-columns: repeat(3, 1fr); gap: .5rem; }
  .pictures.wide { grid-template-columns: 1fr 1fr; } figcaption { font-size: 7.6pt; }
  dl, article dl, header dl, dl.soft, p.soft, article > h3 small { font-size: 8.2pt; }
  h2 { margin-top: 1.4rem; } article { margin: .8rem 0 1.2rem; } article dl { break-after: avoid; }
  .word, figure, .forest svg, svg { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  a { color: inherit; text-decoration: none; } pre { border: 1px solid var(--line); }
}
"""
)

SCRIPT = """
'use strict';
const said = document.getElementById('said');
function order(a, b) {
  const x = a.key, y = b.key;
  if (x === '' || y === '') return (x === '') - (y === '');
  const sign = a.down ? -1 : 1, p = Number(x), q = Number(y);
  return sign * (Number.isNaN(p) || Number.isNaN(q) ? x.localeCompare(y) : p - q);
}
for (const button of document.querySelectorAll('th button')) button.addEventListener('click', () => {
  const head = button.parentElement, body = head.closest('table').tBodies[0];
  const down = head.getAttribute('aria-sort') === 'ascending';
  for (const other of head.parentElement.cells) other.setAttribute('aria-sort', 'none');
  head.setAttribute('aria-sort', down ? 'descending' : 'ascending');
  const rows = Array.from(body.rows, row => ({ row, down, key: row.cells[head.cellIndex].dataset.key ?? '' }));
  for (const each of rows.sort(order)) body.append(each.row);
  said.textContent = `Sorted by ${button.textContent}, ${down ? 'descending' : 'ascending'}`;
});
let closed = [];
addEventListener('beforeprint', () => {
  closed = Array.from(document.querySelectorAll('details:not([open], .aside)'));
  for (const each of closed) each.open = true;
});
addEventListener('afterprint', () => { for (const each of closed) each.open = false; });
"""
"""Sorts tables by a header's button, empty cells last; opens what is folded for printing."""


def policy() -> str:
    """The page's content security policy: its own style and script, and nothing from anywhere."""
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    return f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
