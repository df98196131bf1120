"""The floors of the house: who may import what, read from the source without importing it.

Order. A file imports from its own folder and from folders to its left in ORDER.
Prefix. Only `ray_*.py` imports Ray, only `keras_*.py` imports Keras or its backend.
Plain. A file without such a prefix has no clock, environment, network or thread of its own.
Size. No file over 400 lines; an `__init__.py` is one docstring, and in DOORS a lazy door.

Imports inside functions count, and so do `import_module("...")` with a constant name.
"""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "hapredict"
ORDER = (
    "errors",
    "plugins",
    "expressions",
    "sections",
    "sections_policy",
    "sections_alerts",
    "sections_live",
    "spec",
    "data",
    "features",
    "training",
    "registry",
    "serving",
    "client",
    "monitoring",
    "control",
    "replay",
    "drill",
    "testing",
    "cli_base",
    "cli_learn",
    "cli_place",
    "cli_prove",
    "cli_replay",
    "cli",
)
LINES_MAX = 400

DOORS = (".", "client")
"""Folders whose `__init__.py` may hand out names lazily: what people import by a short name."""

OWNERS = {
    "ray": "ray_",
    "keras": "keras_",
    "tensorflow": "keras_",
    "tf2onnx": "keras_",
    "pandas": "ray_",
}
"""Libraries that belong to the files with a prefix. pandas is how Ray Data hands over blocks."""

SIDE_DOORS = {
    "time": "take the time as an argument",
    "random": "take a seeded generator as an argument",
    "secrets": "take the chance as an argument",
    "uuid": "take the name as an argument",
    "threading.Thread": "leave threads to an edge",
    "threading.Timer": "leave threads to an edge",
    "multiprocessing": "leave processes to an edge",
    "concurrent": "leave threads to an edge",
    "subprocess": "leave processes to an edge",
    "socket": "leave the network to an edge",
    "urllib.request": "leave the network to an edge",
    "http.client": "leave the network to an edge",
    "requests": "leave the network to an edge",
    "httpx": "leave the network to an edge",
    "asyncio": "leave the event loop to an edge",
    "obstore": "go through registry/store.py",
    "pickle": "write JSON; unpickling runs code",
    "os.environ": "take the setting as an argument",
    "os.getenv": "take the setting as an argument",
    "os.urandom": "take the chance as an argument",
    "datetime.datetime.now": "take the time as an argument",
    "datetime.datetime.utcnow": "take the time as an argument",
    "datetime.datetime.today": "take the time as an argument",
    "datetime.date.today": "take the time as an argument",
}
"""What a plain file does without, and what it does instead. A lock is no thread of its own."""

ALLOWED = {
    ("registry/store.py", "obstore"): "the one door to storage",
    ("serving/asgi.py", "asyncio"): "an ASGI application lives in an event loop",
    ("serving/answering.py", "asyncio"): "one model call for what arrived in one turn of the loop",
    ("serving/fast_http.py", "asyncio"): "connections live in an event loop; types only",
    ("serving/upkeep.py", "asyncio"): "the replica's own loops beside its answers",
    ("serving/upkeep.py", "concurrent"): "a slow store must not delay an answer",
    ("serving/tenancy.py", "asyncio"): "many wait for one load, in an event loop",
    ("serving/tenancy.py", "concurrent"): "the type of the threads that an edge gives it",
    ("serving/pooled.py", "concurrent"): "the type of the threads that an edge gives it",
    ("serving/pool_app.py", "asyncio"): "an ASGI application lives in an event loop",
    ("client/http.py", "httpx"): "the Python client speaks HTTP; that is all it does",
    ("client/http.py", "uuid"): "requests of different programs must not have the same id",
    ("client/sync.py", "httpx"): "the edge that waits for HTTP",
    ("client/sync.py", "time"): "runs in people's programs; its pauses are wall time",
    ("client/sync.py", "random"): "the type of the chance that a test gives it",
    ("client/asynchronous.py", "httpx"): "the edge that awaits HTTP",
    ("client/asynchronous.py", "asyncio"): "the edge that awaits HTTP",
    ("client/asynchronous.py", "time"): "runs in people's programs; its pauses are wall time",
    ("client/asynchronous.py", "random"): "the type of the chance that a test gives it",
    ("client/attempts.py", "random"): "clients that pause alike would all come back at once",
    ("client/pieces.py", "pandas"): "the client's callers have frames; imported with the first",
    ("client/sync.py", "pandas"): "the type of a caller's frame",
    ("client/asynchronous.py", "pandas"): "the type of a caller's frame",
    ("cli.py", "time"): "a terminal's waits are wall time",
    ("cli.py", "os.environ"): "where hapredict's home is, unless an option says so",
}
"""Exceptions, each with its reason."""


@dataclass(frozen=True, slots=True)
class Source:
    """One parsed file of the package."""

    path: Path
    """Relative to the package's folder."""
    text: str
    tree: ast.Module

    @property
    def stage(self) -> str:
        """Its entry in ORDER, or the name that ORDER lacks."""
        return self.path.parts[0].removesuffix(".py")

    @property
    def prefix(self) -> str:
        """`ray_`, `keras_` or nothing: which edge the file is."""
        return next((p for p in ("ray_", "keras_") if self.path.name.startswith(p)), "")


