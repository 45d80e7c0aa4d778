"""Takes the documentation's pictures of the service's page, from the real service.

python tests/screenshots.py docs/images
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.running_service import RunningService
from browser import DESK, PHONE, browsing
from waiting import wait_until

from stem_complete.client import Client

_LINE = {"x0": 60, "y0": 330, "x1": 450, "y1": 200, "width": 3}


def take(url: str, folder: Path) -> None:
    """Writes `page_light.jpg`, `page_dark.jpg`, `page_phone.jpg`, `page_job.jpg`."""
    with TemporaryDirectory() as downloads, browsing(url, Path(downloads)) as page:
        page.open()
        wait_until(lambda: page.all("#examples button"), "the examples")
        page.all("#examples button")[-1].click()
        page.until_text("#state", "Completed")
        page.set("#compare", 350)
        for name, value in _LINE.items():
            page.set(f"#p-{name}", value)
        page.run("document.activeElement.blur(); scrollTo(0, 0)")
        for name, dark in (("light", False), ("dark", True)):
            page.look(DESK, dark=dark)
            page.drawn("profile")
            page.screenshot(folder / f"page_{name}.jpg")
        page.look(PHONE)
        page.run("document.querySelector('[data-panel=image]').scrollIntoView(); scrollBy(0, -56)")
        page.drawn("c-image")
        page.screenshot(folder / "page_phone.jpg")
        page.look(DESK)
        with Client(url.rstrip("/")) as client:
            page.drop(
                {
                    f"spiral_{each['name']}.npz": client.request("GET", each["scan"]).content
                    for each in client.request("GET", "/v1/examples").json()
                }
            )
        page.until_text("#job-list", "done")
        page.one('[aria-label="Open spiral_1"]').click()
        page.until_text("#state", "Opened")
        page.run("document.activeElement.blur(); scrollTo(0, 0)")
        page.drawn("c-image")
        page.screenshot(folder / "page_job.jpg")


def main() -> None:
    """Takes all pictures."""
    (folder,) = map(Path, sys.argv[1:])
    with TemporaryDirectory() as temporary:
        service = RunningService(Path(temporary))
        try:
            take(f"{service.url}/", folder)
        finally:
            service.stop()


if __name__ == "__main__":
    main()
