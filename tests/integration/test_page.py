"""The web page in a real browser: a picture is dropped, what it matches is read, as people do."""

import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from selenium.webdriver import ActionChains, Chrome, ChromeOptions, ChromeService, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support import expected_conditions as found
from selenium.webdriver.support.wait import WebDriverWait

from deploy.local.stack import Stack
from tests.integration.pictures import copy_file, photograph_file

SHOTS: Final = Path(__file__).resolve().parents[2] / "build" / "page"
WAIT_SECONDS: Final = 60


def command(name: str) -> str:
    """Where a command is."""
    found_at = shutil.which(name)
    assert found_at is not None, f"{name} is missing; make test names its package"
    return found_at


@pytest.fixture(scope="module")
def browser() -> Iterator[Chrome]:
    """Debian's Chromium, without a window; nothing is downloaded."""
    options = ChromeOptions()
    options.binary_location = command("chromium")
    for argument in ("--headless=new", "--disable-dev-shm-usage", "--window-size=1100,1400"):
        options.add_argument(argument)
    if os.geteuid() == 0:  # where tests run as root, there is no sandbox to be had
        options.add_argument("--no-sandbox")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = Chrome(options=options, service=ChromeService(command("chromedriver")))
    try:
        yield started
    finally:
        started.quit()


@pytest.fixture
def workspace_key(stack: Stack) -> tuple[str, str]:
    """A workspace of this test's own, and a key for it."""
    workspace = f"page-{uuid.uuid4().hex}"
    words = ("keys", "create", "--workspace", workspace, "--right", "match")
    return workspace, stack.command(*words).strip()


@pytest.fixture
def page(browser: Chrome, stack: Stack) -> Chrome:
    """The page, as it is when it is opened."""
    browser.get(f"{stack.api_urls[0]}/")
    browser.execute_script("sessionStorage.clear()")
    browser.refresh()
    complaints(browser)  # of the test before
    return browser


def drop(page: Chrome, place: str, file: Path) -> None:
    """Drop a file as the mouse would, from outside of the browser."""
    target = page.find_element(By.CSS_SELECTOR, f".drop[data-for={place}]")
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", target)
    box = page.execute_script(
        "const box = arguments[0].getBoundingClientRect();"
        "return [box.left + box.width / 2, box.top + 20]",
        target,
    )
    data = {"items": [], "files": [str(file)], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        event = {"type": kind, "x": box[0], "y": box[1], "data": data}
        page.execute_cdp_cmd("Input.dispatchDragEvent", event)


def result(page: Chrome, panel: str) -> str:
    """Wait for an answer, and give what it says."""
    place = (By.CSS_SELECTOR, f"#{panel}-result .answer, #{panel}-result .problem")
    WebDriverWait(page, WAIT_SECONDS).until(found.visibility_of_element_located(place))
    return page.find_element(By.ID, f"{panel}-result").text


def shoot(page: Chrome, name: str) -> None:
    """Keep what is seen, for people to look at."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    assert page.save_screenshot(str(SHOTS / f"{name}.png"))


def complaints(page: Chrome) -> list[str]:
    """What the browser has against the page: its policy, its scripts."""
    log: list[dict[str, str]] = page.get_log("browser")  # type: ignore[no-untyped-call]
    return [entry["message"] for entry in log]


def photographs(folder: Path) -> tuple[Path, Path]:
    """A photograph, and a smaller copy."""
    files = folder / "original.jpg", folder / "copy.jpg"
    files[0].write_bytes(photograph_file(7_001))
    files[1].write_bytes(copy_file(7_001))
    return files


def test_a_dropped_picture_shows_its_match(
    page: Chrome, stack: Stack, workspace_key: tuple[str, str], tmp_path: Path
) -> None:
    """One that came as an event is found, with its score, relation and views; nothing is added."""
    workspace, key = workspace_key
    original, copy = photographs(tmp_path)
    stack.command("publish", str(original), "--workspace", workspace, "--wait")
    page.find_element(By.ID, "key").send_keys(key)
    for _ in range(2):  # asking leaves no trace, so the second time is as the first
        page.execute_script("document.getElementById('match-result').replaceChildren()")
        drop(page, "image", copy)
        text = result(page, "match")
        assert "Seen before" in text
        assert len(page.find_elements(By.CSS_SELECTOR, "#match-result tbody tr")) == 1
    row = page.find_element(By.CSS_SELECTOR, "#match-result tbody tr").text
    for said in ("original.jpg", "the same picture", "confirmed", "of 64", "whole on whole"):
        assert said in row
    shoot(page, "match")
    assert complaints(page) == []


def test_two_pictures_are_compared_by_keyboard(
    page: Chrome, workspace_key: tuple[str, str], tmp_path: Path
) -> None:
    """The second tab is reached and used without a mouse."""
    original, copy = photographs(tmp_path)
    page.find_element(By.ID, "key").send_keys(workspace_key[1])
    page.find_element(By.ID, "tab-match").send_keys(Keys.ARROW_RIGHT)
    assert page.switch_to.active_element.get_attribute("id") == "tab-compare"
    page.find_element(By.ID, "first").send_keys(str(original))
    page.find_element(By.ID, "second").send_keys(str(copy))
    page.find_element(By.CSS_SELECTOR, "#compare-form [type=submit]").send_keys(Keys.ENTER)
    text = result(page, "compare")
    assert "The same picture, confirmed" in text
    assert "no part of it differs" in text
    assert len(page.find_elements(By.CSS_SELECTOR, "#panel-compare .preview rect")) == 2
    shoot(page, "compare")
    assert complaints(page) == []


def test_what_is_wrong_is_said_in_words(
    page: Chrome, workspace_key: tuple[str, str], tmp_path: Path
) -> None:
    """No key, a wrong key, a file that is no picture: each is told, and the page goes on."""
    original, _ = photographs(tmp_path)
    text = tmp_path / "text.jpg"
    text.write_text("no picture")
    drop(page, "image", original)
    assert "An API key is needed" in result(page, "match")
    for key, file, said in (
        ("cd_ü_wrong", original, "No API key, or one that is not valid."),
        (workspace_key[1], text, "The bytes are no picture in a format that we read."),
        (workspace_key[1], original, "Not seen before"),
    ):
        box = page.find_element(By.ID, "key")
        box.clear()
        box.send_keys(key)
        page.execute_script("document.getElementById('match-result').replaceChildren()")
        drop(page, "image", file)
        assert said in result(page, "match")
    shoot(page, "not-seen")


def test_everything_has_a_name_and_can_be_reached(page: Chrome) -> None:
    """Each field has a label, each tab names its panel, and the tab key reaches the main button."""
    nameless = page.execute_script(
        "return [...document.querySelectorAll('input, button')]"
        ".filter((each) => !each.labels?.length && !each.textContent.trim()).map((each) => each.id)"
    )
    assert nameless == []
    for tab in page.find_elements(By.CSS_SELECTOR, "[role=tab]"):
        panel = page.find_element(By.ID, tab.get_attribute("aria-controls") or "")
        assert panel.get_attribute("aria-labelledby") == tab.get_attribute("id")
    reached = []
    for _ in range(12):
        ActionChains(page).send_keys(Keys.TAB).perform()
        reached.append(page.switch_to.active_element.accessible_name)
    assert "Find" in reached
    assert any(name.startswith("Picture") for name in reached)
