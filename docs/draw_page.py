"""Draw docs/page.png: run a daemon and some clients, and show the page in Chromium in the middle of their transfers.

    python docs/draw_page.py

It needs rich, selenium, Chromium and its driver, and the free ports 2121 and 8121. The picture is what this script saw.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from pathlib import Path

from draw_top import CLIENTS, PATIENCE, connect, prepare, running
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from ftpsd.cli.admin_client import AdminClient
from ftpsd.cli.page import login

HERE = Path(__file__).parent
WIDTH = 1200
OPTIONS = f"""
    --headless --no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync
    --no-first-run --lang=en-GB --window-size={WIDTH},1180 --hide-scrollbars
    """.split()

#: Seconds for the history before the picture is taken, and how much more there is to transfer than in top.svg.
HISTORY = 45
LONGER = 10


def main() -> None:
    """Run the daemon and its clients, and write the picture."""
    with tempfile.TemporaryDirectory(prefix="ftpsd") as name:
        directory = Path(name)
        prepare(directory)
        for user, _, _, does, size, _ in CLIENTS:
            if does and does.startswith("RETR /"):
                os.truncate(directory / "homes" / user / does.removeprefix("RETR /"), LONGER * size)
        configuration = (directory / "ftpsd.yaml").read_text()
        page = configuration.replace("socket: admin.sock", "socket: admin.sock, page: {}")
        (directory / "ftpsd.yaml").write_text(page)
        with running(directory) as client:
            draw(client, directory / "profile")


def draw(client: AdminClient, profile: Path) -> None:
    """Start the clients one after the other, and write what the page shows when there is some history."""
    options = webdriver.ChromeOptions()
    for option in (*OPTIONS, f"--user-data-dir={profile}"):
        options.add_argument(option)
    browser = webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))
    browser.set_page_load_timeout(PATIENCE)
    browser.set_script_timeout(PATIENCE)
    try:
        browser.get(login(client)["url"])
        for user, address, program, does, size, rate in CLIENTS:
            arguments = (user, address, program, does, LONGER * size, rate)
            threading.Thread(target=connect, args=arguments, daemon=True).start()
            time.sleep(HISTORY / 2 / len(CLIENTS))
        time.sleep(HISTORY / 2)
        # From the state down to the bans.
        bottom = "document.querySelector('[aria-labelledby=bans-title]').getBoundingClientRect().bottom"
        frame = "window.outerHeight - window.innerHeight"
        browser.set_window_size(WIDTH, browser.execute_script(f"return Math.ceil({bottom} + 16 + {frame})"))
        time.sleep(1)
        browser.save_screenshot(str(HERE / "page.png"))
    finally:
        browser.quit()


if __name__ == "__main__":
    main()
