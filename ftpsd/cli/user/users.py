"""The users of a configuration, for changes: Users."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from attrs import define, field

from ftpsd.cli.failure import CommandFailed, WrongUsage
from ftpsd.cli.sql.tables import Table, has_tables, tables_of
from ftpsd.cli.user.files import UserDirectory
from ftpsd.cli.user.known import knows
from ftpsd.cli.user.reloading import Reload
from ftpsd.cli.user.values import Values, parse
from ftpsd.config import load
from ftpsd.config.convert import structure
from ftpsd.config.disk_watch import DiskWatch
from ftpsd.config.faults import InvalidConfiguration
from ftpsd.config.load import Configuration
from ftpsd.config.sections.storage import StoreHome
from ftpsd.config.sections.values import Value
from ftpsd.config.settings import UsersSettings
from ftpsd.config.users.checks import Place
from ftpsd.config.users.directory import UserFiles
from ftpsd.config.users.folders import FolderFinder, templates
from ftpsd.config.users.homes import HomeFinder, absolute, home_of
from ftpsd.config.users.layers import Layers, Sections, load_layers
from ftpsd.config.users.names import SUFFIX, folded, problem
from ftpsd.config.users.origins import Layer, Origin
from ftpsd.config.yaml import Document, read


@define
class Users:
    """The users of a configuration. Methods raise CommandFailed."""

    configuration: str
    directory: UserDirectory
    #: users.yaml, the administrator's own file.
    own: Document
    settings: UsersSettings
    #: Lines to print when the change is made.
    notes: list[str] = field(factory=list)
    #: Whether the daemon must be restarted before it can load the change.
    restart_first: bool = False
    #: The result of the reload; None before it.
    reload: Reload | None = None
    #: The whole configuration, once it was needed.
    loaded: Configuration | None = None
    #: The table that was changed; None for a file.
    changed: Table | None = None

    def require_new(self, name: str) -> None:
        """Fail if a user has this name, or one that differs only in case."""
        check_name(name)
        if self.directory.read(name) is not None:
            raise CommandFailed(f"there is a user {name} already: {self.directory.file(name)}")
        own = self._section("users")
        if name in own:
            raise CommandFailed(f"there is a user {name} already: {_line(self.own, name)}")
        others = [*own, *self._names()]
        for table in self.tables:
            names = table.names()
            if name in names:
                raise CommandFailed(f"there is a user {name} already: {table.place}")
            others += names
        near = next((each for each in others if folded(each) == folded(name)), None)
        if near is not None:
            raise CommandFailed(f"there is a user {near}, whose name differs only in case: choose another name")

    @property
    def tables(self) -> Sequence[Table]:
        """The tables in databases that have users, too."""
        return tables_of(_loaded(self)) if has_tables(self.configuration) else ()

    def find_table(self, name: str) -> Table | None:
        """Return the table that has a user; None if it is a file. Sources are asked in the order of a login.

        Fail if there is no user of this name, or if the user is of a source that has no tables of ftpsd.
        """
        is_file = name in self._section("users") or (not problem(name) and self.directory.read(name) is not None)
        if self.settings.sources[: self.settings.yaml_place if is_file else None]:
            table = _find_table(self, name, is_file)
            if table is not None:
                return table
        self.require_file(name)
        return None

    def require_file(self, name: str) -> bytes:
        """Return the content of a user's file; fail if there is none."""
        if name not in self._section("users"):
            check_name(name)
        data = None if problem(name) else self.directory.read(name)
        if data is not None:
            return data
        if name in self._section("users"):
            raise CommandFailed(f"{name} is in {_line(self.own, name)}: that file is yours, change it there")
        raise CommandFailed(f"there is no user {name}")

    def values(self, name: str, data: bytes) -> Values:
        """Return the keys in the content of a user's file."""
        return parse(self.directory.file(name), data)

    def home(self, name: str, values: Mapping[str, Value]) -> str | None:
        """Return the path of a user's home; None if neither the user, nor a group, nor the defaults have one.

        Fail if the user has a group that does not exist.
        """
        common, place = self._common(), Place(Document(Path()), ())
        common.check_groups(place, values)
        for fault in place.document.faults:
            raise CommandFailed(f"{fault.problem}. {fault.remedy}")
        found = common.get(values, "home")
        if isinstance(found, dict):
            found = _place(found)
        return home_of(found, name, self.own.path.parent) if isinstance(found, str) and found else None

    def own_folders(self, name: str, values: Mapping[str, Value]) -> list[str]:
        """Return the directories of folders whose path has {user}, with the name of a user."""
        merged = self._common(self._section("folders")).merge(name, values)
        return [
            absolute(each.replace("{user}", name), self.own.path.parent)
            for each in templates(merged.get("folders"), local=True)
        ]

    def place(self, name: str) -> str:
        """Return the file that a user is in, or the table that was changed."""
        if self.changed is not None:
            return self.changed.place
        return str(self.own.path if name in self._section("users") else self.directory.file(name))

    def layers(self, name: str, groups: Iterable[str]) -> list[Layer]:
        """Return the layers of the settings of a user who has some groups: the defaults, the groups, the user."""
        defaults = Layer("defaults", self._section("defaults"), self.own, ("defaults",))
        return [defaults, *map(self._group, groups), self._user(name)]

    def common_folders(self) -> list[Origin]:
        """Return where the folders stand that are not those of users or groups; nothing if there are none."""
        return [Origin("folders", str(self.own.path), self.own.line(("folders",)))] if self._section("folders") else []

    def _group(self, name: str) -> Layer:
        label, own = f"group {name}", self._section("groups")
        if name in own:
            return Layer(label, _mapping(own[name]), self.own, ("groups", name))
        document = read(self.settings.group_files / f"{name}{SUFFIX}")
        return Layer(label, _mapping(document.value), document)

    def _user(self, name: str) -> Layer:
        own = self._section("users")
        if name in own:
            return Layer("user", _mapping(own[name]), self.own, ("users", name))
        document = read(self.directory.file(name))
        return Layer("user", _mapping(document.value), document)

    def _common(self, common_folders: Value = None) -> Layers:
        """Return the defaults and the groups, and folders; what has faults in them is left out."""
        document = Document(self.own.path, self.own.value, data=self.own.data)
        files = UserFiles(self.settings.group_files, DiskWatch(), kind="group")
        sections = Sections(self._section("defaults"), self._section("groups"), {}, common_folders)
        folders = FolderFinder(self.own.path.parent, HomeFinder(DiskWatch()))
        return load_layers(document, sections, files, True, folders)[0]

    def _names(self) -> list[str]:
        try:
            return [path.name.removesuffix(SUFFIX) for path in self.directory.path.glob(f"*{SUFFIX}")]
        except OSError:
            return []

    def _section(self, name: str) -> dict[str, Value]:
        top = self.own.value
        return _mapping(top.get(name) if isinstance(top, dict) else None)


