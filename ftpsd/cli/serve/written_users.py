"""The users that a container has written, of all users in `users.d`: WrittenUsers."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import yaml

from ftpsd.cli.user.files import UserDirectory

#: The first line of each file that a container writes. `ftpsd user` keeps no comments: the line may be missing later.
HEADER = b"# Written when the container starts, from its environment: changes are lost.\n"

#: The file with the names, without its suffix. The daemon ignores names with a dot in front.
_LIST = ".container"

_EXPLANATION = (
    "# The users that were written when the container started. It removes them when the environment drops them.\n"
)


class WrittenUsers:
    """The users that earlier starts have written: their names, and their files as they are now.

    The names are in a file of their own, which is replaced as a whole.
    """

    def __init__(self, directory: UserDirectory) -> None:
        self._directory = directory
        #: Also users whose files were removed since.
        self.names: Collection[str] = self._listed() | self._marked()
        self.files: Mapping[str, bytes] = {
            name: data for name in self.names if (data := directory.read(name)) is not None
        }

    def replace(self, files: Mapping[str, bytes]) -> list[str]:
        """Write these files, and remove all others that were written before. Return the names of those."""
        directory = self._directory
        with directory.locked():
            self._list({*self.names, *files})  # before the files: a start that is killed leaves none that is not listed
            removed = sorted(name for name in self.files if name not in files and directory.read(name) is not None)
            for name in removed:
                directory.remove(name)
            for name, data in files.items():
                directory.write(name, data)
            self._list(files.keys())
        return removed

    def _list(self, names: Collection[str]) -> None:
        self._directory.write(_LIST, (_EXPLANATION + yaml.safe_dump(sorted(names), allow_unicode=True)).encode())

    def _listed(self) -> set[str]:
        data = self._directory.read(_LIST)
        try:
            found = yaml.safe_load(data or b"[]")
        except (yaml.YAMLError, UnicodeError):
            return set()
        return {each for each in found if isinstance(each, str)} if isinstance(found, list) else set()

    def _marked(self) -> set[str]:
        """Return the users whose files begin with HEADER: a release without the list has written them."""
        try:
            paths = [each for each in self._directory.path.glob("*.yaml") if not each.name.startswith(".")]
            return {each.stem for each in paths if each.read_bytes().startswith(HEADER)}
        except OSError:
            return set()  # the daemon says what is wrong
