"""compare.html: data stays data, and the page is one file; in a Chromium, where there is one, everything works."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re

import pytest

from rm_experiments.reporting.compare_page import render_compare_page
from tests.browser.compare_data import AWKWARD, comparison
from tests.browser.compare_page import chromium, console, drive
from tests.browser.mouse import mouse


def test_data_cannot_end_its_element_and_comes_back_as_it_was() -> None:
    values = comparison(12, 3)
    page = render_compare_page(values)
    match = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert match is not None
    assert json.loads(match[1]) == values
    assert "<" not in match[1]
    assert AWKWARD[0] not in page
    assert page.count("</script>") == 2


def test_the_page_runs_its_own_script_only_and_has_no_address() -> None:
    page = render_compare_page(comparison(2, 1))
    policy = html.unescape(re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1])  # type: ignore[index]
    script = page.rpartition("<script>")[2].partition("</script>")[0]
    style = page.partition("<style>")[2].partition("</style>")[0]
    digests = [base64.b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in (script, style)]
    assert policy == (
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; base-uri 'none'; form-action 'none'".format(
            *digests
        )
    )
    body = page.replace(re.search(r'id="data">.*?</script>', page, re.DOTALL)[0], "")  # type: ignore[index]
    assert not re.search(r"(https?:)?//[\w.]+\.\w", body)
    assert "innerHTML" not in script
    assert "eval(" not in script


def test_not_a_number_is_refused_where_it_would_break_the_page() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        render_compare_page({"title": "x", "value": float("nan")})


@pytest.mark.skipif(chromium() is None, reason="there is no chromium here")
def test_every_control_works_in_a_browser() -> None:
    values = comparison(24, 3, num_rows=60)
    assert console(values) == []
    found = drive(values)
    assert found["problems"] == []
    assert len(found["checks"]) > 60


@pytest.mark.skipif(chromium() is None, reason="there is no chromium here")
def test_a_real_mouse_highlights_brushes_and_clears() -> None:
    found = mouse(str(chromium()), comparison(24, 3, num_rows=60))
    assert found["problems"] == []
    assert len(found["checks"]) > 35
