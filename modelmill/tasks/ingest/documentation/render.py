# pyright: reportIncompatibleMethodOverride=false
# (pydoc's formatter methods have no common signature)
"""Module names → pydoc pages; runs as a companion process of the site.

A page is a function of the module's source and of the library versions only: addresses, folders of this machine,
values that were computed in this process, and whatever depends on which modules happened to be imported before are left
out. Classes and functions appear at their public home, not again in every module that re-exports them.
"""

import html
import importlib
import inspect
import os
import pydoc
import re
import site
import sys
import tempfile
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import modelmill
from modelmill.tasks.ingest.companion import serve
from modelmill.tasks.ingest.documentation.catalog import is_public, page_urls
from modelmill.tasks.ingest.documentation.written import is_written, is_written_in_class, written_signature

_ADDRESS = re.compile(r"(?:&nbsp;| )at(?:&nbsp;| )0x[0-9a-fA-F]+")
_PLATFORM = re.compile(r"(?<=Alias on this platform) \([^()]*\)")  # numpy writes system and processor there
_LINK = re.compile(r"https?://[\w./#?=%~+-]*[\w/]")
PAGE_SECONDS = 30.0
PATIENT_SECONDS = 120.0  # when asked once more
_MAX_VALUE_CHARACTERS = 200
_MAX_MEGABYTES = 8_000  # address space, not memory: scientific libraries reserve much more than they use
_all_attributes = pydoc.classify_class_attrs  # (name, kind, defining class, value) of each attribute


class DocumentationPage(pydoc.HTMLDoc):
    """pydoc's HTML formatter with links that work on the site and nothing that differs between two runs."""

    def __init__(self, links: dict[str, str]) -> None:
        self.links = links  # module name → URL, for the modules that the site serves
        self._owner: type | None = None  # the class whose attributes are written

    def docmodule(self, object: ModuleType, name: str | None = None, mod: Any = None, *ignored: Any) -> str:
        """Heading, docstring, package contents, classes, functions and constants of one module."""
        title = object.__name__
        summary = self.markup(pydoc.getdoc(object), self.preformat)
        parts = [f'<nav><a href="/">index</a></nav>\n<h1>{title}</h1>']
        parts.append(f'<p><span class="code">{summary}</span></p>')
        submodules = [other for other in self.links if other.rpartition(".")[0] == title]
        if submodules:
            contents = self.multicolumn(submodules, self.modulelink)
            parts.append(self.bigsection("Package Contents", "pkg-content", contents))
        members = [member for member in public_members(object) if has_home_in(member[1], title)]
        for heading, kind in (("Classes", inspect.isclass), ("Functions", inspect.isroutine)):
            chosen = [self.document(value, key, title) for key, value in members if kind(value)]
            if chosen:
                parts.append(self.bigsection(heading, heading.lower(), " ".join(chosen)))
        constants = [
            self.docother(value, key)
            for key, value in public_members(object)
            if is_constant(value) and is_written(object, key, value)
        ]
        if constants:
            parts.append(self.bigsection("Data", "data", "<br>\n".join(constants)))
        return "\n".join(parts)

    def markup(self, text: str, escape: Any = None, *ignored: Any) -> str:
        """Escape a docstring and link the addresses in it.

        pydoc looks up every word as a possible name, which takes three quarters of its time.
        """
        signature, blank, rest = (text or "").partition("\n\n")
        text = html.unescape(signature) + blank + rest  # pydoc hands over a class's signature escaped already
        parts, position = [], 0
        write = escape or self.escape
        for match in _LINK.finditer(text):
            parts.append(write(text[position : match.start()]))
            parts.append(f'<a href="{self.escape(match.group())}">{self.escape(match.group())}</a>')
            position = match.end()
        return "".join([*parts, write(text[position:])])

    def modulelink(self, object: Any) -> str:
        """A link for a module that the site serves, otherwise its name."""
        name = object if isinstance(object, str) else object.__name__
        return f'<a href="{self.links[name]}">{name}</a>' if name in self.links else name

    def classlink(self, object: type, modname: str) -> str:
        """A link to a class on its module's page, otherwise its name."""
        name = pydoc.classname(object, modname)
        home = self.links.get(object.__module__)
        return f'<a href="{home}#{object.__name__}">{name}</a>' if home else name

    def docclass(self, object: type, name: str | None = None, mod: Any = None, *ignored: Any) -> str:
        """A class, with the values of the attributes that its source writes."""
        self._owner = object
        try:
            return super().docclass(object, name, mod)
        finally:
            self._owner = None

    def docother(self, object: Any, name: str | None = None, mod: Any = None, *ignored: Any) -> str:
        """A constant with its value; of anything else only the type, since its repr may differ between runs."""
        is_known = self._owner is None or (name is not None and is_written_in_class(self._owner, name, object))
        value = self.repr(object) if is_constant(object) and is_known else f"a {type(object).__name__}"
        return f"<strong>{name}</strong> = {value}" if name else value


