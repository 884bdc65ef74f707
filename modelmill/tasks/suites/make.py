"""Facts of the running Python's standard library → the shipped suite `python-library` (JSON lines and its header).

Every item is a fact that introspection proves (which module has this function, which class has this method, what an
exception derives from, which parameter a function takes) asked with four choices of which exactly one holds. Run as
`python -m modelmill.tasks.suites.make`; the same Python release writes the same bytes.
"""

import builtins
import collections
import importlib
import inspect
import json
import platform
import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from modelmill.tasks.files import atomic_path, write_json
from modelmill.tasks.suites.reader import DATA

NAME = "python-library"
SEED = 20260101
# Modules with a documented interface that importing does not change and that no supported release removes.
MODULES = """abc argparse array ast asyncio base64 bisect bz2 calendar cmath codecs collections concurrent.futures
configparser contextlib copy csv ctypes dataclasses datetime decimal difflib dis doctest email.message email.utils enum
fnmatch fractions ftplib functools gc getpass gettext glob graphlib gzip hashlib heapq hmac html http.client http.server
importlib.metadata inspect io ipaddress itertools json linecache locale logging lzma mailbox marshal math mimetypes
multiprocessing numbers operator os os.path pathlib pdb pickle pkgutil platform plistlib pprint profile queue random re
sched secrets select selectors shelve shlex shutil signal smtplib socket socketserver sqlite3 ssl stat statistics string
struct subprocess symtable sys sysconfig tarfile tempfile textwrap threading time timeit token tokenize tomllib trace
traceback tracemalloc types typing unicodedata unittest unittest.mock urllib.parse urllib.request uuid warnings wave
weakref webbrowser xml.dom.minidom xml.etree.ElementTree zipfile zlib"""
TYPES = """builtins.str builtins.bytes builtins.list builtins.dict builtins.set builtins.int builtins.float
collections.deque collections.Counter collections.OrderedDict datetime.datetime datetime.timedelta decimal.Decimal
fractions.Fraction pathlib.Path threading.Thread threading.Condition queue.Queue logging.Logger sqlite3.Cursor
csv.DictWriter zipfile.ZipFile tarfile.TarFile socket.socket subprocess.Popen argparse.ArgumentParser
configparser.ConfigParser inspect.Signature asyncio.Task random.Random string.Formatter re.Pattern re.Match"""
# How many items of each family are kept.
COUNTS = {
    "module-of-function": 90,
    "module-of-class": 50,
    "method-of-type": 60,
    "base-of-exception": 35,
    "parameter": 55,
}

Item = tuple[str, str, list[str]]  # question, right choice, wrong choices


def main() -> None:
    """Write the items and their header into the package's data folder."""
    items = list(suite_items())
    with atomic_path(DATA / f"{NAME}.jsonl") as temporary:
        temporary.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    header = {
        "name": NAME,
        "kind": "multiple_choice",
        "items": len(items),
        "families": dict(collections.Counter(item["family"] for item in items)),
        "licence": "Apache-2.0 (questions written for Modelmill; the facts are names in Python's standard library)",
        "how_made": f"python -m modelmill.tasks.suites.make, seed {SEED}, on Python {platform.python_version()}: "
        "each item is read from the running library by introspection, and its three wrong choices are checked.",
        "chance": 0.25,
    }
    write_json(DATA / f"{NAME}.json", header)


def suite_items() -> Iterator[dict[str, Any]]:
    """Items of every family, the right choice at a place drawn for each item."""
    families: dict[str, Callable[[random.Random], Iterable[Item]]] = {
        "module-of-function": lambda draw: module_items(draw, "function", inspect.isroutine),
        "module-of-class": lambda draw: module_items(draw, "class", inspect.isclass),
        "method-of-type": method_items,
        "base-of-exception": exception_items,
        "parameter": parameter_items,
    }
    for family, make in families.items():
        draw = random.Random(f"{SEED} {family}")
        candidates = list(make(draw))
        kept = sorted(draw.sample(range(len(candidates)), COUNTS[family]))
        for number, (question, right, wrong) in enumerate(candidates[index] for index in kept):
            choices = [*draw.sample(sorted(wrong), 3), right]
            draw.shuffle(choices)
            yield {
                "id": f"{family}-{number:03d}",
                "family": family,
                "question": question,
                "choices": choices,
                "answer": choices.index(right),
            }


