"""The report: one HTML file that opens from disk and needs nothing else."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from advtrack.reporting.findings import Findings
from advtrack.reporting.formats import to_html

# Nothing may be fetched, whatever ends up in the page.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

_STYLE = """
:root { color-scheme: light dark; --text: #1b1b1f; --dim: #55565c; --page: #fff; --raised: #f4f5f7; --line: #c9cbd1;
  --link: #0b57a4; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e6ea; --dim: #b0b2ba; --page: #17181b; --raised: #22242a;
  --line: #454851; --link: #8ec1ff; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text); font: 1rem/1.5 system-ui, sans-serif; }
main { max-width: 75rem; margin: 0 auto; padding: 1rem; overflow-wrap: anywhere; }
h1, h2, h3 { line-height: 1.2; }
h2 { margin-top: 2.5rem; }
a { color: var(--link); }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
th, td { padding: 0.35rem 0.7rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
tr:last-child > * { border-bottom: 0; }
thead th { background: var(--raised); }
th.key { text-align: left; }
tbody th { font-weight: normal; }
.dim { color: var(--dim); }
figure { margin: 1.5rem 0; }
img { display: block; max-width: 100%; min-width: 36rem; height: auto; }
figure .scroll { background: #fff; }
code { background: var(--raised); padding: 0.1rem 0.3rem; border-radius: 4px; }
dt { font-weight: 600; }
dd { margin: 0 0 0.5rem; }
@media (min-width: 40rem) { dl { display: grid; grid-template-columns: max-content 1fr; column-gap: 1.5rem; } }
"""


@dataclass(frozen=True)
class ReportFigure:
    """A figure of the report.

    Attributes
    ----------
    title : str
        Heading above it.
    alt : str
        What it shows, for those who cannot see it.
    png : bytes
        The image.
    """

    title: str
    alt: str
    png: bytes


def html_report(findings: Findings, figures: Sequence[ReportFigure], facts: Mapping[str, str]) -> str:
    """Write the report.

    Parameters
    ----------
    findings : Findings
        Tables, claims and summary.
    figures : sequence of ReportFigure
        Figures, in order.
    facts : mapping of str to str
        What was run; a value that is a web address becomes a link.

    Returns
    -------
    str
        A complete HTML document without references to other files.
    """
    title = "Adversarial robustness of audio classifiers"
    shown = [_figure(figure) for figure in figures]
    sections = [
        ("Summary", "\n".join(f"<p>{escape(sentence)}</p>" for sentence in findings.summary)),
        ("Tables", "\n".join(map(to_html, findings.tables))),
        ("Figures", "\n".join(shown) or "<p>There are none.</p>"),
        ("What was run", _facts(facts)),
    ]
    body = "\n".join(f"<section>\n<h2>{heading}</h2>\n{content}\n</section>" for heading, content in sections)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>{title}</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1>{title}</h1>
{body}
</main>
</body>
</html>
"""


def _figure(figure: ReportFigure) -> str:
    source = f"data:image/png;base64,{base64.b64encode(figure.png).decode()}"
    image = f'<img alt="{escape(figure.alt)}" src="{source}">'
    return f"<figure><h3>{escape(figure.title)}</h3>\n{_frame(figure.title, image)}\n</figure>"


def _frame(label: str, content: str) -> str:
    """Frame what is wider than a narrow screen, so that it scrolls and the page does not."""
    return f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(label)}">\n{content}\n</div>'


def _facts(facts: Mapping[str, str]) -> str:
    """List what was run; only web addresses become links, so that no value can carry a script."""
    pairs = []
    for name, value in facts.items():
        shown = escape(value)
        if value.startswith(("http://", "https://")):
            shown = f'<a href="{shown}">{shown}</a>'
        pairs.append(f"<dt>{escape(name)}</dt><dd>{shown}</dd>")
    return f"<dl>{''.join(pairs)}</dl>"
