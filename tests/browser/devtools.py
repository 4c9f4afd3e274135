"""A Chromium over its DevTools protocol by a pipe: the page as it is, real mouse and keys. No library is needed.

https://chromedevtools.github.io/devtools-protocol/; `--remote-debugging-pipe` reads file descriptor 3 and writes 4,
each message ends with a NUL.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

_NOISE = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")


class Browser:
    """One browser with one page; `with Browser(...) as browser`."""

    def __init__(self, program: str, home: Path, width: int = 1400, height: int = 1000) -> None:
        self.said: list[str] = []
        """What came to the console."""
        self._number, self._rest, self._session = 0, b"", ""
        theirs_in, self._write = os.pipe()
        self._read, theirs_out = os.pipe()
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "about:blank"]
        options += [f"--user-data-dir={home}/profile", f"--window-size={width},{height}"]
        # The shell puts the pipes to the numbers that Chromium expects.
        shell = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
        self._process = subprocess.Popen(
            ["bash", "-c", shell, "bash", program, *options],
            pass_fds=(theirs_in, theirs_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        page = next(one for one in self.call("Target.getTargets")["targetInfos"] if one["type"] == "page")
        self._session = self.call("Target.attachToTarget", targetId=page["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.terminate()
        self._process.wait(20)
        os.close(self._write)
        os.close(self._read)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command, and its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        message |= {"sessionId": self._session} if self._session else {}
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            got = self._next()
            if got.get("method") in _NOISE:
                self.said.append(json.dumps(got["params"]))
            if got.get("id") == self._number:
                assert "error" not in got, (method, got["error"])
                result: dict[str, Any] = got["result"]
                return result

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            more = os.read(self._read, 1 << 20)
            assert more, "chromium ended"
            self._rest += more
        message, self._rest = self._rest.split(b"\0", 1)
        parsed: dict[str, Any] = json.loads(message)
        return parsed

    def js(self, expression: str) -> Any:
        """The value of an expression in the page, a promise awaited."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def open(self, page: Path) -> None:
        """Load a file that says by `data-ready` when it is drawn."""
        self.call("Page.navigate", url=page.as_uri())
        for _ in range(600):
            if self.js("document.documentElement?.dataset.ready") == "yes":
                return self.settle()
            time.sleep(0.05)
        raise AssertionError(f"the page was not ready after 30 seconds: {self.said}")

    def settle(self) -> None:
        """Wait for what a change draws."""
        self.js("(async () => { for (const _ of '123') await new Promise(requestAnimationFrame); })()")

    def look(self, width: int, height: int, scheme: str = "light", medium: str = "screen") -> None:
        """The window's size, `light` or `dark`, `screen` or `print`."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", media=medium, features=features)
        self.settle()

    def drag(self, path: Sequence[tuple[float, float]]) -> None:
        """Press at the first place, release at the last; one place is a click."""

        def mouse(kind: str, at: tuple[float, float], pressed: int) -> None:
            button = "left" if pressed or kind == "mouseReleased" else "none"
            self.call(
                "Input.dispatchMouseEvent", type=kind, x=at[0], y=at[1], button=button, buttons=pressed, clickCount=1
            )

        mouse("mouseMoved", path[0], 0)
        mouse("mousePressed", path[0], 1)
        for at in path[1:]:
            mouse("mouseMoved", at, 1)
        mouse("mouseReleased", path[-1], 0)
        self.settle()

    def key(self, key: str) -> None:
        """Press a key where the focus is."""
        text = {"text": "\r"} if key == "Enter" else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, code=key, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, code=key)
        self.settle()

    def picture(self, path: Path) -> None:
        """The whole page as a PNG."""
        width, height = self.js("[document.documentElement.scrollWidth, document.documentElement.scrollHeight]")
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(shot["data"]))
