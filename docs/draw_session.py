"""Draw docs/session.svg: run `ftpsd demo`, fetch a file with curl, and show what both print.

    python docs/draw_session.py

It needs curl and a free port 2121. The picture in the README is what this script saw.
"""

from __future__ import annotations

import html
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

HERE = Path(__file__).parent
#: Seconds for the whole session.
PATIENCE = 60
WIDTH, LINE, MARGIN = 860, 17, 16
COLOURS = {"$": "#79c0ff", "<": "#7ee787", ">": "#d2a8ff", "#": "#8b949e"}


def main() -> None:
    """Run the session and write the picture."""
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, "-c", "from ftpsd.cli.main import main; main()", "demo", "--directory", directory]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as demo:
            limit = threading.Timer(PATIENCE, demo.kill)  # ends each wait for its output
            limit.start()
            try:
                lines = session(demo, directory)
            finally:
                demo.terminate()
                demo.wait(PATIENCE)
                limit.cancel()
    (HERE / "session.svg").write_text(svg(lines))


def session(demo: subprocess.Popen[str], directory: str) -> list[str]:
    """Return the lines of both programs, without the password and without times."""
    assert demo.stdout is not None
    printed: list[str] = []
    while not any("listening on" in line for line in printed):
        printed.append(demo.stdout.readline())
        assert printed[-1], "".join(printed)
    password = re.findall(r"password\s+(\S+)", "".join(printed))[0]
    trust = ["--ssl-reqd", "--cacert", f"{directory}/certificate.pem", "-u", f"demo:{password}"]
    words = ["curl", "-sSv", *trust, "ftp://127.0.0.1:2121/welcome.txt"]
    heard = subprocess.run(words, capture_output=True, text=True, timeout=30, check=True)
    time.sleep(0.5)
    demo.terminate()
    logged = [line.split("] ", 1)[1].rstrip() for line in demo.stdout if "[ftpsd]" in line and " RETR " in line]
    wire = [line for line in heard.stderr.splitlines() if line[:1] in "<>" and not line.startswith("> PASS")]
    return [
        "$ ftpsd demo &",
        "$ curl -v --ssl-reqd --cacert ftpsd-demo/certificate.pem -u demo:… ftp://127.0.0.1:2121/welcome.txt",
        *wire,
        *heard.stdout.splitlines(),
        "# the log of the daemon",
        *logged,
    ]


def svg(lines: list[str]) -> str:
    """Return a picture of a terminal with these lines."""
    height = 2 * MARGIN + LINE * len(lines)
    rows = "\n".join(
        f'<text x="{MARGIN}" y="{MARGIN + LINE * (row + 1) - 5}" fill="{COLOURS.get(line[:1], "#e6edf3")}">'
        f"{html.escape(line)}</text>"
        for row, line in enumerate(lines)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        'font-family="monospace" font-size="13" xml:space="preserve">\n'
        f'<rect width="{WIDTH}" height="{height}" rx="8" fill="#0d1117"/>\n{rows}\n</svg>\n'
    )


if __name__ == "__main__":
    main()
