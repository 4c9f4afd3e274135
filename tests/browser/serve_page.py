"""The page of rm-serve in a real Chromium, on a real server: what a person does, and pictures of it.

python -m tests.browser.serve_page --checkpoint DIR --out pictures/
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from rm_experiments.config.serve_schema import ServeConfig
from tests.browser.compare_page import chromium
from tests.browser.devtools import Browser
from tests.serving.running import loaded, running

TOKEN = "a-token-of-the-test"
PROMPT = "Which of the two is a river? " + "Take your time and think about it. " * 30
LONG = "The Danube is a river of some two thousand eight hundred kilometres. " * 40


def look(checkpoint: Path, out: Path, max_length: int) -> list[str]:
    """Pictures into `out`; and what was not as it should be."""
    problems: list[str] = []

    def check(what: str, holds: Any) -> None:
        if not holds:
            problems.append(what)

    program = chromium()
    assert program is not None, "no Chromium here"
    out.mkdir(parents=True, exist_ok=True)
    model = loaded(checkpoint, max_length=max_length)
    models: dict[str, Any] = {"rivers": model, "lakes": model}
    with (
        running(ServeConfig(checkpoint="x"), models, TOKEN) as server,
        tempfile.TemporaryDirectory() as home,
        Browser(program, Path(home)) as browser,
    ):
        url = f"http://127.0.0.1:{server.address[1]}"
        _open(browser, f"{url}/")
        check("the token is asked for", browser.js("document.getElementById('tokenField').open"))
        _fill(browser, "prompt", "What is a river?")
        _fill(browser, "a", "Water that flows to the sea.")
        _press(browser, "go")
        check("a missing token is said", "Bearer" in _settled(browser, "!error.hidden && error.textContent"))
        _fill(browser, "token", TOKEN)
        check("models are offered", _settled(browser, "!modelField.hidden && model.length") == 2)
        _press(browser, "go")
        check("one reward", _settled(browser, "!result.hidden && cards.children.length") == 1)
        check("nothing to compare", browser.js("duel.hidden"))
        _fill(browser, "b", "A stone.")
        _key(browser)
        check("two rewards", _settled(browser, "cards.children.length == 2 && cards.children.length") == 2)
        wanted = model[1].score("What is a river?", ["Water that flows to the sea.", "A stone."])
        shown = browser.js("[...document.querySelectorAll('.reward')].map((one) => one.textContent)")
        check("the model's rewards", shown == [f"{one:.3f}".replace("-", "\u2212") for one in wanted])
        for width, name in ((1200, "desktop"), (390, "phone")):
            for scheme in ("light", "dark"):
                browser.look(width, 900, scheme)
                browser.picture(out / f"{name}_{scheme}.png")
                wide = browser.js("document.documentElement.scrollWidth")
                check(f"nothing sticks out at {width}", wide <= width)
        _fill(browser, "prompt", PROMPT)
        _fill(browser, "b", LONG)
        _press(browser, "go")
        cut = _settled(browser, "!cutPrompt.hidden && cutPrompt.textContent")
        check("where the prompt was cut", "oldest" in cut)
        answers = _settled(browser, "cards.querySelector('.cut') && cards.children[1].textContent")
        check("where the answer was cut", "The last" in answers and "Danube" in answers)
        browser.look(1200, 900)
        browser.picture(out / "cut.png")
        _open(browser, f"{url}/docs")
        browser.picture(out / "docs.png")
        # Chromium notes the answer 401 of the first try.
        check("a quiet console", all("401" in one for one in browser.said))
    return problems


def _open(browser: Browser, url: str) -> None:
    browser.call("Page.navigate", url=url)
    for _ in range(200):
        if browser.js("document.readyState == 'complete' && (!window.form || document.documentElement.dataset.ready)"):
            return
        time.sleep(0.05)
    raise AssertionError("the page was not ready")


def _fill(browser: Browser, name: str, text: str) -> None:
    browser.js(f"(() => {{ const one = document.getElementById('{name}'); one.focus(); one.select(); }})()")
    browser.call("Input.insertText", text=text)
    browser.js(f"document.getElementById('{name}').blur()")


def _press(browser: Browser, name: str) -> None:
    one = f"document.getElementById('{name}')"
    browser.js(f"{one}.scrollIntoView()")
    x, y = (browser.js(f"{one}.getBoundingClientRect().{side}") for side in "xy")
    browser.drag([(x + 10, y + 10)])


def _key(browser: Browser) -> None:
    """Ctrl+Enter."""
    browser.js("document.getElementById('b').focus()")
    for kind in ("keyDown", "keyUp"):
        browser.call("Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", modifiers=2)


def _settled(browser: Browser, expression: str) -> Any:
    """The first value that is not false."""
    for _ in range(200):
        if found := browser.js(expression):
            return found
        time.sleep(0.05)
    return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--max-length", type=int, default=160)
    arguments = parser.parse_args()
    problems = look(arguments.checkpoint, arguments.out, arguments.max_length)
    print("\n".join(problems) or "all as it should be")
    raise SystemExit(bool(problems))


if __name__ == "__main__":
    main()
