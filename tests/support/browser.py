"""A real browser without a screen: Chromium, driven over its debugging pipe, with nothing but the standard library.

The protocol is https://chromedevtools.github.io/devtools-protocol; a message is JSON that ends with a zero byte, on
file descriptor 3 to the browser and 4 from it.
"""

import base64
import contextlib
import fcntl
import io
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

NAMES = ("chromium", "chromium-browser", "google-chrome")
SECONDS = 60.0


class Browser:
    """One tab. What it asked for over the network and what it complained about is kept."""

    def __init__(self, to: int, out_of: int) -> None:
        self._to, self._from = to, out_of
        self._numbers = itertools.count(1)
        self._buffer = b""
        self._session = ""
        self._loaded = False
        self.requests: list[str] = []
        self.complaints: list[str] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Sends a command and waits for its answer."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == number:
                assert "error" not in answer, (method, answer["error"])
                return dict(answer["result"])

    def open(self, page: Path, width: int, height: int = 900) -> None:
        """Shows a page in a window of that size, and waits until it is there with all its pictures."""
        self.requests.clear()
        self.complaints.clear()
        self._loaded = False
        self.resize(width, height)
        assert not self.send("Page.navigate", url=page.as_uri()).get("errorText")
        while not self._loaded:
            self._receive()

    def resize(self, width: int, height: int = 900) -> None:
        """Another window."""
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )

    def like(self, **features: str) -> None:
        """What the reader prefers, such as prefers_color_scheme="dark"; or `media="print"`."""
        media = features.pop("media", "")
        wanted = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.send("Emulation.setEmulatedMedia", media=media, features=wanted)

    def ask(self, expression: str) -> Any:
        """The value of an expression in the page; a promise is waited for."""
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def seen(self) -> Image.Image:
        """The whole page as a picture, what is scrolled out of sight included."""
        for _ in range(2):  # the height is a guess as long as some of it was never in sight
            self.resize(self.ask("innerWidth"), self.ask("document.documentElement.scrollHeight"))
            self.ask(_PAINTED)
        # Not `captureBeyondViewport`: it changes the window for a moment, and what is left out with it.
        picture = base64.b64decode(self.send("Page.captureScreenshot")["data"])
        return Image.open(io.BytesIO(picture)).convert("RGB")

    def contrasts(self) -> list[tuple[float, str]]:
        """The contrast of each text against what is behind it (WCAG 2.2, 1.4.3), and the class of its element."""
        return [(float(contrast), name) for contrast, name in self.ask(_CONTRASTS)]

    def printed(self) -> bytes:
        """The page as PDF, as the browser would print it."""
        return base64.b64decode(self.send("Page.printToPDF", printBackground=False)["data"])

    def _receive(self) -> dict[str, Any]:
        end = time.monotonic() + SECONDS
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._from], [], [], max(0.0, end - time.monotonic()))
            assert ready, "the browser does not answer"
            part = os.read(self._from, 1 << 20)
            assert part, "the browser ended"
            self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        self._note(message.get("method", ""), message.get("params", {}))
        return message

    def _note(self, event: str, facts: dict[str, Any]) -> None:
        if event == "Network.requestWillBeSent":
            self.requests.append(facts["request"]["url"][:80])
        elif event == "Log.entryAdded":
            self.complaints.append(facts["entry"]["text"])
        elif event in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown"):
            self.complaints.append(json.dumps(facts)[:200])
        elif event == "Page.loadEventFired":
            self._loaded = True


# `content-visibility: auto` leaves out what was not in sight yet, and looks for it again only at a later frame.
_PAINTED = """
new Promise(painted => {
    const leftOut = one => one.checkVisibility() && !one.checkVisibility({contentVisibilityAuto: true});
    const look = () => {
        const again = [...document.querySelectorAll('body *')].some(leftOut);
        requestAnimationFrame(again ? look : () => requestAnimationFrame(painted));
    };
    requestAnimationFrame(look);
})
"""

_CONTRASTS = """
(() => {
    const linear = part => (part /= 255) <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
    const parts = colour => colour.match(/[0-9.]+/g).map(Number);
    const behind = one => {
        for (; one; one = one.parentElement) {
            const colour = getComputedStyle(one).backgroundColor;
            if (parts(colour)[3] !== 0) return parts(colour);
        }
        return [255, 255, 255];
    };
    const texts = [...document.querySelectorAll('body *')].filter(one =>
        [...one.childNodes].some(node => node.nodeType === 3 && node.data.trim()));
    return texts.map(one => {
        const pair = [light(parts(getComputedStyle(one).color)), light(behind(one))].sort((a, b) => b - a);
        return [(pair[0] + 0.05) / (pair[1] + 0.05), one.className || one.tagName];
    });
})()
"""


def of_colour(picture: Image.Image, colour: tuple[int, int, int]) -> int:
    """How many pixels of a picture have nearly this colour."""
    return int((np.abs(np.asarray(picture, np.int16) - colour) < 25).all(-1).sum())


@contextlib.contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A browser of its own, with a new profile. Skips the test where there is none; fails it where CI is set."""
    command = next((found for name in NAMES if (found := shutil.which(name))), None)
    if command is None:
        if os.environ.get("CI"):
            pytest.fail("chromium is missing: scripts/setup --test-tools installs it")
        pytest.skip("chromium is not installed (scripts/setup --test-tools installs it)")
    commands, answers = os.pipe(), os.pipe()
    options = ["--headless=new", "--remote-debugging-pipe", "--disable-gpu", "--no-first-run", "--hide-scrollbars"]
    options += ["--disable-background-networking", "--disable-dev-shm-usage", f"--user-data-dir={profile}"]
    if os.geteuid() == 0:
        options.append("--no-sandbox")  # Chromium's sandbox refuses to run as root
    # The browser wants its ends as 3 and 4; which numbers they have here is chance, so they go by way of higher ones.
    theirs = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (commands[0], answers[1])]
    moved = f'exec "$@" 3<&{theirs[0]} 4>&{theirs[1]} {theirs[0]}<&- {theirs[1]}>&-'
    process = subprocess.Popen(
        ["bash", "-c", moved, "-", command, *options],
        pass_fds=theirs,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    for end in (commands[0], answers[1], *theirs):
        os.close(end)
    try:
        yield Browser(commands[1], answers[0])
    finally:
        process.kill()
        process.wait()
        os.close(commands[1])
        os.close(answers[0])
