"""A real browser: Debian's Chromium without a screen, driven by Selenium over loopback."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from waiting import wait_until

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
MISSING = "Chromium is missing: apt-get install chromium chromium-driver"

DESK, TABLET, PHONE = (1440, 900), (820, 1180), (390, 844)


class Browser:
    """A browser with one tab.

    Args:
        url: Of the service whose page it shows.
        downloads: Folder of what is saved.
    """

    def __init__(self, url: str, downloads: Path) -> None:
        if not (CHROMIUM and DRIVER):
            raise FileNotFoundError(MISSING)
        self.url, self.downloads = url, downloads
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        # Containers have no user namespaces for its sandbox, and little shared memory.
        for each in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage"):
            options.add_argument(f"--{each}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
        self.command("Page.enable")
        self.command("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(downloads))
        self.look(DESK)

    def command(self, name: str, **arguments: Any) -> Any:
        """Does something that only Chromium's own protocol has."""
        return self.driver.execute_cdp_cmd(name, arguments)

    def run(self, script: str, *arguments: Any) -> Any:
        """Runs JavaScript in the page; what it returns."""
        return self.driver.execute_script(script, *arguments)

    def look(self, size: tuple[int, int], *, dark: bool = False) -> None:
        """Sets the size of the screen [px], and its colours; below 700 px it is a phone's."""
        width, height = size
        self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 700,
        )
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.command("Emulation.setEmulatedMedia", features=features)

    def open(self) -> None:
        """Loads the page anew."""
        self.driver.get(self.url)

    def one(self, selector: str) -> WebElement:
        """The element of a CSS selector."""
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        """All elements of a CSS selector."""
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        """What is read there, also where it is scrolled out of sight."""
        found: str = self.run("return document.querySelector(arguments[0]).innerText", selector)
        return found

    def until_text(self, selector: str, part: str) -> None:
        """Waits for a text."""
        wait_until(lambda: part in self.text(selector), f"{part!r} in {selector}")

    def set(self, selector: str, value: object) -> None:
        """Sets an input as a user would, who then sees what follows."""
        self.run(
            "const e = document.querySelector(arguments[0]); e.value = arguments[1];"
            "for (const n of ['input', 'change']) e.dispatchEvent(new Event(n, {bubbles: true}))",
            selector,
            str(value),
        )

    def drawn(self, canvas: str) -> str:
        """What a canvas shows, once what was to be drawn is drawn."""
        found: str = self.driver.execute_async_script(
            "const [id, done] = arguments; requestAnimationFrame(() => requestAnimationFrame(() =>"
            "done(document.getElementById(id).toDataURL())))",
            canvas,
        )
        return found

    def num_colours(self, canvas: str) -> int:
        """How many colours a canvas shows."""
        found: int = self.run(
            "const c = document.getElementById(arguments[0]); return new Set(new Uint32Array("
            "c.getContext('2d').getImageData(0, 0, c.width, c.height).data.buffer)).size",
            canvas,
        )
        return found

    def drop(self, files: Mapping[str, bytes]) -> None:
        """Drops files on the page."""
        self.run(
            "const held = new DataTransfer();"
            "for (const [name, text] of arguments[0]) held.items.add(new File("
            "[Uint8Array.from(atob(text), c => c.charCodeAt(0))], name));"
            "document.body.dispatchEvent(new DragEvent('drop',"
            "{dataTransfer: held, bubbles: true, cancelable: true}))",
            [(name, base64.b64encode(content).decode()) for name, content in files.items()],
        )

    def saved(self, name: str) -> bytes:
        """A file that the page lets the user save, once it is whole."""
        file = self.downloads / name
        wait_until(file.exists, name)
        return file.read_bytes()

    def screenshot(self, file: Path, *, whole: bool = False) -> None:
        """Writes what is seen, or the whole page, as JPEG."""
        clip = {}
        if whole:
            width, height = self.run(
                "const e = document.documentElement; return [innerWidth, e.scrollHeight]"
            )
            clip = {"clip": {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}}
        shot = self.command(
            "Page.captureScreenshot",
            format="jpeg",
            quality=82,
            captureBeyondViewport=whole,
            **clip,
        )
        file.write_bytes(base64.b64decode(shot["data"]))

    def requested(self) -> list[str]:
        """Addresses that were asked for since this was called before."""
        told = [
            json.loads(each["message"])["message"] for each in self.driver.get_log("performance")
        ]
        return [
            each["params"]["request"]["url"]
            for each in told
            if each["method"] == "Network.requestWillBeSent"
        ]

    def complaints(self) -> list[dict[str, Any]]:
        """Errors and warnings of the console since this was called before."""
        return [each for each in self.driver.get_log("browser") if each["level"] != "INFO"]

    def close(self) -> None:
        """Ends it."""
        self.driver.quit()


@contextmanager
def browsing(url: str, downloads: Path) -> Iterator[Browser]:
    """A browser, which is ended at last."""
    browser = Browser(url, downloads)
    try:
        yield browser
    finally:
        browser.close()