def public_members(module: ModuleType) -> list[tuple[str, Any]]:
    """Sorted (name, value) pairs that `__all__` names, or whose names have no leading underscore."""
    names = getattr(module, "__all__", None)
    if not isinstance(names, list | tuple):
        names = [name for name in vars(module) if not name.startswith("_")]
    found = [(name, member_of(module, name)) for name in sorted(set(map(str, names)))]
    return [(name, value) for name, value in found if value is not None]


def member_of(module: ModuleType, name: str) -> Any:
    """A member, or None: lazy modules import on access, and what they import may be missing."""
    try:
        return getattr(module, name, None)
    except Exception:  # noqa: BLE001 - other people's `__getattr__`
        return None


def has_home_in(value: Any, module: str) -> bool:
    """Whether a class or function is documented in `module`: it is defined there, or in a private module."""
    home = getattr(value, "__module__", None)
    if not isinstance(home, str) or home == module:
        return True
    return not is_public(home) and home.partition(".")[0] in (module.partition(".")[0], "builtins", "_io")


def is_constant(value: Any) -> bool:
    """Whether a value prints the same in every run: a number, truth value or text without a folder in it."""
    if isinstance(value, str):
        return len(value) <= _MAX_VALUE_CHARACTERS and not value.startswith(("/", "~"))
    return type(value) in (bool, int, float, bytes) and len(repr(value)) <= _MAX_VALUE_CHARACTERS


def own_attributes(object: type) -> list[Any]:
    """What a class defines itself, less the interpreter's own entries; pydoc would repeat every base class."""
    return [
        attribute
        for attribute in _all_attributes(object)
        if attribute[2] is object and (attribute[1].endswith("method") or not attribute[0].startswith("__"))
    ]


def documentation_of(object: Any) -> str:
    """An object's own docstring; pydoc would search base classes, and the source for comments, where there is none.

    A value has none: it would show its type's, or one that is made anew from what was imported so far.
    """
    kinds = (inspect.ismodule, inspect.isclass, inspect.isroutine, inspect.isdatadescriptor)
    try:
        is_made_anew = isinstance(inspect.getattr_static(type(object), "__doc__", None), property)
        text = object.__doc__ if any(kind(object) for kind in kinds) and not is_made_anew else None
        return inspect.cleandoc(text).rstrip() if isinstance(text, str) else ""
    except Exception:  # noqa: BLE001 - any library's __doc__ property may raise anything: no docstring then
        return ""


def folders_of_this_machine() -> list[str]:
    """Absolute folders that may show in a page, longest first; such as /usr or /tmp stand in many a text by right."""
    folders = {sys.prefix, sys.base_prefix, tempfile.gettempdir(), str(Path(os.__file__).parent)}
    folders |= {*site.getsitepackages(), site.getusersitepackages(), str(Path(modelmill.__file__).parents[1])}
    return sorted((folder for folder in folders if len(Path(folder).parts) > 3), key=len, reverse=True)


def render(name: str, formatter: DocumentationPage, folders: list[str]) -> str:
    """The page of one module, or an empty string when it cannot be imported or described."""
    try:
        importlib.import_module(name.partition(".")[0])  # so that lazy parts of a package look the same for all
        contents = formatter.docmodule(importlib.import_module(name))
    except (Exception, SystemExit):  # noqa: BLE001 - the worker's boundary: imports of other people's code
        return ""
    for folder in folders:
        contents = contents.replace(folder, "")
    return formatter.page(name, _PLATFORM.sub("", _ADDRESS.sub("", contents)))


def _inspect_by_source() -> ModuleType:
    """A copy of `inspect` for pydoc alone: modules that are imported here may rely on the values of defaults."""
    copy = ModuleType(inspect.__name__)
    vars(copy).update(vars(inspect))
    copy.signature = written_signature  # pyright: ignore[reportAttributeAccessIssue]
    return copy


def prepare() -> None:
    """Make pydoc, in this process, write what `DocumentationPage` builds on."""
    warnings.simplefilter("ignore")
    os.umask(0o077)
    pydoc.inspect = _inspect_by_source()  # pyright: ignore[reportAttributeAccessIssue]
    pydoc.classify_class_attrs = own_attributes  # pyright: ignore[reportAttributeAccessIssue]
    pydoc.getdoc = documentation_of


def main() -> None:
    """Answer module names with their pages (empty: none) until the site closes the pipe."""
    os.chdir(Path.home())  # a folder of its own
    prepare()
    formatter = DocumentationPage(page_urls(tuple(sys.argv[1:])))
    folders = folders_of_this_machine()
    serve(
        lambda name: render(name.decode(), formatter, folders).encode("utf-8", errors="replace"),
        PATIENT_SECONDS,
        _MAX_MEGABYTES,
    )


if __name__ == "__main__":
    main()