def module_items(draw: random.Random, noun: str, wanted: Callable[[Any], bool]) -> Iterator[Item]:
    """Which module provides this function or class? Names of several modules, or that tell the module, are out."""
    modules = {name: importlib.import_module(name) for name in MODULES.split()}
    for name, module in modules.items():
        own = [attribute for attribute in public_names(module) if wanted(getattr(module, attribute))]
        for attribute in sorted(draw.sample(own, min(3, len(own)))):
            others = [other for other, candidate in modules.items() if not hasattr(candidate, attribute)]
            told = attribute.lower() in name.lower() or name.split(".")[-1].lower() in attribute.lower()
            if len(others) == len(modules) - 1 and not told:
                yield f"Which module of Python's standard library provides the {noun} {attribute}?", name, others


def public_names(module: Any) -> list[str]:
    """Public attributes that the module itself defines, sorted."""
    names = getattr(module, "__all__", None) or [name for name in vars(module) if not name.startswith("_")]
    return sorted(name for name in names if getattr(getattr(module, name, None), "__module__", None) == module.__name__)


def method_items(draw: random.Random) -> Iterator[Item]:
    """Which of these is a method of this type? Wrong choices are methods of other types that this one lacks."""
    types = {
        path: getattr(importlib.import_module(path.rpartition(".")[0]), path.rpartition(".")[2])
        for path in TYPES.split()
    }
    methods = {path: own_methods(type) for path, type in types.items()}
    every = sorted(set().union(*methods.values()))
    for path, own in methods.items():
        for method in sorted(draw.sample(own, min(3, len(own)))):
            wrong = [name for name in every if not hasattr(types[path], name)]
            yield f"Which of these is a method of the Python class {path.removeprefix('builtins.')}?", method, wrong


def own_methods(type: Any) -> list[str]:
    """Public methods in the type's own dictionary, sorted."""
    return sorted(name for name, value in vars(type).items() if not name.startswith("_") and inspect.isroutine(value))


def exception_items(draw: random.Random) -> Iterator[Item]:
    """Which class does this built-in exception derive from directly? Wrong choices are no ancestors of it."""
    exceptions = [
        value
        for name, value in sorted(vars(builtins).items())
        if inspect.isclass(value) and issubclass(value, BaseException) and value.__name__ == name
    ]
    exceptions.remove(BaseException)
    bases = sorted({exception.__bases__[0] for exception in exceptions}, key=lambda base: base.__name__)
    for exception in exceptions:
        wrong = [base.__name__ for base in bases if not issubclass(exception, base) and base is not exception]
        question = f"Which class is the direct base class of Python's built-in exception {exception.__name__}?"
        yield question, exception.__bases__[0].__name__, wrong


def parameter_items(draw: random.Random) -> Iterator[Item]:
    """Which parameter does this function accept? Wrong choices are parameters of other functions."""
    parameters = dict(function_parameters())
    every = sorted({name for names in parameters.values() for name in names})
    for path in sorted(draw.sample(sorted(parameters), 160)):
        right = draw.choice(parameters[path])
        wrong = [name for name in every if name not in parameters[path]]
        yield f"Which of these is the name of a parameter of the Python function {path}?", right, wrong


def function_parameters() -> Iterator[tuple[str, list[str]]]:
    """Named parameters of every public function written in Python that takes no `**` keywords."""
    for name in MODULES.split():
        module = importlib.import_module(name)
        for attribute in public_names(module):
            value = getattr(module, attribute)
            if not inspect.isfunction(value):
                continue
            signature = inspect.signature(value).parameters.values()
            names = [each.name for each in signature if each.kind is not each.VAR_POSITIONAL and len(each.name) > 2]
            names = [each for each in names if each != "self"]
            if names and not any(each.kind is each.VAR_KEYWORD for each in signature):
                yield f"{name}.{attribute}", sorted(names)


if __name__ == "__main__":
    main()
