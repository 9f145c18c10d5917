"""Drive Debian's chromium in tests: open a page, point, click, press keys, read the page, watch console and network.

Commands of the DevTools protocol go through two pipes (`--remote-debugging-pipe`), so no library is needed.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
_WAIT_S = 60.0
_FLAGS = [
    *("--headless=new", "--no-sandbox", "--remote-debugging-pipe", "--disable-gpu", "--disable-dev-shm-usage"),
    *("--no-first-run", "--disable-extensions", "--disable-background-networking", "--disable-component-update"),
    *("--hide-scrollbars", "--force-device-scale-factor=1"),
]


@dataclass
class Browser:
    """A tab of a running chromium."""

    _to: int
    _from: int
    session: str = ""
    console: list[str] = field(default_factory=list)
    """Errors and warnings of the pages, also of their content security policies."""
    requests: list[str] = field(default_factory=list)
    """The addresses that the pages asked for."""
    _number: int = 0
    _pending: bytes = b""
    _loaded: bool = False

    def open(self, path: Path, *, scripts: bool = True) -> float:
        """Open a file, with or without its scripts, and return the seconds until it was drawn."""
        self.send("Emulation.setScriptExecutionDisabled", value=not scripts)
        self.console.clear()
        self.requests.clear()
        self._loaded = False
        begin = time.monotonic()
        self.send("Page.navigate", url=path.resolve().as_uri())
        while not self._loaded:
            self._receive(begin + _WAIT_S)
        if scripts:
            self.settle()
        return time.monotonic() - begin

    def settle(self) -> None:
        """Wait until the page has been painted twice: what was set before has had its effect."""
        self.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))")

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression in the page; a promise is awaited."""
        answer = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def text(self, selector: str) -> str:
        """The text that the first element with this selector shows."""
        return str(self.run(f"document.querySelector({json.dumps(selector)}).innerText"))

    def middle(self, selector: str) -> tuple[float, float]:
        """The middle of the first element with this selector, which is scrolled into view."""
        x, y = self.run(
            f"(() => {{ const one = document.querySelector({json.dumps(selector)});"
            " one.scrollIntoView({block: 'center'}); const box = one.getClientRects()[0];"
            " return [box.left + box.width / 2, box.top + box.height / 2]; })()"
        )
        return x, y

    def point(self, selector: str) -> None:
        """Move the pointer over an element."""
        x, y = self.middle(selector)
        self.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, selector: str) -> None:
        """Click an element."""
        self.click_at(*self.middle(selector))

    def click_at(self, x: float, y: float) -> None:
        """Click a place in the window, in pixels."""
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str) -> None:
        """Press and release a key, such as "ArrowRight" or "2"."""
        for kind in ("keyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, **({"text": key} if len(key) == 1 else {}))

    def prefer(self, *, dark: bool = False, media: str = "") -> None:
        """Set what the reader prefers, for this page and the next ones; `media` is "print" for the printed form."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", media=media, features=[scheme])

    def resize(self, width: int, height: int) -> None:
        """Set the size of the window, in pixels."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def screenshot(self, path: Path) -> None:
        """Write what the window shows as a PNG file."""
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"]))

    def send(self, method: str, **parameters: Any) -> Any:
        """Send a command of the DevTools protocol and return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._to, data) :]
        end = time.monotonic() + _WAIT_S
        while True:
            answer = self._receive(end)
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def _receive(self, end: float) -> dict[str, Any]:
        while b"\0" not in self._pending:
            ready, _, _ = select.select([self._from], [], [], max(0.0, end - time.monotonic()))
            assert ready, "the browser does not answer"
            data = os.read(self._from, 1 << 20)
            assert data, "the browser has ended"
            self._pending += data
        line, _, self._pending = self._pending.partition(b"\0")
        answer: dict[str, Any] = json.loads(line)
        self._note(answer.get("method", ""), answer.get("params", {}))
        return answer

    def _note(self, event: str, given: dict[str, Any]) -> None:
        if event == "Page.loadEventFired":
            self._loaded = True
        elif event == "Network.requestWillBeSent":
            self.requests.append(given["request"]["url"])
        elif event == "Runtime.exceptionThrown":
            self.console.append(str(given["exceptionDetails"]))
        elif event == "Runtime.consoleAPICalled":
            self.console.append(str(given["args"]))
        elif event == "Log.entryAdded":
            self.console.append(str(given["entry"]["text"]))


@contextmanager
def chromium(folder: Path) -> Iterator[Browser]:
    """A browser whose profile is in `folder`."""
    assert CHROMIUM is not None
    (read_ours, write_theirs), (read_theirs, write_ours) = os.pipe(), os.pipe()

    def connect() -> None:
        # The browser reads commands from descriptor 3 and answers on 4; these may be among the four in use.
        theirs = os.dup(read_theirs), os.dup(write_theirs)
        os.dup2(theirs[0], 3)
        os.dup2(theirs[1], 4)

    process = subprocess.Popen(
        [CHROMIUM, *_FLAGS, f"--user-data-dir={folder}", "about:blank"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        close_fds=False,
        preexec_fn=connect,
    )
    try:
        os.close(read_theirs)
        os.close(write_theirs)
        browser = Browser(write_ours, read_ours)
        target = browser.send("Target.createTarget", url="about:blank")["targetId"]
        browser.session = browser.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            browser.send(f"{domain}.enable")
        yield browser
        browser.session = ""
        with suppress(AssertionError, OSError):
            browser.send("Browser.close")
        process.wait(timeout=10)
    finally:
        process.kill()
        process.wait()
        os.close(write_ours)
        os.close(read_ours)
