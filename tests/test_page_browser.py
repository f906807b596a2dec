"""The page for administrators in Chromium: what people see and do."""

from __future__ import annotations

import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ftpsd.system.state import FILE
from tests.clients.table import CACHE
from tests.conftest import PLAIN
from tests.daemon import PATIENCE, Daemon, merge
from tests.ftpclient import FtpClient
from tests.page import Browser, page_settings

pytest.importorskip("selenium", reason="selenium is not installed")
from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
AXE = CACHE / "node_modules/axe-core/axe.min.js"

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
    pytest.mark.skipif(DRIVER is None, reason="chromedriver (chromium-driver) is not installed"),
]

#: `--no-sandbox`: tests may run as root. The others keep Chromium from calling its maker.
OPTIONS = """
    --headless --no-sandbox --disable-gpu --disable-dev-shm-usage --disable-background-networking
    --disable-component-update --disable-sync --no-first-run --lang=en-US --window-size=1280,1000
    """.split()  # noqa: SIM905

SIZE = 64 << 20


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, certificate: Path) -> Iterator[Daemon]:
    """A daemon with the page, on which a download of alice takes a minute."""
    top = tmp_path_factory.mktemp("browser")
    settings = merge(PLAIN, page_settings(top, limits={"sessions": 3000, "sessions_per_address": 3000}))
    users = {"alice": {"limits": {"download_rate": "1M"}, "quota": {"bytes": "1G"}}, "bob": {}}
    daemon = Daemon(top, certificate, settings, users).start()
    with (daemon.home() / "large").open("wb") as file:
        file.truncate(SIZE)
    yield daemon
    daemon.stop()


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """Chromium with a profile of its own."""
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for option in (*OPTIONS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    browser.set_page_load_timeout(PATIENCE)
    browser.set_script_timeout(PATIENCE)
    yield browser
    browser.quit()


@pytest.fixture
def page(daemon: Daemon, chromium: webdriver.Chrome) -> Iterator[webdriver.Chrome]:
    """The page after a login; whatever the test does, Chromium complains of nothing."""
    chromium.get("about:blank")
    chromium.get_log("browser")  # of the last test
    chromium.get(Browser(daemon).link())
    until(lambda: text(chromium, "#connection") == "live")
    yield chromium
    complaints = [line for line in chromium.get_log("browser") if line["level"] in ("SEVERE", "WARNING")]
    assert not [line for line in complaints if "/live" not in line["message"]], complaints


def until(condition: Callable[[], object]) -> None:
    """Waits until a condition holds; a page that changes meanwhile is no error."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            if condition():
                return
        except WebDriverException:
            pass
        assert time.monotonic() < deadline
        time.sleep(0.05)


def one(page: webdriver.Chrome, selector: str) -> Any:
    """The first element that a CSS selector finds."""
    return page.find_element(By.CSS_SELECTOR, selector)


def text(page: webdriver.Chrome, selector: str) -> str:
    """The text of the first element that a CSS selector finds."""
    return str(one(page, selector).text)


def shown(page: webdriver.Chrome, table: str) -> list[str]:
    """The rows of a table."""
    found: list[str] = page.execute_script(
        "return Array.from(document.querySelectorAll(`#${arguments[0]} tbody tr`), (row) => row.innerText)", table
    )
    return found


class Download:
    """A download of alice that runs, in a thread."""

    def __init__(self, daemon: Daemon) -> None:
        self.client = FtpClient(daemon).login()
        self.data = self.client.connect_data()
        self.client.expect(150, "RETR large")
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            while self.data.recv(1 << 20):
                pass
        except OSError:
            pass

    def __enter__(self) -> Download:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.socket.close()
        self.data.close()
        self._thread.join(PATIENCE)


def test_the_link_logs_in_once(daemon: Daemon, chromium: webdriver.Chrome) -> None:
    """The link shows the page and leaves the address; the same link in a browser without a login shows the form."""
    chromium.get("about:blank")
    link = Browser(daemon).link()
    chromium.get(link)
    until(lambda: text(chromium, "#connection") == "live")
    assert "login=" not in chromium.current_url
    chromium.get("about:blank")
    chromium.get(link.partition("#")[0])
    until(lambda: text(chromium, "#connection") == "live")  # the cookie is enough
    one(chromium, "#logout").click()
    until(lambda: one(chromium, "#login").is_displayed())
    chromium.get("about:blank")
    chromium.get(link)
    until(lambda: "was used before" in text(chromium, "#login-error"))
    assert not one(chromium, "#content").is_displayed()
    one(chromium, "#code").send_keys(Browser(daemon).link(), Keys.ENTER)
    until(lambda: one(chromium, "#content").is_displayed())


def test_a_transfer_moves_and_a_kick_ends_it(daemon: Daemon, page: webdriver.Chrome) -> None:
    """The bar of a running download moves; Kick asks first, and then ends the session and its transfer."""
    with Download(daemon) as download:
        until(lambda: any("/large" in row for row in shown(page, "sessions")))

        def share() -> float:
            return float(one(page, "#sessions progress").get_property("value"))

        until(lambda: one(page, "#sessions progress").is_displayed())
        first = share()
        until(lambda: share() > first)
        assert 0 < share() < 1
        assert "MiB/s" in shown(page, "sessions")[0] or "KiB/s" in shown(page, "sessions")[0]
        kick = one(page, "#sessions button.danger")
        assert "Kick session" in kick.get_attribute("aria-label")
        kick.click()
        until(lambda: one(page, "#confirm").is_displayed())
        one(page, "#confirm").send_keys(Keys.ESCAPE)
        until(lambda: not one(page, "#confirm").is_displayed())
        assert page.switch_to.active_element == kick  # the focus is back
        kick.click()
        one(page, "#confirm input[name=message]").send_keys("Call us.")
        one(page, "#confirm input[name=now]").click()
        one(page, "#confirm-yes").click()
        replies = [download.client.reply()]
        while not replies[-1].startswith("421"):
            replies.append(download.client.reply())
        assert "Call us." in replies[-1]
        until(lambda: shown(page, "sessions") == ["No sessions."])
        until(lambda: any("download failed" in row for row in shown(page, "events")))


def test_bans_are_made_and_lifted(daemon: Daemon, page: webdriver.Chrome) -> None:
    """The form bans, the table shows it, and Lift lifts it; the page says what is wrong with an address."""
    one(page, "#ban input[name=subject]").send_keys("203.0.113.0/24", Keys.ENTER)
    until(lambda: one(page, "#confirm").is_displayed())
    one(page, "#confirm-yes").click()
    until(lambda: any("203.0.113.0/24" in row for row in shown(page, "bans")))
    assert "is banned" in text(page, "#message")
    one(page, "#bans button").click()
    until(lambda: shown(page, "bans") == ["No bans."])
    one(page, "#ban input[name=subject]").send_keys("nonsense", Keys.ENTER)
    one(page, "#confirm-yes").click()
    until(lambda: "no address or network" in text(page, "#message"))
    page.get_log("browser")  # Chromium logs the 400


def test_a_ban_that_is_not_stored(
    make_daemon: Callable[..., Daemon], chromium: webdriver.Chrome, tmp_path: Path
) -> None:
    """The page says so if a restart would undo a ban, since the state file cannot be written."""
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / FILE).mkdir()
    with tempfile.TemporaryDirectory(prefix="ftpsd-") as short:
        settings = page_settings(Path(short), state={"directory": str(tmp_path / "state")})
        chromium.get(Browser(make_daemon(settings)).link())
        until(lambda: text(chromium, "#connection") == "live")
        one(chromium, "#ban input[name=subject]").send_keys("203.0.113.0/24", Keys.ENTER)
        until(lambda: one(chromium, "#confirm").is_displayed())
        one(chromium, "#confirm-yes").click()
        until(lambda: "The state file cannot be read or written" in text(chromium, "#message"))
        chromium.get("about:blank")


def test_the_page_shows_users_and_failures(daemon: Daemon, page: webdriver.Chrome) -> None:
    """Users have a bar for their quota; failed logins are among the failures; the filter narrows the sessions."""
    with FtpClient(daemon).login("alice"):
        pass  # her home is counted
    until(lambda: any("of 1.0 GiB" in row for row in shown(page, "users")))
    with FtpClient(daemon) as stranger:
        stranger.expect(331, "USER alice")
        stranger.expect(530, "PASS wrong")
    one(page, "#only-failures").click()
    until(lambda: "login failed" in shown(page, "events")[0])
    one(page, "#only-failures").click()
    with FtpClient(daemon).login("bob"), FtpClient(daemon).login("alice"):
        until(lambda: len(shown(page, "sessions")) == 2)
        one(page, "#filter input[name=user]").send_keys("bob")
        until(lambda: len(shown(page, "sessions")) == 1 and "bob" in shown(page, "sessions")[0])
        one(page, "#filter input[name=user]").clear()


def test_health_shows_what_is_wrong(page: webdriver.Chrome) -> None:
    """What the checks of the doctor find stands under Health, with its cure."""
    until(lambda: "signed by itself" in text(page, "#findings"))
    found = text(page, "#findings li")
    assert found.startswith("note: ") and "certificate.self_signed" in found
    assert text(page, "#findings-none") == ""


@pytest.mark.parametrize(("theme", "width"), [("light", 1280), ("dark", 390)])
def test_everybody_can_use_it(daemon: Daemon, page: webdriver.Chrome, theme: str, width: int) -> None:
    """axe-core finds nothing serious, in both themes and as wide as a phone, and nothing is cut off at the right."""
    if not AXE.exists():
        pytest.skip("axe-core is not installed")
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": theme}]})
    size = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": width < 500}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        with Download(daemon):
            until(lambda: any("/large" in row for row in shown(page, "sessions")))
            page.execute_script(AXE.read_text())
            found = page.execute_async_script("axe.run().then(arguments[arguments.length - 1])")
            problems = [(each["id"], each["nodes"][0]["html"]) for each in found["violations"]]
            assert not problems
            assert page.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_it_stays_fluid_with_many_sessions(daemon: Daemon, page: webdriver.Chrome) -> None:
    """With 2,000 sessions, of which 1,000 are shown, the page answers to a key within a second."""
    sockets = []
    try:
        for _ in range(2000):
            sockets.append(socket.create_connection((daemon.host, daemon.port), PATIENCE))
        page.execute_script("document.querySelector('#filter select[name=limit]').value = '1000'")
        page.execute_script("document.querySelector('#filter').dispatchEvent(new Event('input'))")
        until(lambda: len(shown(page, "sessions")) == 1000)
        until(lambda: "2,000 sessions" in text(page, "#sessions-count"))
        page.execute_script(
            "window.longest = 0; new PerformanceObserver((list) => list.getEntries().forEach((each) =>"
            " { window.longest = Math.max(window.longest, each.duration); })).observe({ type: 'longtask' })"
        )
        time.sleep(3)
        assert page.execute_script("return window.longest") < 1000
    finally:
        for each in sockets:
            each.close()
        page.execute_script("document.querySelector('#filter select[name=limit]').value = '200'")


def test_names_of_clients_are_text(daemon: Daemon, page: webdriver.Chrome) -> None:
    """A name that looks like HTML is shown as it is, in sessions and in events: it makes no element and runs nothing."""
    name = "<img src=x onerror=document.title='owned'><b>bold"
    with FtpClient(daemon).login("bob") as client:
        data = client.connect_data()
        client.expect(150, f"STOR {name}")
        data.sendall(b"x")
        until(lambda: any(name in row for row in shown(page, "sessions")))
        data.close()
        client.reply()
    until(lambda: any(name in row for row in shown(page, "events")))
    assert page.execute_script("return document.querySelectorAll('td img, td b').length") == 0
    assert page.title != "owned"


def test_the_keyboard_is_enough(daemon: Daemon, page: webdriver.Chrome) -> None:
    """A session is ended with Tab, Enter and Space alone; the element with the focus is outlined."""
    with FtpClient(daemon).login("bob") as client:
        until(lambda: any("bob" in row for row in shown(page, "sessions")))

        def press(*keys: str) -> None:
            webdriver.ActionChains(page).send_keys(*keys).perform()

        def tab_to(label: str) -> None:
            for _ in range(100):
                press(Keys.TAB)
                focused = page.switch_to.active_element
                if label in (focused.get_attribute("aria-label") or focused.get_attribute("name") or focused.text):
                    return
            raise AssertionError(f"Tab does not reach {label}")

        tab_to("Kick session")
        outline = page.execute_script("return getComputedStyle(document.activeElement).outlineStyle")
        assert outline not in ("", "none")
        press(Keys.ENTER)
        until(lambda: one(page, "#confirm").is_displayed())
        tab_to("now")
        press(Keys.SPACE)
        assert one(page, "#confirm input[name=now]").is_selected()
        tab_to("Kick")
        press(Keys.ENTER)
        assert client.reply().startswith("421")
        until(lambda: shown(page, "sessions") == ["No sessions."])


@pytest.mark.parametrize("workers", [1, 3])
def test_a_restart_asks_for_a_login(
    make_daemon: Callable[..., Daemon], chromium: webdriver.Chrome, workers: int
) -> None:
    """The page says that the daemon has gone, and shows the login when it is back; with workers it shows all sessions."""
    with tempfile.TemporaryDirectory(prefix="ftpsd-") as short:
        daemon = make_daemon(merge(PLAIN, page_settings(Path(short), workers=workers)))
        chromium.get(Browser(daemon).link())
        until(lambda: text(chromium, "#connection") == "live")
        clients = [FtpClient(daemon).login(user) for user in ("alice", "bob", "alice", "bob")]
        until(lambda: len(shown(chromium, "sessions")) == 4)
        one(chromium, "#sessions button.danger").click()
        one(chromium, "#confirm input[name=now]").click()
        one(chromium, "#confirm-yes").click()
        until(lambda: len(shown(chromium, "sessions")) == 3)
        for client in clients:
            client.socket.close()
        daemon.stop()
        until(lambda: text(chromium, "#connection") == "not connected")
        daemon.start()
        until(lambda: one(chromium, "#login").is_displayed())
        one(chromium, "#code").send_keys(Browser(daemon).link(), Keys.ENTER)
        until(lambda: text(chromium, "#connection") == "live")
        chromium.get("about:blank")
