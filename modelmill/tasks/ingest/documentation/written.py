"""Modules that are imported → which of their defaults and constants are written in their source, and how.

A value that was computed at import may hold anything of the process: its environment, folders, number of cores, the
time. What the source says is the same everywhere, so a page shows that: a literal as it is, an expression unevaluated.
"""

import ast
import enum
import functools
import importlib.util
import inspect
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

_MAX_EXPRESSION = 100  # characters
_MAX_IMPORTS = 8  # from one module to the next, on the way to where a name is written
_MAX_ITEMS = 8
_OF_THE_PROCESS = ("sys", "time")  # compiled modules whose numbers are settings of the process and its time zone
_NUMBERS = (bool, int, float, complex)


@dataclass(frozen=True)
class Source:
    """What a file says: defaults of functions by their first line, literals by name, and where other names are from."""

    functions: dict[int, ast.arguments] = field(default_factory=dict)
    assigned: set[str] = field(default_factory=set)
    literals: set[str] = field(default_factory=set)
    """Module constants, and attributes of classes as `Class.name`."""
    imported: dict[str, tuple[str, str]] = field(default_factory=dict)
    stars: list[str] = field(default_factory=list)


class Expression:
    """Stands for a default; prints as the source writes it."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def written_signature(object: Callable[..., Any], **options: Any) -> inspect.Signature:
    """The signature of a callable with the defaults that its source writes. Raises as `inspect.signature`."""
    signature = inspect.signature(object, **options)
    functions = list(_functions_of(object))
    parameters = [
        parameter
        if parameter.default is parameter.empty
        else parameter.replace(default=_written_default(parameter, functions))
        for parameter in signature.parameters.values()
    ]
    return signature.replace(parameters=parameters)


def is_written(module: ModuleType, name: str, value: Any, depth: int = 0) -> bool:
    """Whether a module's constant is a literal of its source, or a number of compiled code."""
    source = source_of(getattr(module, "__file__", None))
    if source is None:
        return isinstance(value, _NUMBERS) and module.__name__ not in _OF_THE_PROCESS
    if name in source.assigned:
        return name in source.literals
    if depth == _MAX_IMPORTS:
        return False
    if name in source.imported:
        origin, original = source.imported[name]
        other = sys.modules.get(_absolute(origin, module))
        return other is not None and is_written(other, original, value, depth + 1)
    others = (sys.modules.get(_absolute(star, module)) for star in reversed(source.stars))
    other = next((other for other in others if other is not None and name in vars(other)), None)
    return other is not None and is_written(other, name, value, depth + 1)


def is_written_in_class(owner: type, name: str, value: Any) -> bool:
    """The same for an attribute of a class."""
    module = sys.modules.get(owner.__module__)
    source = source_of(getattr(module, "__file__", None))
    if source is None:
        return isinstance(value, _NUMBERS)
    return f"{owner.__qualname__}.{name}" in source.literals


