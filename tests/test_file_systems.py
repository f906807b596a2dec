"""What the daemon knows about file systems."""

from __future__ import annotations

import os

import pytest

from ftpsd.system.file_systems import may_have_short_names, type_of

pytestmark = pytest.mark.quick


def test_the_type_of_a_file_system() -> None:
    """Its device number tells the type; nobody knows that of a device which is not mounted."""
    assert type_of(os.stat("/proc").st_dev) == "proc"
    assert type_of(os.makedev(4095, 1)) == ""


def test_a_disk_whose_kind_is_not_known() -> None:
    """If the kernel does not tell the kind of a disk, it may have short names, and no command fails."""
    assert may_have_short_names(-1)
