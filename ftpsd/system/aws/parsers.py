"""Read the objects in the listings of a store: `StoreParser`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from botocore.parsers import RestXMLParser

from ftpsd.system.aws.times import parse_time

#: What is read of an object in a listing, and how.
_FIELDS: Mapping[str, Callable[[str], object]] = {"Key": str, "LastModified": parse_time, "ETag": str, "Size": int}


class _Shape(Protocol):
    """The description of a value in an answer."""

    name: str


class _Element(Iterable["_Element"], Protocol):
    """An element of XML."""

    tag: str
    text: str | None


class StoreParser(RestXMLParser):  # type: ignore[misc]
    """botocore's parser, but for the objects in listings, of which it reads a few fields only.

    For a page of 1,000 objects it takes 4 ms. botocore takes 11 ms, since it looks up the description of each field.
    """

    def _handle_structure(self, shape: _Shape, node: _Element) -> object:
        if shape.name != "Object":
            return super()._handle_structure(shape, node)
        found = dict[str, object]()
        for each in node:
            name = each.tag.rpartition("}")[2]
            read = _FIELDS.get(name)
            if read is not None:
                found[name] = read(each.text or "")
        return found
