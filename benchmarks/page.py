"""The report's page: HTML without network and script, well-formed as XML too. Every text is escaped here. Pure."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence

from benchmarks.drawing import Drawing
from benchmarks.table import Column, Table, Value, shown

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

_CSS = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; color: #1a1a1a; background: #fff;
  max-width: 66rem; margin: 0 auto; padding: 1rem 1.5rem 4rem; }
h1 { line-height: 1.2; margin: 1.2rem 0 .4rem; }
h2 { margin: 2.8rem 0 .6rem; padding-top: .6rem; border-top: 2px solid #1a1a1a; }
h3 { margin: 1.6rem 0 .4rem; }
p, li, dd { max-width: 48rem; }
nav ol { columns: 2; column-gap: 3rem; padding-left: 2rem; }
a { color: #00538a; }
.lead { font-size: 1.1rem; }
.banner { border: 3px solid #d55e00; padding: .6rem 1rem; font-weight: bold; }
.missing { border-left: 4px solid #666; padding: .3rem .8rem; color: #333; background: #f4f4f4; }
.verdict { border-left: 8px solid #666; padding: .1rem 1rem .3rem; margin: 1rem 0; break-inside: avoid; }
.verdict b { text-transform: uppercase; letter-spacing: .04em; }
.verdict .claim { font-weight: 600; margin: .2rem 0; }
.verdict p { margin: .2rem 0; }
.verdict .rule { color: #444; font-size: .875rem; }
.yes { border-color: #009e73; } .no { border-color: #d55e00; }
h2, h3, caption { break-after: avoid; }
figure { margin: 1.4rem 0; break-inside: avoid; }
figure img { width: 100%; height: auto; }
figcaption { max-width: 48rem; color: #333; font-size: .875rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: .8rem 0 1.4rem; font-size: .875rem; }
caption { text-align: left; font-weight: 600; padding-bottom: .3rem; }
th, td { padding: .2rem .6rem; text-align: left; vertical-align: top; border-bottom: 1px solid #ddd; }
thead th { border-bottom: 2px solid #666; vertical-align: bottom; max-width: 9rem; }
.n { text-align: right; font-variant-numeric: tabular-nums; }
td.n { white-space: nowrap; }
.small table { font-size: .78rem; }
.small td:first-child { overflow-wrap: anywhere; min-width: 11rem; }
.grades thead th { text-align: center; max-width: none; }
.grades td { text-align: center; border: 2px solid #fff; min-width: 9rem; }
.grades td b { font-size: 1.3rem; display: block; }
.g1 { background: #fff7e0; } .g2 { background: #fee3a2; } .g3 { background: #fec44f; }
.g4 { background: #d9691a; color: #fff; }
.g5 { background: #8c2d04; color: #fff; } .g0 { background: #eee; color: #444; }
dt { font-weight: 600; margin-top: .6rem; } dd { margin-left: 1.4rem; }
@media print {
  body { font-size: 10pt; max-width: none; padding: 0; }
  .small table { font-size: 6.5pt; } .small th, .small td { padding: .1rem .25rem; }
  .small td:first-child { min-width: 0; }
  .wide { overflow: visible; } tr { break-inside: avoid; } thead { display: table-header-group; }
  .g1, .g2, .g3, .g4, .g5, .g0 { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  nav { display: none; } a { color: inherit; text-decoration: none; }
}
"""


def text(given: str) -> str:
    """Escape a text; what no page can hold becomes a replacement character."""
    return html.escape("".join(one if one.isprintable() or one == "\n" else "\ufffd" for one in given))


def page(title: str, sections: Sequence[tuple[str, str, str]], *, lead: str, banner: str = "") -> str:
    """Give the whole page; a section is (id, heading, HTML), `lead` is HTML."""
    entries = "\n".join(f'<li><a href="#{text(name)}">{text(heading)}</a></li>' for name, heading, _ in sections)
    bodies = "\n".join(
        f'<section id="{text(name)}">\n<h2>{number}. {text(heading)}</h2>\n{body}\n</section>'
        for number, (name, heading, body) in enumerate(sections, 1)
    )
    warning = f'<p class="banner">{text(banner)}</p>' if banner else ""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8"/>
