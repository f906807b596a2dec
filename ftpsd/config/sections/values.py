"""Types of values that several sections have."""

from __future__ import annotations

from typing import NewType

#: A number that may be written with the suffix K, M, G or T (powers of 1024).
Quantity = NewType("Quantity", int)
