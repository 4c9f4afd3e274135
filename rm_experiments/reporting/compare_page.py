"""compare.html: one file that opens without a network. Its script is this package's own; data is data, never markup.

The comparison lies in the page as JSON in which `<` is escaped, and the script puts it into the page as text only. The
page's policy names the script by its hash, and allows no address at all.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

# One script: functions see each other whatever their order, values only what comes before them.
_SCRIPTS = (
    "numbers", "dom", "store", "charts", "head", "ranking", "differences", "curves", "axes", "parallel", "pairs",
    "scatter", "calibration", "subsets", "disagreements", "main",
)  # fmt: skip


def render_compare_page(comparison: Mapping[str, Any]) -> str:
    """The whole page for the content of compare.json."""
    style, script = _read("style.css"), "\n".join(_read(f"{name}.js") for name in _SCRIPTS)
    script = f'"use strict";\n{script}'
    data = json.dumps(comparison, allow_nan=False, ensure_ascii=True, separators=(",", ":")).replace("<", "\\u003c")
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{html.escape(policy)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(str(comparison.get('title') or 'Comparison'))}</title>\n"
        f"<style>{style}</style>\n</head>\n"
        f'{_read("page.html")}<script type="application/json" id="data">{data}</script>\n'
        f"<script>{script}</script>\n</body>\n</html>\n"
    )


def _read(name: str) -> str:
    return (files("rm_experiments.reporting") / "compare_page_files" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
