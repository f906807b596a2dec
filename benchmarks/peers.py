"""Gets the peers: Debian's packages unpacked below a directory, never installed, and a virtual environment.

Debian's FTP servers conflict with each other, so only one could be installed. What is here already is used again.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path


class Missing(Exception):
    """A server that cannot be had here, with the reason as one line."""


def output(*command: str, cwd: Path | None = None) -> str:
    """Run a command and return what it prints. Raises Missing if it fails."""
    try:
        run = subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True)
    except OSError as error:
        raise Missing(f"{command[0]} cannot be run: {error.strerror}") from None
    except subprocess.CalledProcessError as error:
        lines = [line for line in error.stderr.splitlines() if line.strip()]
        said = f": {lines[-1].strip()}" if lines else ""
        raise Missing(f"{' '.join(command[:3])} failed{said}") from None
    return run.stdout


def _installed(package: str) -> bool:
    query = ["dpkg-query", "-W", "-f", "${Status}", package]
    run = subprocess.run(query, check=False, capture_output=True, text=True)
    return run.stdout.endswith(" installed")


def _libraries(deb: Path) -> Iterator[str]:
    """The shared libraries' packages that a package needs and this machine does not have."""
    for depends in output("dpkg-deb", "-f", str(deb), "Depends").split(","):
        name = re.split(r"[ (:|]", depends.strip(), maxsplit=1)[0]
        if name.startswith("lib") and not name.startswith("libpam-") and not _installed(name):
            yield name


def unpack(packages: tuple[str, ...], directory: Path) -> str:
    """Unpack Debian packages and the libraries that they lack below `directory`/root; the first one's version."""
    done = directory / "version"
    if done.exists():
        return done.read_text()
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    wanted, version = list(packages), ""
    for package in wanted:
        output("apt-get", "download", package, cwd=directory)
        deb = next(directory.glob(f"{package}_*.deb"))
        output("dpkg-deb", "-x", str(deb), str(directory / "root"))
        wanted.extend(name for name in _libraries(deb) if name not in wanted)
        version = version or output("dpkg-deb", "-f", str(deb), "Version").strip()
        deb.unlink()
    done.write_text(version)
    return version


def library_path(directory: Path) -> str:
    """For LD_LIBRARY_PATH: every directory of `directory` that holds a shared library."""
    root = directory / "root"
    return ":".join(sorted({str(file.parent) for file in root.rglob("lib*.so*")}))


def virtual_environment(directory: Path, *requirements: str) -> Path:
    """A Python with `requirements` installed; its path."""
    python = directory / "bin" / "python"
    done = directory / "installed"
    if not done.exists():
        shutil.rmtree(directory, ignore_errors=True)
        output(sys.executable, "-m", "venv", str(directory))
        output(str(python), "-m", "pip", "install", "--quiet", *requirements)
        done.touch()
    return python


def module_versions(python: Path, *distributions: str) -> str:
    """The versions of what is installed for `python`, of those that are."""
    code = (
        "import sys\nfrom importlib.metadata import PackageNotFoundError, version\n"
        "for name in sys.argv[1:]:\n"
        "    try:\n        print(name, version(name))\n"
        "    except PackageNotFoundError:\n        pass\n"
    )
    return ", ".join(output(str(python), "-c", code, *distributions).splitlines())