@functools.cache
def source_of(file: str | None) -> Source | None:
    """What a file of Python says; None for compiled code."""
    if file is None or not file.endswith(".py"):
        return None
    try:
        tree = ast.parse(Path(file).read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return None
    source = Source()
    _note_names(tree.body, "", source)
    computed: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            decorators = getattr(node, "decorator_list", [])
            source.functions[min([node.lineno, *(item.lineno for item in decorators)])] = node.args
        elif isinstance(node, ast.Global):
            computed.update(node.names)
    source.literals.difference_update(computed)
    return source


def _note_names(body: list[ast.stmt], prefix: str, source: Source) -> None:
    """Names that the statements bind once, to a literal; of classes the attributes."""
    counts: Counter[str] = Counter()
    for node in _statements(body):
        if isinstance(node, ast.ClassDef):
            _note_names(node.body, f"{prefix}{node.name}.", source)
        elif isinstance(node, ast.ImportFrom) and not prefix:
            origin = "." * node.level + (node.module or "")
            source.stars.extend(origin for alias in node.names if alias.name == "*")
            named = {alias.asname or alias.name: (origin, alias.name) for alias in node.names if alias.name != "*"}
            source.imported.update(named)
        for name, value in _bindings(node):
            counts[name] += 1
            if value is not None and _is_literal(value) and counts[name] == 1:
                source.literals.add(prefix + name)
            else:
                source.literals.discard(prefix + name)
    source.assigned.update(prefix + name for name in counts)


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that run in the same scope, those inside `if`, `try`, `with` and loops too."""
    for node in body:
        yield node
        for name in ("body", "orelse", "finalbody", "handlers"):
            inner = getattr(node, name, None)
            if isinstance(inner, list) and not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield from _statements(inner)


def _bindings(node: ast.stmt) -> Iterator[tuple[str, ast.expr | None]]:
    """Names that a statement binds, with the expression where it is a plain assignment."""
    if isinstance(node, ast.Assign):
        for target in node.targets:
            yield from ((name, node.value if isinstance(target, ast.Name) else None) for name in _names(target))
    elif isinstance(node, ast.AnnAssign) and node.value is not None:
        yield from ((name, node.value) for name in _names(node.target))
    elif isinstance(node, ast.AugAssign | ast.For | ast.AsyncFor):
        yield from ((name, None) for name in _names(node.target))
    elif isinstance(node, ast.With | ast.AsyncWith):
        for item in node.items:
            yield from ((name, None) for name in _names(item.optional_vars))


def _names(target: ast.AST | None) -> Iterator[str]:
    if target is not None:
        yield from (node.id for node in ast.walk(target) if isinstance(node, ast.Name))


def _is_literal(node: ast.expr) -> bool:
    if isinstance(node, ast.UnaryOp):
        return _is_literal(node.operand)
    if isinstance(node, ast.BinOp):
        return _is_literal(node.left) and _is_literal(node.right)
    if isinstance(node, ast.Tuple | ast.List):
        return all(map(_is_literal, node.elts))
    return isinstance(node, ast.Constant)


def _absolute(name: str, module: ModuleType) -> str:
    try:
        return importlib.util.resolve_name(name, getattr(module, "__package__", None) or "")
    except ImportError:
        return ""


def _functions_of(object: Any) -> Iterator[FunctionType]:
    """The functions of Python whose defaults a callable's signature may show."""
    candidates = [object]
    if inspect.isclass(object):
        candidates = [getattr(object, name, None) for name in ("__init__", "__new__")]
    for candidate in candidates:
        try:
            function: Any = inspect.unwrap(getattr(candidate, "__func__", candidate))  # pyright: ignore[reportArgumentType]
        except ValueError:
            continue
        if isinstance(function, FunctionType):
            yield function


def _written_default(parameter: inspect.Parameter, functions: list[FunctionType]) -> Expression:
    value = parameter.default
    for function in functions:
        if _default_of(function, parameter.name) is not value:
            continue
        source = source_of(function.__code__.co_filename)
        arguments = source.functions.get(function.__code__.co_firstlineno) if source else None
        expression = _expression(arguments, parameter.name) if arguments else None
        if expression is not None:
            return Expression(_text(expression, value))
    return Expression(plain_text(value))


def _text(expression: ast.expr, value: Any) -> str:
    if isinstance(expression, ast.Constant):
        return repr(value)
    text = ast.unparse(expression)
    return text if len(text) <= _MAX_EXPRESSION else "..."


def plain_text(value: Any) -> str:
    """A default of compiled or generated code: as it prints, where that is the same in every process."""
    if isinstance(value, enum.Enum):
        return f"{type(value).__name__}.{value.name}"
    if value is None or value is ... or type(value) in _NUMBERS:
        return repr(value)
    if isinstance(value, str | bytes):
        return repr(value) if len(value) <= _MAX_EXPRESSION and not set(value[:1]) & set("/~") else "..."
    if isinstance(value, type | FunctionType):
        return value.__qualname__
    if type(value) in (tuple, list) and len(value) <= _MAX_ITEMS:
        items = ", ".join(map(plain_text, value))
        return f"[{items}]" if isinstance(value, list) else f"({items}{',' if len(value) == 1 else ''})"
    if type(value) in (dict, set, frozenset) and not value:
        return repr(value)
    return f"<{type(value).__name__}>"


def _default_of(function: FunctionType, name: str) -> Any:
    """The default of a parameter of the function itself; a fresh object where it has none."""
    if function.__kwdefaults__ and name in function.__kwdefaults__:
        return function.__kwdefaults__[name]
    code, defaults = function.__code__, function.__defaults__ or ()
    positional = code.co_varnames[: code.co_argcount]
    index = positional.index(name) - (code.co_argcount - len(defaults)) if name in positional else -1
    return defaults[index] if index >= 0 else object()


def _expression(arguments: ast.arguments, name: str) -> ast.expr | None:
    positional = [*arguments.posonlyargs, *arguments.args]
    pairs = zip(reversed(positional), reversed(arguments.defaults), strict=False)
    keywords = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    return next((default for argument, default in (*pairs, *keywords) if argument.arg == name), None)