def faults_of(root: Path) -> list[str]:
    """Each breach of the floors in the package at `root`: file, line, what, and what to do."""
    found = []
    for file in sorted(root.rglob("*.py")):
        text = file.read_text(encoding="utf-8")
        source = Source(file.relative_to(root), text, ast.parse(text))
        rules = _init_faults if file.name == "__init__.py" else _file_faults
        found += [f"{source.path}:{line}: {what}" for line, what in rules(root, source)]
    return found


def long_files(*folders: Path) -> list[str]:
    """Files of more lines than anyone reads at one go."""
    sizes = {
        file: len(file.read_text(encoding="utf-8").splitlines())
        for folder in folders
        for file in sorted(folder.rglob("*.py"))
    }
    return [
        f"{file}: {lines} lines, at most {LINES_MAX}; split it by what it promises"
        for file, lines in sizes.items()
        if lines > LINES_MAX
    ]


def libraries_of(root: Path) -> set[str]:
    """The top-level names of what the package at `root` imports from outside."""
    names = {
        target.partition(".")[0]
        for file in root.rglob("*.py")
        for _, target in _imports(root, ast.parse(file.read_text(encoding="utf-8")))
    }
    return names - {PACKAGE, ""} - sys.stdlib_module_names


def _init_faults(_root: Path, source: Source) -> Iterator[tuple[int, str]]:
    body = source.tree.body
    if not body or ast.get_docstring(source.tree) is None:
        yield 1, "has no docstring; say what the folder is for"
        return
    door = source.path.parent.as_posix() in DOORS
    for node in body[1:]:
        if not (door and _is_lazy_door(node)):
            yield node.lineno, "must be one docstring; import from the file that has the thing"


def _is_lazy_door(node: ast.stmt) -> bool:
    if isinstance(node, ast.FunctionDef):
        return node.name == "__getattr__"
    if isinstance(node, ast.If):
        return isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    if isinstance(node, ast.ImportFrom):
        return node.module == "typing"
    names = [t.id for t in getattr(node, "targets", []) if isinstance(t, ast.Name)]
    return names in (["__all__"], ["__version__"])


def _file_faults(root: Path, source: Source) -> Iterator[tuple[int, str]]:
    if ast.get_docstring(source.tree) is None:
        yield 1, "has no docstring; tell the story of the file"
    if source.stage not in ORDER:
        yield 1, f"{source.stage!r} has no place in ORDER (tests/support/floors.py); give it one"
        return
    for line, target in _imports(root, source.tree):
        what = (
            "imports relatively; write the whole name"
            if target.startswith(".")
            else _inside(source, target)
            if target.partition(".")[0] == PACKAGE
            else _outside(source, target)
        )
        if what:
            yield line, what
    if not source.prefix:
        for line, name in _attributes(source.tree):
            what = _side_door(source, name)
            if what:
                yield line, what


def _inside(source: Source, target: str) -> str:
    parts = target.split(".")
    stage = parts[1] if len(parts) > 1 else ""
    if stage not in ORDER:
        return f"imports {target}, which has no place in ORDER (tests/support/floors.py)"
    if ORDER.index(stage) > ORDER.index(source.stage):
        return (
            f"imports {target}, to its right in the order; take what you need from it as an "
            "argument, or move the shared part left"
        )
    edge = next((p for p in ("ray_", "keras_") if parts[-1].startswith(p)), "")
    if source.stage.startswith("cli") or not edge or source.prefix in {edge, "ray_"}:
        return ""
    kind = f"a {source.prefix} edge" if source.prefix else "plain"
    return f"is {kind}, but imports the edge {target}; take it as an argument"


def _outside(source: Source, target: str) -> str:
    owner = OWNERS.get(target.partition(".")[0])
    allowed = (source.path.as_posix(), target.partition(".")[0]) in ALLOWED
    if owner is not None and owner != source.prefix and not allowed:
        return f"imports {target}; only {owner}*.py may: move that part to such a file"
    return "" if source.prefix else _side_door(source, target)


def _side_door(source: Source, name: str) -> str:
    for door, instead in SIDE_DOORS.items():
        opened = name == door or name.startswith(door + ".")
        if opened and (source.path.as_posix(), door) not in ALLOWED:
            return f"is plain, but uses {name}; {instead}"
    return ""


def _imports(root: Path, tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom) and node.level:
            yield node.lineno, "." * node.level + (node.module or "")
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                yield node.lineno, _module_of(root, node.module, alias.name)
        elif isinstance(node, ast.Call) and _called(node) in {"import_module", "__import__"}:
            name = node.args[0] if node.args else None
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                yield node.lineno, name.value


def _module_of(root: Path, module: str, name: str) -> str:
    """`a.b` for a name in module a.b, `a.b.name` where that is a module or a side door."""
    parts = module.split(".")
    if parts[0] == PACKAGE:
        inner = root.joinpath(*parts[1:], name)
        is_module = inner.is_dir() or inner.with_suffix(".py").is_file()
        return f"{module}.{name}" if is_module else module
    return f"{module}.{name}"


def _called(node: ast.Call) -> str:
    function = node.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _attributes(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Dotted uses of imported names, spelled out: `datetime.now` as `datetime.datetime.now`.

    Without those whose module is a side door itself: its import is told already.
    """
    spelled = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            spelled |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
        elif isinstance(node, ast.Import):
            spelled |= {a.asname or a.name.partition(".")[0]: a.name for a in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            first, _, rest = ast.unparse(node).partition(".")
            if first in spelled and spelled[first].partition(".")[0] not in SIDE_DOORS:
                yield node.lineno, f"{spelled[first]}.{rest}"
