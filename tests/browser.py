"""A Chromium that is told what to do through two pipes, by its own protocol: real keys, without a
driver or a port."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

BROWSER = next(
    (p for name in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(name))),
    None,
)
KEYS = {
    "Tab": (9, ""),
    "Enter": (13, "\r"),
    " ": (32, " "),
    "ArrowDown": (40, ""),
    "ArrowRight": (39, ""),
}  # code, and text


class Browser:
    """One page in a headless Chromium."""

    def __init__(self, path: Path, profile: Path, size: str = "1200,900") -> None:
        ours, theirs = os.pipe(), os.pipe()  # what it reads, what it writes
        read, write = (fcntl.fcntl(fd, fcntl.F_DUPFD, 20) for fd in (ours[0], theirs[1]))
        flags = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={profile}",
            f"--window-size={size}",
        ]
        command = [BROWSER, *flags, "--remote-debugging-pipe", "about:blank"]
        shell = ["bash", "-c", f'exec "$0" "$@" 3<&{read} 4>&{write} 2>/dev/null', *command]
        self.process = subprocess.Popen(shell, pass_fds=(read, write), stdout=subprocess.DEVNULL)
        for fd in (read, write, ours[0], theirs[1]):
            os.close(fd)
        self.out, self.into = (
            os.fdopen(ours[1], "wb", buffering=0),
            os.fdopen(theirs[0], "rb", buffering=0),
        )
        self.number, self.rest, self.session = 0, b"", ""
        page = next(t for t in self.ask("Target.getTargets")["targetInfos"] if t["type"] == "page")
        self.session = self.ask("Target.attachToTarget", targetId=page["targetId"], flatten=True)[
            "sessionId"
        ]
        self.ask("Page.enable")
        self.ask("Page.navigate", url=path.as_uri())
        self.wait_for("Page.loadEventFired")

    def close(self) -> None:
        try:
            self.session = ""
            self.ask("Browser.close")
            self.process.wait(30)
        except (EOFError, OSError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self.rest:
            if not (part := self.into.read(2**16)):
                raise EOFError("the browser has ended")
            self.rest += part
        text, _, self.rest = self.rest.partition(b"\0")
        return json.loads(text)

    def wait_for(self, event: str) -> None:
        while self._message().get("method") != event:
            pass

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        self.number += 1
        message = {"id": self.number, "method": method, "params": params} | (
            {"sessionId": self.session} if self.session else {}
        )
        self.out.write(json.dumps(message).encode() + b"\0")
        while (found := self._message()).get("id") != self.number:
            pass
        assert "error" not in found, found
        return found["result"]

    def js(self, expression: str) -> Any:
        found = self.ask(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def press(self, key: str) -> None:
        code, text = KEYS[key]
        known = {"key": key, "code": "Space" if key == " " else key, "windowsVirtualKeyCode": code}
        self.ask(
            "Input.dispatchKeyEvent", type="keyDown", **known, **({"text": text} if text else {})
        )
        self.ask("Input.dispatchKeyEvent", type="keyUp", **known)

    def type(self, text: str) -> None:
        self.ask("Input.insertText", text=text)
