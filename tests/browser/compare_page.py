"""compare.html in a real Chromium: every control is used, by a script and by a real mouse, and pictures are taken.

python -m tests.browser.compare_page --out pictures/
"""

from __future__ import annotations

import argparse
import html
import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from rm_experiments.reporting.compare_page import render_compare_page
from tests.browser.compare_data import comparison
from tests.browser.mouse import mouse

_ERRORS = (
    "<script>window.errors = []; window.onerror = (text) => { window.errors.push(String(text)); };"
    "window.onunhandledrejection = (event) => { window.errors.push(String(event.reason)); };"
    "window.requestAnimationFrame = (draw) => setTimeout(draw, 0);"  # virtual time waits for no frame
    "console.error = (...parts) => { window.errors.push(parts.join(' ')); };</script>"
)


def chromium() -> str | None:
    """The browser, if there is one."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def drive(values: dict[str, Any], width: int = 1400) -> dict[str, Any]:
    """Use every control of the page.

    Returns:
        `checks`, and the `problems` among them.
    """
    script = Path(__file__).with_name("drive.js").read_text(encoding="utf-8")
    # The page's own policy would refuse the script of this test.
    page = re.sub(
        r"script-src &#x27;sha256-[^;]*;", "script-src &#x27;unsafe-inline&#x27;;", render_compare_page(values)
    )
    page = page.replace("<body>", f"<body>{_ERRORS}", 1).replace("</body>", f"<script>{script}</script></body>", 1)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "page.html"
        path.write_text(page, encoding="utf-8")
        dom = _run(path, directory, width, 1000, "--dump-dom", "--virtual-time-budget=60000").stdout
    match = re.search(r'<pre id="seen">(.*?)</pre>', dom, re.DOTALL)
    if match is None:
        return {"checks": [], "problems": ["the script of the test did not come to its end"]}
    found: dict[str, Any] = json.loads(html.unescape(match[1]))
    return found


def console(values: dict[str, Any]) -> list[str]:
    """What the page as it is writes to the console while it loads."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "page.html"
        path.write_text(render_compare_page(values), encoding="utf-8")
        errors = _run(
            path, directory, 1400, 1000, "--dump-dom", "--virtual-time-budget=5000", "--enable-logging=stderr"
        ).stderr
    return [line for line in errors.splitlines() if "CONSOLE" in line]


def _run(page: Path, home: str, width: int, height: int, *options: str) -> subprocess.CompletedProcess[str]:
    browser = chromium()
    assert browser is not None, "there is no chromium"
    return subprocess.run(
        [
            browser,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={home}/profile",
            f"--window-size={width},{height}",
            *options,
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=180,
        check=True,
    )


def main() -> None:
    """The whole campaign."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="directory for pictures")
    arguments = parser.parse_args()
    sizes = {"1 run": (1, 1), "12 runs": (12, 3), "200 runs": (200, 4), "200 configs": (200, 1)}
    bad = 0
    browser = chromium()
    assert browser is not None, "there is no chromium"
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
    for name, (runs, seeds) in sizes.items():
        values = comparison(runs, seeds)
        said = console(values)
        # One run has nothing to click against.
        campaigns = [drive(values), mouse(browser, values, arguments.out, name.replace(" ", "_"))] if runs > 1 else []
        problems = [*said, *(one for found in campaigns for one in found["problems"])]
        bad += len(problems)
        print(f"{name}: {sum(len(found['checks']) for found in campaigns)} checks, {len(problems)} problems")
        for one in problems:
            print(f"  {one}")
    raise SystemExit(1 if bad else 0)


if __name__ == "__main__":
    main()
