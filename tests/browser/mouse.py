"""compare.html with a real mouse and real keys, its own policy in force: what events made by a script do not show."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rm_experiments.reporting.compare_page import render_compare_page
from tests.browser.devtools import Browser

_CHIPS = "document.querySelectorAll('#chips .remove').length"
_PASSING = "document.querySelector('#filtered').textContent"
_CHARTS = ("curve-accuracy", "curve-loss", "parallel", "calibration", "subsets", "pairs")
# Nothing but its own text may stand where a text stands, and no text may leave its chart.
_TEXTS = """[...document.querySelectorAll('svg.chart')].flatMap((chart) => {
  const frame = chart.getBoundingClientRect(), name = chart.parentElement.id;
  const texts = [...chart.querySelectorAll('text')].map((node) => [node.getBoundingClientRect(), node.textContent]).filter(([box]) => box.width);
  const out = texts.filter(([box]) => box.left < frame.left - 1 || box.right > frame.right + 1 || box.top < frame.top - 1 || box.bottom > frame.bottom + 1);
  const touch = texts.flatMap(([one, text], at) => texts.slice(at + 1).filter(([two]) => one.left < two.right - 1 && two.left < one.right - 1
    && one.top < two.bottom - 2 && two.top < one.bottom - 2).map(([, other]) => `${name}: ${text} | ${other}`));
  return [...touch, ...out.map(([, text]) => `${name}: outside: ${text}`)];
})"""  # noqa: E501
_ON_LINE = """(() => {
  const chart = document.querySelector('#curve-accuracy svg.chart');
  chart.scrollIntoView({ block: 'center', behavior: 'instant' });
  const line = chart.querySelector('path.line:not(.lit)'), box = chart.getBoundingClientRect();
  const point = line.getPointAtLength(0.9 * line.getTotalLength());
  return [box.x + point.x, box.y + point.y];
})()"""
_ON_DOT = """(() => {
  const chart = document.querySelector('#scatter svg.chart');
  chart.scrollIntoView({ block: 'center', behavior: 'instant' });
  const box = chart.getBoundingClientRect(), [, x, y] = chart.querySelector('.dots.agree').getAttribute('d').match(/M([\\d.]+) ([\\d.]+)/);
  return [box.x + Number(x), box.y + Number(y)];
})()"""  # noqa: E501


def _handle(browser: Browser, axis: int) -> tuple[float, float, float]:
    """Middle, top and bottom of an axis of the parallel coordinates."""
    x, top, bottom = browser.js(
        f"(() => {{ const node = document.querySelectorAll('#parallel [data-axis]')[{axis}];"
        "node.scrollIntoView({ block: 'center', inline: 'center', behavior: 'instant' });"
        "const box = node.getBoundingClientRect(); return [box.x + box.width / 2, box.top, box.bottom]; })()"
    )
    return x, top, bottom


def mouse(program: str, values: Mapping[str, Any], pictures: Path | None = None, name: str = "") -> dict[str, Any]:
    """Click, drag and type like a person; pictures in light, dark and print at several widths where they are asked for.

    Returns:
        `checks`, and the `problems` among them; a problem is what did not hold or came to the console.
    """
    checks: list[str] = []
    problems: list[str] = []

    def check(what: str, good: bool) -> None:
        checks.append(what)
        if not good:
            problems.append(what)

    with tempfile.TemporaryDirectory() as home, Browser(program, Path(home)) as browser:
        page = Path(home, "page.html")
        page.write_text(render_compare_page(values), encoding="utf-8")
        browser.open(page)
        browser.look(1400, 1000)
        at = tuple(browser.js(_ON_LINE))
        browser.drag([at])
        check("a click on a curve highlights one run", browser.js(_CHIPS) == 1)
        run = browser.js("document.querySelector('#curve-accuracy path.lit').dataset.run")
        for chart in _CHARTS:
            there = browser.js(
                f'document.querySelector(\'#{chart} [data-run="{run}"].lit, #{chart} g[data-run="{run}"]\')'
            )
            check(f"run {run} is highlighted in {chart}", there is not None)
        check("and its row", browser.js("document.querySelectorAll('#ranking-body tr.lit').length") == 1)
        browser.drag([at])
        check("a second click on the same place clears", browser.js(_CHIPS) == 0)
        for axis in range(browser.js("document.querySelectorAll('#parallel [data-axis]').length")):
            x, top, bottom = _handle(browser, axis)
            low = 0.45 * top + 0.55 * bottom
            browser.drag([(x, low), (x + 3, (low + bottom) / 2), (x + 30, bottom - 2)])
            check(f"a drag on axis {axis} filters", "pass the filter" in browser.js(_PASSING))
            check(f"and highlights nothing on axis {axis}", browser.js(_CHIPS) == 0)
            x, top, bottom = _handle(browser, axis)
            browser.drag([(x, top + 20)])
            check(f"a click on axis {axis} lets go", browser.js(_PASSING) == "")
        browser.drag([tuple(browser.js(_ON_DOT))])
        check("a click on a dot marks its pair", browser.js("document.querySelector('#scatter .ring') !== null"))
        browser.js("document.querySelector('#ranking-body tr[tabindex=\"0\"]').focus()")
        browser.key("ArrowDown")
        browser.key("Enter")
        check("Enter on a row highlights it", browser.js(_CHIPS) == 1)
        browser.key("Escape")
        check("Escape clears", browser.js(_CHIPS) == 0)
        rows = browser.js("document.querySelectorAll('#ranking-body tr').length")
        for row in range(min(7, rows)):
            browser.js(f"document.querySelectorAll('#ranking-body tr')[{row}].click()")
        browser.settle()
        check("six at most are highlighted", browser.js(_CHIPS) == min(6, rows))
        for width in (900, 1000, 1400, 1600):
            browser.look(width, 1000)
            problems += [f"{width} pixels: {one}" for one in browser.js(_TEXTS)]
            check(f"the page fits {width} pixels", browser.js("document.documentElement.scrollWidth <= innerWidth"))
            check(f"the bar is low at {width} pixels", browser.js("document.querySelector('#bar').offsetHeight <= 130"))
        if pictures is not None:
            browser.look(1400, 1000)
            browser.js("scrollTo(0, 0)")
            browser.drag([(2, 2)])  # nothing under the pointer
            browser.picture(pictures / f"{name}_highlighted.png")
            browser.key("Escape")
            for width in (1000, 1400):
                for scheme in ("light", "dark"):
                    browser.look(width, 1000, scheme)
                    browser.picture(pictures / f"{name}_{width}_{scheme}.png")
            browser.look(1000, 1000, "dark", "print")
            browser.picture(pictures / f"{name}_print.png")
        problems += [f"console: {one}" for one in browser.said]
    return {"checks": checks, "problems": problems}