<meta http-equiv="Content-Security-Policy" content="{text(_POLICY)}"/>
<meta name="viewport" content="width=device-width, initial-scale=1"/>
<title>{text(title)}</title>
<style>{_CSS}</style>
</head>
<body>
<header>
<h1>{text(title)}</h1>
{warning}
{lead}
<nav>
<ol>
{entries}
</ol>
</nav>
</header>
<main>
{bodies}
</main>
</body>
</html>
"""


def paragraph(given: str, kind: str = "") -> str:
    """Give a paragraph."""
    return f'<p class="{kind}">{text(given)}</p>' if kind else f"<p>{text(given)}</p>"


def heading(given: str) -> str:
    """Give a heading inside a section."""
    return f"<h3>{text(given)}</h3>"


def listing(items: Iterable[str]) -> str:
    """Give a list; nothing for no items."""
    entries = "\n".join(f"<li>{text(one)}</li>" for one in items)
    return f"<ul>\n{entries}\n</ul>" if entries else ""


def definitions(items: Iterable[tuple[str, str]]) -> str:
    """Give words and what they mean."""
    entries = "\n".join(f"<dt>{text(word)}</dt><dd>{text(meaning)}</dd>" for word, meaning in items)
    return f"<dl>\n{entries}\n</dl>"


def verdict(told: str, claim: str, reason: str, rule: str = "", *, kind: str) -> str:
    """Give a judgement, the verdict first; `kind` is "yes", "no" or "open"."""
    judged_by = f'<p class="rule">{text(rule)}</p>' if rule else ""
    return (
        f'<div class="verdict {kind}"><p><b>{text(told)}</b></p><p class="claim">{text(claim)}</p>'
        f"<p>{text(reason[:1].upper() + reason[1:])}</p>{judged_by}</div>"
    )


def table(given: Table, *, is_small: bool = False) -> str:
    """Give the columns that have a heading; a line instead if there are no rows."""
    if not given.rows:
        return paragraph(f"{given.title}: nothing to show.", "missing")
    shows = [place for place, column in enumerate(given.columns) if column.heading]
    columns = [given.columns[place] for place in shows]
    head = "".join(f'<th scope="col"{_aligned(one)}>{text(one.heading)}</th>' for one in columns)
    rows = "\n".join(
        "<tr>" + "".join(_field(row[place], given.columns[place]) for place in shows) + "</tr>" for row in given.rows
    )
    kind = "wide small" if is_small else "wide"
    return (
        f'<div class="{kind}"><table id="table-{text(given.name)}"><caption>{text(given.title)}</caption>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>"
    )


def grades(caption: str, columns: Sequence[str], rows: Iterable[tuple[str, Sequence[tuple[int | None, str]]]]) -> str:
    """Give a matrix of grades 1 to 5, each with a line below it; grade None is shown as a dash."""
    head = "".join(f'<th scope="col">{text(one)}</th>' for one in ("", *columns))
    body = "\n".join(
        f'<tr><th scope="row">{text(row)}</th>'
        + "".join(f'<td class="g{grade or 0}"><b>{grade or "-"}</b>{text(told)}</td>' for grade, told in fields)
        + "</tr>"
        for row, fields in rows
    )
    return (
        f'<div class="wide"><table class="grades"><caption>{text(caption)}</caption>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def figure(given: Drawing) -> str:
    """Give a figure inside the page, or say why there is none."""
    if given.missing:
        return paragraph(f"Figure “{given.title}” is not drawn: {given.missing.rstrip('.')}.", "missing")
    data = base64.b64encode(given.svg).decode()
    return (
        f'<figure id="figure-{text(given.name)}">'
        f'<img alt="{text(given.title)}" src="data:image/svg+xml;base64,{data}"/>'
        f"<figcaption>{text(given.caption)}</figcaption></figure>"
    )


def _field(value: Value, column: Column) -> str:
    return f"<td{_aligned(column)}>{text(shown(value, column.form))}</td>"


def _aligned(column: Column) -> str:
    return ' class="n"' if column.form not in {"", "term"} else ""
