"""The data page: one HTML file that opens without a network. Whatever comes from data is shown and never obeyed.

Texts go through `_text`; there is no script, and the page's own policy forbids any, and every outside address.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rm_experiments.reporting.data_examples import ExampleView, Token
from rm_experiments.reporting.data_numbers import (
    count,
    count_table,
    findings_of,
    left_out,
    mixture_rows,
    number,
    percent,
    sentence,
    statistics_table,
    subset_table,
)
from rm_experiments.reporting.data_page_style import STYLE
from rm_experiments.reporting.data_plots import Picture

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


@dataclass(kw_only=True)
class DataPage:
    """What the page says."""

    name: str
    facts: Sequence[tuple[str, str]] = ()
    """(what, value) of the head: source, tokenizer, template, limit."""
    report: Mapping[str, Any] = field(default_factory=dict)
    """The content of data_report.json."""
    pictures: Sequence[Picture] = ()
    examples: Mapping[str, Sequence[ExampleView]] = field(default_factory=dict)
    """By split."""


def render_data_page(page: DataPage) -> str:
    """The whole page. Sections without content are left out."""
    sections = [
        ("counts", "What was read", _counts(page.report)),
        ("findings", "Findings", _findings(page.report)),
        ("statistics", "Statistics", _statistics(page.report)),
        ("pictures", "Histograms", _pictures(page.pictures)),
        ("examples", "Pairs as the model reads them", _examples(page.examples)),
    ]
    shown = [one for one in sections if one[2]]
    facts = "".join(f"<dt>{_text(what)}</dt><dd>{_text(value)}</dd>" for what, value in page.facts if value)
    head = f'<dl class="facts">{facts}</dl>' if facts else ""
    links = "".join(f'<a href="#{anchor}">{title}</a>' for anchor, title, _ in shown)
    body = "".join(
        f'<section id="{anchor}" aria-labelledby="h-{anchor}"><h2 id="h-{anchor}">{title}</h2>{content}</section>\n'
        for anchor, title, content in shown
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(page.name)}: data</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f'<header><h1>{_text(page.name)}</h1><p class="soft">{_headline(page.report)}</p>'
        f"{head}"
        f'<nav aria-label="Sections">{links}</nav></header>\n<main>\n{body}</main>\n'
        "<footer>Written by rm-data of rm_experiments. The numbers are in data_report.json, the pictures in plots/."
        "</footer>\n</body>\n</html>\n"
    )


def _headline(report: Mapping[str, Any]) -> str:
    """The page in one sentence."""
    splits = report.get("splits", {})
    kept = sum(int(one.get("kept", 0)) for one in splits.values())
    findings = findings_of(report)
    serious = sum(one.get("severity") == "serious" for one in findings)
    many = f"{len(splits)} {'split' if len(splits) == 1 else 'splits'}"
    found = f"{count(len(findings))} findings, {count(serious)} of them serious" if findings else "no findings"
    return f"{count(kept)} preference pairs in {many}; {found}."


def _counts(report: Mapping[str, Any]) -> str:
    header, rows = count_table(report.get("splits", {}), terse=False)
    if not rows:
        return ""
    # Many counts and few splits, so the splits stand beside each other here.
    head, *lines = zip(header, *rows, strict=True)
    parts = [_table("Rows of the sources and what became of them, per split", ["", *head[1:]], lines)]
    sources = [
        [name, str(one.get("source", "")), str(one.get("format", "")), _reasons(one)]
        for name, one in report["splits"].items()
    ]
    parts.append(_table("Where they come from", ["Split", "Source", "Format", "Left out, and why"], sources, text=4))
    mixture = mixture_rows(report["splits"].get("train", {}))
    if mixture:
        rows = [[*row[:-1], _share_bar(row[-1])] for row in mixture]
        header = ["Part", "Source", "Weight", "Available", "Used", "Share"]
        parts.append(_table("The mixture of the training pairs", header, rows, text=2, markup={5}))
    for name, one in report["splits"].items():
        header, rows = subset_table(one)
        if len(rows) > 1:
            table = _table(f"The subsets of {name}", header, rows)
            parts.append(f"<details><summary>{_text(name)}: {len(rows)} subsets</summary>{table}</details>")
    best = report.get("best_achievable_accuracy")
    if isinstance(best, float):
        parts.append(f"<p>Best achievable accuracy on this data: <strong>{best:.4f}</strong>.</p>")
    return "\n".join(parts)


def _reasons(split: Mapping[str, Any]) -> str:
    """Rows and pairs that did not come through, by reason."""
    return ", ".join(f"{reason}: {count(many)}" for reason, many in left_out(split).items()) or "none"


def _findings(report: Mapping[str, Any]) -> str:
    if "audit" not in report:
        return ""
    findings = findings_of(report)
    if not findings:
        return "<p>The audit found nothing to report.</p>"
    return "\n".join(_finding(one, opened=number < 3) for number, one in enumerate(findings))


def _finding(finding: Mapping[str, Any], opened: bool) -> str:
    severity = "serious" if finding.get("severity") == "serious" else "notice"
    where = str(finding.get("split", "")) + (f" and {finding['other']}" if finding.get("other") else "")
    head = (
        f'<span class="mark">{severity}</span> <strong>{_text(_kind(finding))}</strong> in {_text(where)}: '
        f"{_many(finding.get('count', 0), 'pair')}{_share_of(finding)}"
    )
    parts = [f"<p>{_text(sentence(finding['meaning']))}</p>"] if finding.get("meaning") else []
    if finding.get("other_count"):
        parts.append(f"<p>In {_text(finding.get('other'))}: {_many(finding['other_count'], 'pair')}.</p>")
    limit = finding.get("limit")
    if limit is not None:
        what = f"more than {percent(limit)} of such pairs" if limit else "any such pair"
        parts.append(f'<p class="soft">With data.audit=error, {what} would stop a run.</p>')
    if finding.get("dropped"):
        parts.append(f"<p>{count(finding['dropped'])} of them were dropped.</p>")
    rows = [_text(row) for row in finding.get("rows", ())]
    # Beside a row the pair that it repeats or contradicts.
    for at, partner in enumerate(finding.get("partners", ())[: len(rows)]):
        rows[at] += f" (and {_text(partner)})"
    if rows:
        first = f" (the first {len(rows)} of {count(finding['count'])})" if len(rows) < finding.get("count", 0) else ""
        parts.append(f'<p>Rows{first}: <span class="rows">{" ".join(f"<span>{row}</span>" for row in rows)}</span></p>')
    shown = [f"<li><q>{_text(one)}</q></li>" for one in finding.get("examples", ())]
    if shown:
        parts.append(f"<p>Examples:</p><ul>{''.join(shown)}</ul>")
    state = " open" if opened else ""
    return f'<details class="finding {severity}"{state}><summary>{head}</summary><div>{"".join(parts)}</div></details>'


def _kind(finding: Mapping[str, Any]) -> str:
    return str(finding.get("kind", "finding")).replace("_", " ")


def _share_of(finding: Mapping[str, Any]) -> str:
    share = finding.get("share")
    return "" if share is None else f" ({percent(share)})"


def _statistics(report: Mapping[str, Any]) -> str:
    header, rows = statistics_table(report.get("audit", {}).get("statistics", {}))
    # Ties and evaluation pairs beyond the limit are gone by then.
    return _table("Of the pairs that the audit saw, before it dropped any", header, rows) if rows else ""


def _pictures(pictures: Sequence[Picture]) -> str:
    parts = []
    for split in dict.fromkeys(one.split for one in pictures):
        figures = []
        for picture in pictures:
            if picture.split == split:
                data = base64.b64encode(picture.path.read_bytes()).decode("ascii")
                source = f"data:image/png;base64,{data}"
                alt = html.escape(visible(picture.alt), quote=True)
                figures.append(f'<figure><img src="{source}" alt="{alt}" width="720" height="432"></figure>')
        parts.append(f'<h3>{_text(split)}</h3><div class="plots">{"".join(figures)}</div>')
    return "\n".join(parts)


def _examples(examples: Mapping[str, Sequence[ExampleView]]) -> str:
    parts = []
    for split, views in examples.items():
        if views:
            parts.append(f"<h3>{_text(split)}</h3>{''.join(map(_example, views))}")
    return _KEY + "\n".join(parts) if parts else ""


_KEY = (
    "<p>Every change of shade is a token boundary. The prefix is what both sides share; the model reads it with either "
    "answer, and gives the reward at the outlined last token. Line breaks and tabs are drawn.</p>"
    '<p class="key">'
    '<span><span class="tokens prompt"><span>shared</span><span> prefix</span></span></span>'
    '<span><span class="tokens chosen"><span>chosen</span><span> answer</span></span></span>'
    '<span><span class="tokens rejected"><span>rejected</span><span> answer</span></span></span>'
    '<span><span class="tokens prompt"><span class="special">special token</span></span></span>'
    '<span><span class="tokens prompt"><span class="special scored">scored</span></span></span>'
    '<span><span class="tokens prompt"><mark>cut here</mark></span></span></p>'
)


def _example(view: ExampleView) -> str:
    tags = [view.reason, f"subset {view.subset}" if view.subset is not None else ""]
    tags.append(f"margin {number(view.margin)}" if view.margin is not None else "")
    tags.append(f"label {number(view.label)}" if view.label != 1 else "")
    tags.append(f"weight {number(view.weight)}" if view.weight != 1 else "")
    head = _text(view.where) + "".join(f" <span>{_text(tag)}</span>" for tag in tags if tag)
    prompt = _tokens(view.prompt_tokens, "prompt", cut_front=view.truncated_prompt)
    prefix = f"<h5>Shared prefix, {_many(view.num_prompt_tokens, 'token')}</h5>{prompt}"
    sides = []
    for name, own, length, chars, cut in (
        ("chosen", view.chosen_tokens, view.num_chosen_tokens, view.num_chars_chosen, view.truncated_chosen),
        ("rejected", view.rejected_tokens, view.num_rejected_tokens, view.num_chars_rejected, view.truncated_rejected),
    ):
        text = _tokens(own, name, cut_end=cut, scored=True)
        sizes = f"{_many(length, 'token')}, {_many(chars, 'character')}{', cut' if cut else ''}"
        sides.append(f"<div><h5>{name.capitalize()}, {sizes}</h5>{text}</div>")
    return f'<article><h4>{head}</h4>{prefix}<div class="sides">{"".join(sides)}</div></article>\n'


def _many(number: int, what: str) -> str:
    return f"{count(number)} {what}{'' if number == 1 else 's'}"


def _tokens(
    tokens: Sequence[Token], side: str, cut_front: bool = False, cut_end: bool = False, scored: bool = False
) -> str:
    """The tokens as spans. Old tokens are cut behind the first special one; the end of an answer before the last."""
    parts = [_token(one, scored and index == len(tokens) - 1) for index, one in enumerate(tokens)]
    if cut_end and parts:
        parts.insert(len(parts) - 1, "<mark>\N{BLACK SCISSORS} the answer's end was cut here</mark>")
    if cut_front:
        place = 1 if tokens and tokens[0].special else 0
        parts.insert(place, "<mark>\N{BLACK SCISSORS} older tokens were cut here</mark>")
    return f'<div class="tokens {side}" tabindex="0" role="group" aria-label="tokens: {side}">{"".join(parts)}</div>'


def _token(token: Token, scored: bool) -> str:
    if token.gap:
        return f"<em>\N{HORIZONTAL ELLIPSIS} {_many(token.count, 'token')} not shown \N{HORIZONTAL ELLIPSIS}</em>"
    kinds = [name for name, holds in (("special", token.special), ("scored", scored)) if holds]
    notes = ["the reward is read here"] if scored else []
    notes += [f"{token.count} tokens"] if token.count > 1 else []
    attributes = f' class="{" ".join(kinds)}"' if kinds else ""
    attributes += f' title="{", ".join(notes)}"' if notes else ""
    return f"<span{attributes}>{_drawn(token.text)}</span>"


def _drawn(text: str) -> str:
    """Text of a token with its line breaks and tabs drawn in front of what they do."""
    escaped = _text(text, keep_space=True)
    escaped = escaped.replace("\n", "<b>\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}</b>\n")
    return escaped.replace("\t", "<b>\N{RIGHTWARDS ARROW TO BAR}</b>\t")


def visible(text: str, keep_space: bool = False) -> str:
    """Characters that show nothing, or turn the direction of what follows, as their code point."""

    def shown(c: str) -> str:
        if c.isprintable() or (keep_space and c in "\n\t"):
            return c
        return " " if c in "\n\t\r" and not keep_space else f"\N{LEFT CEILING}U+{ord(c):04X}\N{RIGHT CEILING}"

    return text if text.isprintable() else "".join(map(shown, text))


def _text(value: object, keep_space: bool = False) -> str:
    """A value as HTML text."""
    return html.escape(visible(str(value), keep_space), quote=True)


def _share_bar(share: str) -> str:
    return f'<span class="share" aria-hidden="true"><i style="width:{_text(share)}"></i></span>{_text(share)}'


def _table(
    caption: str, header: Sequence[str], rows: Iterable[Sequence[str]], text: int = 1, markup: Iterable[int] = ()
) -> str:
    """A table whose first column names the rows; the first `text` columns are words, the others numbers.

    Cells of the columns `markup` are HTML already.
    """

    def cell(column: int, value: str) -> str:
        shown = value if column in markup else _text(value)
        if column == 0:
            return f'<th scope="row">{shown}</th>'
        kind = ' class="text"' if column < text else ' class="zero"' if value in ("0", "") else ""
        return f"<td{kind}>{shown}</td>"

    def head(column: int, value: str) -> str:
        kind = ' class="text"' if 0 < column < text else ""
        return f'<th scope="col"{kind}>{_text(value)}</th>'

    heads = "".join(head(*one) for one in enumerate(header))
    body = "".join(f"<tr>{''.join(cell(*one) for one in enumerate(row))}</tr>\n" for row in rows)
    label = _text(caption)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{label}"><table><caption>{label}</caption>'
        f"<thead><tr>{heads}</tr></thead>\n<tbody>{body}</tbody></table></div>"
    )
