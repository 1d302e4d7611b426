"""A browser that is driven as a person would: Chromium without a window, by its DevTools protocol over a pipe."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

_FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-extensions")
_SECONDS = 60.0


class Browser:
    """Chromium with one page.

    Parameters
    ----------
    profile : Path
        An empty folder of its own.
    """

    def __init__(self, profile: Path) -> None:
        command_read, self._commands = os.pipe()
        self._answers, answer_write = os.pipe()
        shell = f'exec "$@" 3<&{command_read} 4>&{answer_write}'  # the protocol's pipes are these two, by number
        flags = [*_FLAGS, "--remote-debugging-pipe", f"--user-data-dir={profile}"]
        self._process = subprocess.Popen(
            ["bash", "-c", shell, "browser", str(CHROMIUM), *flags, "about:blank"],
            pass_fds=(command_read, answer_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(command_read)
        os.close(answer_write)
        self._number, self._rest, self._session = 0, b"", ""
        self.complaints: list[str] = []
        pages = [target for target in self.ask("Target.getTargets")["targetInfos"] if target["type"] == "page"]
        self._session = self.ask("Target.attachToTarget", targetId=pages[0]["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **parameters: Any) -> Any:
        """Send a command and return its result; what the page complains of meanwhile is kept in ``complaints``."""
        self._number += 1
        command = {"id": self._number, "method": method, "params": parameters} | ({"sessionId": self._session} if self._session else {})
        os.write(self._commands, json.dumps(command).encode() + b"\0")
        while True:
            message = self._next()
            if message.get("id") == self._number:
                assert "error" not in message, message["error"]
                return message["result"]

    def _next(self) -> dict[str, Any]:
        end = time.monotonic() + _SECONDS
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._answers], [], [], max(0.0, end - time.monotonic()))
            assert ready, "the browser does not answer"
            data = os.read(self._answers, 1 << 20)
            assert data, "the browser has ended"
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        if message.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled"):
            self.complaints.append(json.dumps(message["params"]))
        return message

    def run(self, script: str) -> Any:
        """Evaluate JavaScript in the page, where its value is awaited, and return that."""
        found = self.ask("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def visit(self, address: str) -> None:
        """Open a page of a server, and wait until it is read and drawn."""
        self._leave("Page.navigate", url=address)

    def open(self, page: Path, *, width: int = 1280, height: int = 900, phone: bool = False) -> None:
        """Open a file, and wait until it is read and drawn."""
        scale = 2 if phone else 1
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=phone)
        self._leave("Page.navigate", url=page.as_uri())

    def reload(self) -> None:
        """Open the same file again, as it is then."""
        self._leave("Page.reload")

    def _leave(self, method: str, **parameters: Any) -> None:
        self.run("window.isLeft = true")
        self.ask(method, **parameters)
        end = time.monotonic() + _SECONDS
        while True:
            with suppress(AssertionError):  # the page is gone while it is asked
                if self.run("!window.isLeft && document.readyState === 'complete'"):
                    break
            assert time.monotonic() < end
            time.sleep(0.02)
        self.settle()

    def settle(self) -> None:
        """Wait until the page has drawn twice, and what is to be seen then is there."""
        self.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 50))))")

    def press(self, *keys: str) -> None:
        """Press keys, one after another, by their names or letters."""
        codes = {"Tab": 9, "Enter": 13, "ArrowRight": 39, "ArrowLeft": 37, " ": 32}
        for key in keys:
            text = {"text": {"Enter": "\r"}.get(key, key)} if len(key) == 1 or key == "Enter" else {}
            code = codes.get(key, ord(key.upper()[0]))
            self.ask("Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code, **text)
            self.ask("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)
        self.run("new Promise((done) => requestAnimationFrame(() => setTimeout(done, 0)))")

    def click(self, selector: str) -> None:
        """Click the middle of the first element of a selector, which is scrolled into view."""
        place = f"document.querySelector({json.dumps(selector)})"
        box = self.run(f"{place}.scrollIntoView({{block: 'center'}}), {place}.getBoundingClientRect().toJSON()")
        at = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2, "button": "left", "clickCount": 1}
        for kind in ("mousePressed", "mouseReleased"):
            self.ask("Input.dispatchMouseEvent", type=kind, **at)
        self.run("new Promise((done) => requestAnimationFrame(() => setTimeout(done, 0)))")

    def picture(self, path: Path) -> None:
        """Save what is to be seen as a PNG."""
        path.write_bytes(base64.b64decode(self.ask("Page.captureScreenshot", format="png")["data"]))

    def close(self) -> None:
        """End the browser."""
        os.close(self._commands)  # it ends with its pipe
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._answers)
