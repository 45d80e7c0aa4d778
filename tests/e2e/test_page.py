"""The service's page in a real browser, with the real service behind it."""

from __future__ import annotations

import io
import itertools
import json
import zipfile

import numpy as np
import pytest
import scan_bodies as bodies
import tifffile
from benchmarks.running_service import RunningService
from waiting import wait_until

from stem_complete.client import Client
from stem_complete.serving.service.access import TOKEN_HASHES, new_token

selenium = pytest.importorskip("selenium", reason="selenium is missing, which the extra `dev` has")

from browser import CHROMIUM, DESK, DRIVER, MISSING, PHONE, TABLET, Browser, browsing  # noqa: E402
from selenium.webdriver import ActionChains, Keys  # noqa: E402
from selenium.webdriver.common.actions.wheel_input import ScrollOrigin  # noqa: E402

pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason=MISSING),
]

PANELS = ("c-scan", "c-image", "c-error")
TOKEN, HASH = new_token()


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    running = RunningService(tmp_path_factory.mktemp("service"), **{TOKEN_HASHES: HASH})
    yield running
    running.stop()


@pytest.fixture(scope="module")
def client(service) -> Client:
    return Client(service.url, TOKEN)


@pytest.fixture(scope="module")
def tab(service, tmp_path_factory):
    with browsing(f"{service.url}/", tmp_path_factory.mktemp("downloads")) as browser:
        yield browser


@pytest.fixture
def statuses() -> set[str]:
    """Of the answers that a test provokes, which the console tells of; a test adds them."""
    return set()


@pytest.fixture
def page(tab, service, statuses):
    """The page, anew, of a user who has the token. It asks nobody else, and breaks nothing."""
    tab.look(DESK)
    tab.open()
    tab.run("sessionStorage.setItem('stem-complete-token', arguments[0])", TOKEN)
    tab.requested()
    tab.complaints()  # of the token that was missing, perhaps
    tab.open()
    wait_until(lambda: tab.all("#examples button"), "the examples")
    yield tab
    addresses = tab.requested()
    assert any(each.startswith(f"{service.url}/v1/") for each in addresses)
    for each in addresses:
        assert each.startswith((f"{service.url}/", "blob:", "data:")), each
    for each in tab.complaints():
        assert each["source"] == "network", each
        assert any(f"status of {status} " in each["message"] for status in statuses), each


@pytest.fixture(scope="module")
def example(texture, spiral) -> tuple[np.ndarray, np.ndarray]:
    intensity, dwell = spiral(100 + 20 * texture(1, (64, 64)), "1/8")
    return intensity.astype(np.float32), dwell


@pytest.fixture
def completed(page, example) -> Browser:
    """The page with a completion."""
    page.drop({"scan.npz": bodies.npz(intensity=example[0], dwell=example[1])})
    page.until_text("#state", "Completed scan.npz")
    return page


def drag(page: Browser, selector: str, start: tuple[int, int], by: tuple[int, int]) -> None:
    """With the mouse, from a place relative to the middle of an element."""
    actions = ActionChains(page.driver, duration=20)
    actions.move_to_element_with_offset(page.one(selector), *start).click_and_hold()
    actions.move_by_offset(*by).release().perform()


def press(page: Browser, *keys: str) -> None:
    ActionChains(page.driver).send_keys(*keys).perform()


def drawn(page: Browser) -> list[str]:
    ActionChains(page.driver).move_to_element(page.one("h1")).perform()  # no cursor is drawn
    return [page.drawn(panel) for panel in PANELS]


def changed(page: Browser, before: list[str]) -> list[bool]:
    return [now != then for now, then in zip(drawn(page), before, strict=True)]


