"""Types of values that several sections have. No library is imported: `ftpsd who` must start at once."""

from __future__ import annotations

from typing import NewType

#: What a YAML file, or the record of a user in another source, can hold. Only an explicit tag of YAML (`!!binary`,
#: `!!set`) makes other types, which no setting accepts.
Value = None | bool | int | float | str | list["Value"] | dict[str, "Value"]

#: A number that may be written with the suffix K, M, G or T (powers of 1024).
Quantity = NewType("Quantity", int)

#: Keys of a user, as in `users.yaml`, that stand in another place.
UserValues = NewType("UserValues", dict[str, Value])
