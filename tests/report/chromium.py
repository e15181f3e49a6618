"""A real browser for tests: Chromium, spoken to over two pipes by its DevTools protocol.

Only the standard library is needed, and no port is opened.
"""

import base64
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless=new",
    "--no-sandbox",  # containers have none to give, and the pages are our own
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND",  # whatever it asks for, no network answers
    "--remote-debugging-pipe",
)
PIPES = """
import fcntl, os, sys
read, write = (fcntl.fcntl(int(fd), fcntl.F_DUPFD, 10) for fd in sys.argv[1:3])
os.dup2(read, 3)
os.dup2(write, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
"""The browser listens on descriptor 3 and answers on 4."""

PATIENCE = 60


def installed() -> str | None:
    """The browser's program, if there is one."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Browser:
    """One page in a browser.

    Attributes:
        complaints: what the console, the log or a script said: errors and warnings.
        requests: every address that the page asked for.
        failed: requests that failed.
    """

    def __init__(self, program: str, folder: Path):
        down, self.write = os.pipe()
        self.read, up = os.pipe()
        place = f"--user-data-dir={folder}"
        command = [sys.executable, "-c", PIPES, str(down), str(up), program, *FLAGS, place]
        self.log = (folder / "chromium.log").open("wb")
        self.process = subprocess.Popen(
            command, pass_fds=(down, up), stdout=self.log, stderr=self.log
        )
        os.close(down)
        os.close(up)
        self.rest = b""
        self.last = 0
        self.session: str | None = None
        self.loaded = False
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.failed: list[str] = []

    def __enter__(self) -> Self:
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        found = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session = found["sessionId"]
        for room in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{room}.enable")
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.write)  # it ends when nobody speaks to it any more
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
        os.close(self.read)
        self.log.close()

    def call(self, method: str, **arguments: Any) -> dict[str, Any]:
        """Send a command, and wait for its answer."""
        self.last += 1
        about = {} if self.session is None else {"sessionId": self.session}
        message = {"id": self.last, "method": method, "params": arguments, **about}
        os.write(self.write, json.dumps(message).encode() + b"\0")
        while True:
            found = self._message()
            if found.get("id") == self.last:
                assert "error" not in found, found
                return found["result"]

    def open(self, page: Path) -> None:
        """Show a page, and wait until it is there."""
        self.loaded = False
        self.complaints, self.requests, self.failed = [], [], []
        self.call("Page.navigate", url=page.resolve().as_uri())
        until = time.monotonic() + PATIENCE
        while not self.loaded:
            assert time.monotonic() < until, "the page did not load"
            self._message()
        self.run("new Promise(done => requestAnimationFrame(() => setTimeout(done, 50)))")

    def run(self, script: str) -> Any:
        """Run an expression in the page, and give its value back."""
        found = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def press(self, key: str, code: int) -> None:
        """Press a key where the focus is."""
        about = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        text = {"Enter": "\r", " ": " "}.get(key, "")
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **about)
        self.call("Input.dispatchKeyEvent", type="keyUp", **about)

    def look(self, *, width: int = 1200, height: int = 900, scheme: str = "light") -> None:
        """Choose the width and the colours of the screen."""
        sizes = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **sizes)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=features)

    def picture(self, path: Path) -> None:
        """Keep what is seen, from top to bottom."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self.rest:
            part = os.read(self.read, 1 << 16)
            if not part:
                told = Path(self.log.name).read_text(errors="replace")[-2000:]
                raise AssertionError(f"the browser ended: {told}")
            self.rest += part
        text, _, self.rest = self.rest.partition(b"\0")
        message = json.loads(text)
        self._note(message.get("method", ""), message.get("params", {}))
        return message

    def _note(self, method: str, about: dict[str, Any]) -> None:
        if method == "Page.loadEventFired":
            self.loaded = True
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(about["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and about["type"] in ("error", "warning"):
            self.complaints.append(json.dumps(about["args"]))
        elif method == "Log.entryAdded" and about["entry"]["level"] in ("error", "warning"):
            self.complaints.append(about["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(about["request"]["url"])
        elif method == "Network.loadingFailed":
            self.failed.append(about.get("errorText", "") + about.get("blockedReason", ""))