def test_an_example_is_completed_by_keyboard_alone(page):
    reached = []
    for _ in range(60):
        press(page, Keys.TAB)
        focused = page.driver.switch_to.active_element
        reached.append(focused.get_attribute("id") or focused.text)
        seen = page.run(
            "const s = getComputedStyle(document.activeElement);"
            "return s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) > 0"
        )
        assert seen, f"focus is not seen on {reached[-1]}"
        if focused.find_elements("xpath", "ancestor::*[@id='examples']"):
            break
    else:
        pytest.fail(f"no example among {reached}")
    press(page, Keys.ENTER)
    page.until_text("#state", "Completed Published spiral 1")
    for panel in (*PANELS, "histogram"):
        assert page.num_colours(panel) > 30, panel
    assert "1/22.1" in page.text("#facts")
    assert "From the truth" in page.text("#facts")
    assert page.text("#verdict") == "The scan agrees with the model"
    assert len(page.all("#bars .bar-row")) == 3
    while page.driver.switch_to.active_element.get_attribute("id") != "c-image":
        press(page, Keys.TAB)
    before = drawn(page)
    press(page, "]]]")
    assert changed(page, before) == [False, True, False]
    press(page, "+", Keys.ARROW_RIGHT)
    assert changed(page, before) == [True, True, True]
    assert page.text("#zoom") == "125 %"
    assert "completion" in page.text("#readout")


def test_dropped_files_are_completed_to_the_last_digit(page, client, example):
    intensity, dwell = example
    expected = client.complete(intensity, dwell)
    scan = bodies.tiff(
        np.nan_to_num(intensity), imagej=True, resolution=(2, 2), metadata={"unit": "nm"}
    )
    page.drop({"scan.tif": scan, "my_dwell.npy": bodies.npy(dwell)})
    page.until_text("#state", "Completed scan.tif")
    assert "500 pm" in page.text("#facts")
    page.one('[aria-label="Download completion as NPY"]').click()
    image = np.load(io.BytesIO(page.saved("scan_completed.npy")))
    np.testing.assert_allclose(image, expected.image, atol=1e-4 * np.ptp(expected.image))
    page.one('[aria-label="Download error map as TIFF"]').click()
    error = tifffile.imread(io.BytesIO(page.saved("scan_error.tif")))
    np.testing.assert_allclose(error, expected.error, rtol=1e-2)
    page.one('[aria-label="Download all as OME-Zarr"]').click()
    assert page.saved("scan_completed.ome.zarr.zip").startswith(b"PK")
    # What is under the cursor is a pixel's true value, not its grey.
    box = page.one("#c-image").size
    where = ActionChains(page.driver).move_to_element_with_offset(
        page.one("#c-image"), int(box["width"] * 0.2), int(-box["height"] * 0.3)
    )
    where.perform()
    told = page.text("#readout").replace("\N{MINUS SIGN}", "-").split()
    x, y = int(told[1]), int(told[3])
    assert (x, y) != (32, 32)
    assert float(told[told.index("completion") + 1]) == pytest.approx(image[y, x], rel=1e-3)


def test_dropped_samples_are_completed_on_their_pixels(page, client, example, tmp_path):
    file, output = tmp_path / "samples.csv", tmp_path / "completed.npz"
    file.write_bytes(bodies.csv(*example))
    told = client.complete_file(file, output)
    page.drop({"samples.csv": file.read_bytes()})
    page.until_text("#state", "Completed samples.csv")
    page.one('[aria-label="Download all as NPZ"]').click()
    saved = io.BytesIO(page.saved("samples_completed.npz"))
    with np.load(saved) as found, np.load(output) as expected:
        np.testing.assert_array_equal(found["scan"], expected["scan"])
        np.testing.assert_allclose(found["image"], expected["image"], rtol=1e-4)
    page.one('[aria-label="Download all as JSON"]').click()
    about = json.loads(page.saved("samples_completed.json"))
    assert about["shape"] == told["shape"] == [64, 64]


