"""The report: one HTML file that opens from disk and needs nothing else."""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
from collections.abc import Callable, Mapping, Sequence
from html import escape
from string import Template

from advtrack.reporting.cells import Table
from advtrack.reporting.claims import Claim
from advtrack.reporting.figures.drawing import Picture
from advtrack.reporting.findings import Findings
from advtrack.reporting.formats import run_link, to_html


def html_report(
    findings: Findings,
    pictures: Sequence[Picture],
    gallery: str,
    runs: Table,
    facts: Mapping[str, str],
    address: Callable[[str], str],
    run_id: str,
) -> str:
    """Write the report.

    Parameters
    ----------
    findings : Findings
        Tables, claims and summary.
    pictures : sequence of Picture
        Figures, in order.
    gallery : str
        A fragment of HTML.
    runs : Table
        What was run.
    facts : mapping of str to str
        What else is to be said of that.
    address : callable
        The web address of an MLflow run.
    run_id : str
        The MLflow run that made the report.

    Returns
    -------
    str
        A complete HTML document without references to other files.
    """
    tables = "\n".join(to_html(table, address) for table in findings.tables)
    sections = {
        "summary": ("Summary", "\n".join(f"<p>{escape(sentence)}</p>" for sentence in findings.summary)),
        "claims": ("The paper's claims", _claims(findings.claims, address)),
        "tables": ("Tables", f"<p>A click on a column's name sorts by it.</p>\n{tables}"),
        "figures": ("Figures", "\n".join(map(_figure, pictures)) or "<p>There are none.</p>"),
        "gallery": ("Adversarial examples", gallery),
        "runs": ("What was run", _what_was_run(runs, facts, findings.left_out, address)),
    }
    style, script = _part("page.css"), _part("page.js")
    # Nothing may be fetched, and no other script runs, whatever ends up in the page.
    policy = f"default-src 'none'; img-src data:; media-src data:; style-src {_hash(style)}; script-src {_hash(script)}"
    return Template(_part("page.html")).substitute(
        policy=policy,
        style=style,
        script=script,
        contents="".join(f'<li><a href="#{name}">{heading}</a></li>' for name, (heading, _) in sections.items()),
        sections="\n".join(
            f'<section id="{name}" aria-labelledby="{name}-heading">\n'
            f'<h2 id="{name}-heading">{heading}</h2>\n{content}\n</section>'
            for name, (heading, content) in sections.items()
        ),
        run=escape(run_id),
    )


def _part(name: str) -> str:
    return importlib.resources.files("advtrack.reporting").joinpath("page", name).read_text("utf-8")


def _hash(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def _claims(claims: Sequence[Claim], address: Callable[[str], str]) -> str:
    """Each claim with its verdict and what decides it."""
    items = []
    for claim in claims:
        links = " ".join(run_link(run, address(run), number) for number, run in enumerate(claim.runs, start=1))
        items.append(
            f'<li><span class="verdict {claim.verdict}">{claim.verdict.capitalize()}:</span>{escape(claim.statement)} '
            f'<span class="dim">({escape(claim.source)}; on {escape(claim.dataset)})</span><br>'
            f"{escape(claim.because)} {links}</li>"
        )
    return f'<ul class="claims">{"".join(items)}</ul>' if items else "<p>None can be judged yet.</p>"


def _figure(picture: Picture) -> str:
    source = f"data:image/png;base64,{base64.b64encode(picture.png).decode()}"
    title = escape(picture.title)
    return (
        f'<figure><h3 id="{escape(picture.name)}">{title}</h3>\n'
        f'<div class="scroll" role="region" tabindex="0" aria-label="{title}">\n'
        f'<img alt="{escape(picture.alt)}" src="{source}">\n</div></figure>'
    )


def _what_was_run(runs: Table, facts: Mapping[str, str], left_out: Sequence[str], address: Callable[[str], str]) -> str:
    parts = [to_html(runs, address)]
    if left_out:
        listed = "".join(f"<li>{escape(sentence)}</li>" for sentence in left_out)
        parts.append(f"<h3>Left out</h3>\n<ul>{listed}</ul>")
    pairs = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts.items())
    parts.append(f"<h3>How</h3>\n<dl>{pairs}</dl>")
    return "\n".join(parts)
