"""A real browser without a screen, for the tests of pages."""

import json
import shutil
from urllib.parse import urlsplit

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--force-device-scale-factor=1",
)


class Browser:
    """A browser window, with the requests and the console messages of its pages.

    Args:
        driver: of selenium.
    """

    def __init__(self, driver):
        self.driver = driver

    def resize(self, width: int, height: int) -> None:
        """Give the page itself this size, in CSS pixels; phones are narrower than a window may be."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def go_offline(self) -> None:
        """Disconnect the network; files on the disk can still be opened."""
        self.driver.execute_cdp_cmd("Network.enable", {})
        conditions = {"offline": True, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        self.driver.execute_cdp_cmd("Network.emulateNetworkConditions", conditions)

    def requests(self) -> list[str]:
        """Return the addresses requested since the last call, without those inside the page (data:, blob:)."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        return [url for url in asked if urlsplit(url).scheme not in ("data", "blob", "chrome", "chrome-untrusted")]

    def complaints(self) -> list[str]:
        """Return the errors and warnings of the console since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]

    def run(self, script: str, *arguments):
        """Run JavaScript in the page and return its result."""
        return self.driver.execute_script(script, *arguments)


@pytest.fixture
def browser(tmp_path):
    """A Browser; the test skips if this machine has none."""
    selenium = pytest.importorskip("selenium", reason="selenium is not installed")
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None or shutil.which("chromedriver") is None:
        pytest.skip("there is no chromium with its chromedriver on this machine")
    assert selenium.__version__ >= "4"
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in (*FLAGS, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    driver.set_page_load_timeout(60)
    try:
        yield Browser(driver)
    finally:
        driver.quit()
