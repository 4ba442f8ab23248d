"""
A real browser, driven by hand: Debian's chromium and its driver, from the folder of consumers.

`.ci/consumers` unpacks both with all that they need into a root of their own.  They run in it, in a
mount namespace that ends with them; nothing is installed, and no package for the driver is needed:
it speaks HTTP and JSON (W3C WebDriver).
"""

from __future__ import annotations

import json
import re
import subprocess
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from tests.recorder.record import consumers

IN_ROOT: Final = """
mount -t proc none "$0/proc" && mount --rbind /dev "$0/dev" || exit 1
mount --bind "$1" "$0/work" && mount -t tmpfs none "$0/tmp" || exit 1
exec chroot "$0" /usr/bin/chromedriver --port=0
"""
ARGUMENTS: Final = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
    "--user-data-dir=/tmp/profile", "--window-size=1000,1400", "--hide-scrollbars",
    "--disable-background-networking", "--no-first-run",
)  # fmt: skip
STARTED: Final = re.compile(r"started successfully on port (\d+)")


class NoBrowserError(Exception):
    """There is no browser that runs here; the message says why."""


class Browser:
    """A session of the driver; `folder` of the machine is /work for the browser."""

    def __init__(self, address: str) -> None:
        self._address = address
        options = {"binary": "/usr/lib/chromium/chromium", "args": [*ARGUMENTS]}
        wanted = {
            "browserName": "chrome", "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }  # fmt: skip
        made = self._ask("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self._session = f"/session/{made['sessionId']}"

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        kind = {"Content-Type": "application/json"}
        request = Request(self._address + path, data, kind, method=method)  # noqa: S310 our own
        try:
            with urlopen(request, timeout=120) as answer:  # noqa: S310 our own driver
                return json.load(answer)["value"]
        except HTTPError as error:
            problem = json.load(error)["value"]["message"].splitlines()[0]
            raise NoBrowserError(f"{path}: {problem}") from error

    def _post(self, path: str, **body: Any) -> Any:
        return self._ask("POST", self._session + path, body)

    def open(self, name: str) -> list[str]:
        """Open a file of the folder; return what it made the browser ask for, of its own apart."""
        self.log("performance")
        self._post("/url", url=f"file:///work/{name}")
        found = [json.loads(line)["message"] for line in self.log("performance")]
        sent = [one["params"] for one in found if one["method"] == "Network.requestWillBeSent"]
        asked: list[str] = [one["request"]["url"] for one in sent]
        return [url for url in asked if not url.startswith("chrome://")]

    def log(self, kind: str) -> list[str]:
        """Return what a log has since it was last asked for."""
        return [one["message"] for one in self._post("/se/log", type=kind)]

    def run(self, script: str, *arguments: Any) -> Any:
        """Return what a script returns."""
        return self._post("/execute/sync", script=script, args=[*arguments])

    def press(self, *keys: str) -> None:
        """Press keys one after the other."""
        strokes = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self._post("/actions", actions=[{"type": "key", "id": "keyboard", "actions": strokes}])

    def scheme(self, name: str) -> None:
        """Prefer light or dark."""
        features = [{"name": "prefers-color-scheme", "value": name}]
        command = {"cmd": "Emulation.setEmulatedMedia", "params": {"features": features}}
        self._post("/goog/cdp/execute", **command)

    def print(self) -> bytes:
        """Return the page on paper, as PDF."""
        return b64decode(self._post("/print", background=True))

    def screenshot(self) -> bytes:
        """Return what is seen, as PNG."""
        return b64decode(self._ask("GET", f"{self._session}/screenshot"))

    def close(self) -> None:
        """End the session and the browser."""
        self._ask("DELETE", self._session)


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """Yield a browser that sees `folder` as /work; NoBrowserError where none runs."""
    root = consumers() / "chromium"
    if not (root / "usr/bin/chromedriver").exists():
        raise NoBrowserError("no chromium (see .ci/consumers)")
    for name in ("proc", "dev", "tmp", "work"):
        (root / name).mkdir(exist_ok=True)
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n")
    command = ["unshare", "--map-root-user", "--mount", "--pid", "--fork", "--kill-child", "sh",
               "-c", IN_ROOT, str(root), str(folder)]  # fmt: skip
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            yield (made := Browser(f"http://127.0.0.1:{_port(process)}"))
            made.close()
        finally:
            process.kill()


def _port(process: subprocess.Popen[str]) -> str:
    """Return the port on which the driver listens; NoBrowserError where it did not start."""
    assert process.stdout is not None
    for line in process.stdout:
        if found := STARTED.search(line):
            return found[1]
    raise NoBrowserError("chromium does not start here (user and mount namespaces)")