def test_images_move_together(completed):
    page = completed
    wheel = ScrollOrigin.from_element(page.one("#c-scan"), 40, 20)
    before = drawn(page)
    ActionChains(page.driver).scroll_from_origin(wheel, 0, -200).perform()
    assert changed(page, before) == [True, True, True]
    assert page.text("#zoom") != "100 %"
    before = drawn(page)
    drag(page, "#c-error", (0, 0), (60, 30))
    assert changed(page, before) == [True, True, True]
    page.one("#fit").click()
    assert page.text("#zoom") == "100 %"
    # Two fingers, twice as far apart in the end.
    box = page.one("#c-image").rect
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    for kind, off in (("touchStart", 30), ("touchMove", 45), ("touchMove", 60), ("touchEnd", None)):
        fingers = [] if off is None else [{"x": x - off, "y": y}, {"x": x + off, "y": y}]
        page.command("Input.dispatchTouchEvent", type=kind, touchPoints=fingers)
    wait_until(lambda: page.text("#zoom") == "200 %", "a zoom of 200 %")


def test_comparison_contrast_and_profile_change_what_is_drawn(completed, example):
    page = completed
    before = drawn(page)
    page.set("#compare", 500)
    assert changed(page, before) == [False, True, False]
    half = drawn(page)
    width = page.one("#c-image").size["width"]
    drag(page, "#c-image", (0, 40), (width // 4, 0))
    assert changed(page, half) == [False, True, False]
    assert int(page.one("#compare").get_property("value")) == pytest.approx(750, abs=10)
    page.set("#compare", 0)
    assert changed(page, before) == [False, False, False]
    page.set("#high", 300)
    assert changed(page, before) == [True, True, False]
    page.one("#contrast-auto").click()
    assert changed(page, before) == [False, False, False]
    page.one("#of-error").click()
    page.set("#high", 300)
    assert changed(page, before) == [False, False, True]
    page.one("#contrast-auto").click()

    empty = page.drawn("profile")
    page.one("#tool-profile").click()
    drag(page, "#c-scan", (-width // 4, 0), (width // 2, 0))
    assert page.drawn("profile") != empty
    assert changed(page, before) == [True, True, True]
    assert float(page.text("#profile-length").split()[0]) == pytest.approx(32, abs=0.3)
    for name, value in {"x0": 3, "y0": 10, "x1": 60, "y1": 10}.items():
        page.set(f"#p-{name}", value)
    assert page.text("#profile-length") == "57 px"
    page.one("#profile-save").click()
    rows = np.genfromtxt(io.BytesIO(page.saved("profile.csv")), delimiter=",", names=True)
    np.testing.assert_allclose(rows["distance_px"], np.arange(58))
    np.testing.assert_allclose(rows["scan"], example[0][10, 3:61], rtol=1e-6)


@pytest.fixture(scope="module")
def many(texture, spiral) -> dict[str, bytes]:
    scans = {f"s{i}.npz": spiral(texture(i, (64, 64)), "1/8") for i in range(3)}
    return {
        name: bodies.npz(intensity=intensity, dwell=dwell)
        for name, (intensity, dwell) in scans.items()
    }


def test_several_dropped_scans_are_a_job_whose_results_open(page, client, many, statuses, tmp_path):
    statuses.add("422")
    page.drop(many | {"flat.npy": bodies.npy(np.ones((64, 64))), "notes.txt": b"none"})
    page.until_text("#job-list", "done, 3 of 3 completed")
    none, refused = (each.text for each in page.all("#job-list .failed"))
    assert none.split() == ["notes.txt", "no", "scan"]
    assert refused.startswith("flat.npy")
    page.one('[aria-label="Open s1"]').send_keys(Keys.ENTER)
    page.until_text("#state", "Opened s1")
    page.until_text("#check-text", "Held-out")
    for name in ("NPY", "TIFF"):
        page.one(f'[aria-label="Download completion as {name}"]').click()
    scan, output = tmp_path / "s1.npz", tmp_path / "s1.npy"
    scan.write_bytes(many["s1.npz"])
    client.complete_file(scan, output)
    expected = np.load(output)
    for found in (
        np.load(io.BytesIO(page.saved("s1_completed.npy"))),
        tifffile.imread(io.BytesIO(page.saved("s1_completed.tif"))),
    ):
        np.testing.assert_allclose(found, expected, atol=1e-3 * np.ptp(expected))
    page.one('[aria-label="Download all: 4 scans"]').click()
    with zipfile.ZipFile(io.BytesIO(page.saved("4_scans_completed.zip"))) as archive:
        images = {name for name in archive.namelist() if name.endswith("_completed.tif")}
    assert images == {f"s{i}_completed.tif" for i in range(3)}
    page.open()
    page.until_text("#job-list", "done, 3 of 3 completed")
    for dark in (False, True):
        page.look(PHONE, dark=dark)
        assert beyond(page, PHONE) == []
    page.one('[aria-label="Remove: 4 scans"]').click()
    wait_until(lambda: not page.one("#jobs").is_displayed(), "no job")


def test_a_job_waits_for_another_one_and_can_be_cancelled(page, many):
    page.drop({f"n{i}.npz": many[f"s{i % 3}.npz"] for i in range(40)})
    page.until_text("#job-list", "completing")
    page.drop(dict(list(many.items())[:2]))
    page.until_text("#job-list", "waiting, number 2 in the queue")
    page.one('[aria-label="Cancel: 40 scans"]').click()
    page.until_text("#job-list", "cancelled after")
    page.until_text("#job-list", "done, 2 of 2 completed")
    for button in page.all('[aria-label^="Remove"]'):
        button.click()


def test_a_live_scan_appears_and_is_shown_as_it_comes(page, client, example):
    columns = bodies.samples(*example)
    rows = np.column_stack([columns[name] for name in ("x", "y", "dwell", "intensity")])
    half, rest = np.array_split(rows, 2)
    scan = client.live((64, 64), ["x", "y", "dwell", "intensity"], title="seen live")
    scan.send(half)
    wait_until(lambda: page.all("#live button"), "the live scan")
    page.one("#live button").click()
    page.until_text("#state", "1 chunks")
    assert page.text("#verdict") == "Not checked"
    before, coverage = drawn(page), page.text("#h-scan")
    scan.send(rest)
    page.until_text("#state", "2 chunks")
    assert page.text("#h-scan") != coverage
    assert changed(page, before)[:2] == [True, True]
    scan.finish()
    page.until_text("#state", "is finished")
    page.until_text("#check-text", "Held-out")
    page.until_text("#live", "finished")
    scan.delete()


def test_a_completion_tells_of_its_progress_and_can_be_cancelled(page):
    page.run(
        "new MutationObserver((_, self) => { self.disconnect();"
        "window.progress = document.getElementById('progress-text').textContent;"
        "document.getElementById('cancel').click() })"
        ".observe(document.getElementById('progress-text'), {childList: true})"
    )
    page.one("#examples button").click()
    page.until_text("#state", "Cancelled")
    assert "sending" in page.run("return window.progress")
    assert not page.one("#working").is_displayed()
    assert page.one("#empty").is_displayed()


CHECK = {"error": 0.2, "classical_error": 0.3, "deviation": 0.5, "trust": 1, "following": 0}


def test_a_verdict_is_as_good_as_the_self_check(page):
    cases = {
        "good": [{}],
        "careful": [{"trust": 0.8}, {"classical_error": 0.19}, {"deviation": 0.22}],
        "bad": [{"trust": 0.3}, {"deviation": 0.2}],
        "none": [{"error": None}],
    }
    given = [
        (level, {"self_check": CHECK | changes, "notes": []})
        for level, all_changes in cases.items()
        for changes in all_changes
    ]
    given.append(("none", {"self_check": None, "notes": []}))
    given.append(("bad", {"self_check": CHECK, "notes": ["coverage 1/500, but it was trained at"]}))
    found = page.driver.execute_async_script(
        "const [told, done] = arguments;"
        "import(`${location.origin}/words.js`).then(m => done(told.map(each => m.verdict(each))))",
        [about for _, about in given],
    )
    assert [each["level"] for each in found] == [level for level, _ in given]
    assert all(each["title"] and each["text"] for each in found)


def test_errors_are_told_with_their_fix(page, statuses):
    statuses.add("422")
    page.drop({"scan.npy": bodies.npy(np.ones((64, 64)))})
    page.until_text("#problem", "What to do")
    for part in ("Expected", "Found", "Request"):
        assert part in page.text("#problem")
    assert page.one("#working").is_displayed() is False
    page.drop({"scan.doc": b"text"})
    page.until_text("#problem", "scan.doc")
    assert page.one("#empty").is_displayed()


def test_the_token_is_asked_for_and_is_not_kept_longer_than_the_tab(page, statuses):
    statuses.add("401")
    page.run("sessionStorage.clear()")
    page.open()
    wait_until(lambda: page.one("#token").is_displayed(), "the question for a token")
    page.one("#token").send_keys("another", Keys.ENTER)
    wait_until(lambda: page.one("#token").is_displayed(), "the question for a token again")
    page.one("#token").clear()
    page.one("#token").send_keys(TOKEN, Keys.ENTER)
    page.until_text("#open-model", "Model: released, ")
    assert not page.one("#token").is_displayed()
    assert page.run("return localStorage.length + document.cookie.length") == 0


def test_the_page_suits_desks_and_phones_by_day_and_night(completed):
    page = completed
    for size, dark in itertools.product((DESK, TABLET, PHONE), (False, True)):
        page.look(size, dark=dark)
        assert beyond(page, size) == [], (size, dark)
        for text, back in itertools.product(("text", "quiet", "accent"), ("surface", "page")):
            assert contrast(page, text, back) >= 4.5, (text, back, dark)
        for level in ("good", "careful", "bad"):
            assert contrast(page, level, f"{level}-back") >= 4.5, (level, dark)


def beyond(page: Browser, size: tuple[int, int]) -> list[str]:
    """What does not fit."""
    # Of the screen, as a phone's `innerWidth` grows with what does not fit.
    found: list[str] = page.run(
        "return [...document.querySelectorAll('body *')].filter(e => e.checkVisibility() &&"
        "!e.closest('.skip, .hidden') && (e.getBoundingClientRect().right > arguments[0] + 1 ||"
        "(e.scrollWidth > e.clientWidth + 1 && e.matches('section, header, footer, p, dl'))))"
        ".map(e => e.outerHTML.slice(0, 120))",
        size[0],
    )
    return found


def contrast(page: Browser, *names: str) -> float:
    """Of two colours of the page (WCAG 2, section 1.4.3)."""
    lightness = []
    for name in names:
        colour = page.run(
            "return getComputedStyle(document.body).getPropertyValue(arguments[0])", f"--{name}"
        )
        digits = colour.strip().lstrip("#")
        digits = digits if len(digits) == 6 else "".join(2 * each for each in digits)
        levels = np.array([int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)])
        linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
        lightness.append(float(linear @ [0.2126, 0.7152, 0.0722]) + 0.05)
    return max(lightness) / min(lightness)


def test_everything_that_acts_has_a_name(completed):
    tree = completed.command("Accessibility.getFullAXTree")["nodes"]
    acting = {"button", "textbox", "slider", "combobox", "checkbox", "spinbutton", "link", "image"}
    names = {"button": 0}
    for node in tree:
        role = node.get("role", {}).get("value")
        if role in acting and not node.get("ignored"):
            assert node.get("name", {}).get("value"), node
            names[role] = names.get(role, 0) + 1
    assert names["button"] > 20, names
    assert names["slider"] == 3, names