def open_users(configuration: str) -> Users:
    """Return the users of a configuration. Raises CommandFailed if it cannot be read."""
    try:
        settings = load.load_settings(configuration).users
    except InvalidConfiguration as error:
        raise CommandFailed(str(error)) from None
    return Users(configuration, UserDirectory(settings), read(settings.file), settings)


def _loaded(users: Users) -> Configuration:
    if users.loaded is None:
        try:
            users.loaded = load.load(users.configuration)
        except InvalidConfiguration as error:
            raise CommandFailed(str(error)) from None
    return users.loaded


def _find_table(users: Users, name: str, is_file: bool) -> Table | None:
    """Return the table whose user would log in; None if no source has the user, or none that comes before a file."""
    tables = {each.name: each for each in users.tables}
    for source in _loaded(users).sources[: users.settings.yaml_place if is_file else None]:
        if source.name in tables:
            if tables[source.name].values(name) is not None:
                return tables[source.name]
            continue
        known = knows(source, name)
        if known:
            raise CommandFailed(f"{name} is a user of {source.name}, which a login asks first: change the user there")
        note = f"{source.name}, which a login asks first, does not tell whether it has a user {name}."
        if known is None and note not in users.notes:
            users.notes.append(note)
    return None


def _place(home: dict[str, Value]) -> str | None:
    """Return a home in a store as a place; None if it has a fault."""
    found = structure(Document(Path(), lines={(): 0}), home, StoreHome)
    return None if found is None else found.place


def _mapping(value: Value) -> dict[str, Value]:
    return value if isinstance(value, dict) else {}


def check_name(name: str) -> None:
    """Raise WrongUsage if a name cannot be that of a user with a file."""
    wrong = problem(name)
    if wrong is not None:
        raise WrongUsage(f"the name {wrong}")


def _line(document: Document, name: str) -> str:
    return f"{document.path}:{document.line(('users', name))}"
