"""The documentation of Python's own standard library as passages: text that every machine already has.

Python sources are parsed, never imported. Of the modules written in C, those in C_MODULES are imported for their
`__doc__` and nothing else; none of them opens a window, prints or reaches for the network. Without sources (a zipped
or frozen Python) only the C part remains.
"""

from __future__ import annotations

import _thread
import ast
import builtins
import re
import sys
import sysconfig
import types
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from importlib import import_module
from importlib.machinery import BuiltinImporter, ExtensionFileLoader
from importlib.util import find_spec
from inspect import cleandoc
from pathlib import Path
from typing import Any

SKIPPED = {"antigravity", "this", "idlelib", "lib2to3", "turtledemo", "pydoc_data", "distutils", "ntpath", "nturl2path"}
SKIPPED_PARTS = {"test", "tests", "_vendor", "_bundled", "__main__", "__pycache__", "site-packages"}
# Sources whose names are public elsewhere, though no import statement tells.
SOURCE_OF = {"posixpath": "os.path", "genericpath": "os.path", "_pyio": "io", "_collections_abc": "collections.abc"}
_ITS_OWN = """array atexit binascii builtins cmath errno faulthandler fcntl gc grp itertools marshal math mmap msvcrt
pwd resource select sys syslog termios time unicodedata winreg winsound zlib"""
_UNDERSCORED = """bisect bz2 codecs collections contextvars csv ctypes curses datetime decimal functools hashlib heapq
io locale lzma operator queue random signal socket sqlite3 ssl stat struct tracemalloc typing
warnings weakref"""
C_MODULES = {name: name for name in _ITS_OWN.split()}  # module written in C -> the public module of its names
C_MODULES |= {f"_{name}": name for name in _UNDERSCORED.split()}
C_MODULES |= dict.fromkeys(("_md5", "_sha1", "_sha2", "_sha256", "_sha3", "_sha512", "_blake2"), "hashlib")
C_MODULES |= {"posix": "os", "nt": "os", "_thread": "threading"}
C_MODULES |= {"pyexpat": "xml.parsers.expat", "_zstd": "compression.zstd"}


@dataclass(frozen=True, slots=True)
class Doc:
    """One docstring. `name` is the dotted public name (built-ins without a module: `str.split`), `signature` as in
    "(x, /, *, key=None)" or empty, `place` as "subprocess.py:506" or "built-in module time".
    """

    name: str
    signature: str
    text: str
    place: str


def stdlib_docs(progress: Callable[[int, int], None] | None = None) -> list[Doc]:
    """The docstrings of public modules, classes, functions and methods, sorted by name; names are unique.

    Private and special (`__x__`) names are left out, as are test suites, IDLE, distutils and bundled packages.
    Where the same name is documented twice (in Python and in C), the longer text is kept; where several names
    ending alike share one text (`bytes.upper`, `bytearray.upper`), the shortest name.
    `progress(done, total)` is called as files are parsed.
    """
    modules = _parse_all(progress)
    best: dict[str, Doc] = {}
    for doc in [*_python_docs(modules), *_c_docs(modules)]:
        if doc.text and (doc.name not in best or len(doc.text) > len(best[doc.name].text)):
            best[doc.name] = doc
    one_each: dict[tuple[str, str], Doc] = {}
    for doc in sorted(best.values(), key=lambda d: (len(d.name), d.name)):
        one_each.setdefault((doc.text, doc.name.rpartition(".")[2]), doc)
    return sorted(one_each.values(), key=lambda d: d.name)


# --- modules written in Python ---------------------------------------------------------------------------------------

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass
class _Module:
    """What is kept of a parsed file. `docs` are its own and those of its definitions, named from within the module."""

    name: str
    is_package: bool
    docs: list[Doc]
    defined: set[str]
    exports: set[str] | None  # __all__, None where it is absent or computed
    takes: list[tuple[str, str]] = field(default_factory=list)  # (module, name or "*") of its `from` imports

    def shows(self, name: str) -> bool:
        return not name.startswith("_") and (self.exports is None or name in self.exports)


def _module(name: str, path: Path, place: str) -> _Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in old code
        tree = ast.parse(path.read_bytes())
    docs = [Doc("", "", doc.strip(), f"{place}:1")] if (doc := ast.get_docstring(tree)) else []
    defined = {node.name for node in _flat(tree.body) if isinstance(node, Definition)}
    module = _Module(name, path.name == "__init__.py", docs, defined, _exports(tree))
    package = name if module.is_package else name.rpartition(".")[0]
    for node in _flat(tree.body):
        if isinstance(node, ast.ImportFrom):
            parts = package.split(".")[: 1 - node.level or None] if node.level else []
            source = ".".join([*parts, *([node.module] if node.module else [])])
            module.takes += [(source, alias.name) for alias in node.names if alias.asname in (None, alias.name)]
        elif isinstance(node, Definition) and module.shows(node.name):
            docs += _definition_docs(node, node.name, place)
    return module


def _parse_all(progress: Callable[[int, int], None] | None) -> dict[str, _Module]:
    """The public modules of the standard library, and the private ones that they take names from."""
    root = Path(sysconfig.get_path("stdlib"))
    files: dict[str, Path] = {}
    for top in sorted(sys.stdlib_module_names - SKIPPED):
        inside = (root / top).rglob("*.py") if top != "encodings" else (root / top).glob("__init__.py")
        for path in [root / f"{top}.py", *sorted(inside)]:
            parts = path.relative_to(root).with_suffix("").parts
            if not SKIPPED_PARTS & {*parts} and path.is_file():
                files[".".join(p for p in parts if p != "__init__")] = path
    modules: dict[str, _Module] = {}
    wanted = [name for name in files if _is_public(name)] + [name for name in SOURCE_OF if name in files]
    for done, name in enumerate(wanted):  # grows by the private modules
        if progress:
            progress(done, len(wanted))
        if name in modules:
            continue
        try:
            module = modules[name] = _module(name, files[name], files[name].relative_to(root).as_posix())
        except (OSError, SyntaxError, ValueError):  # a file that cannot be parsed documents nothing
            continue
        wanted += dict.fromkeys(s for s, _ in module.takes if s in files and _may_take(module, s))
    if progress:
        progress(len(wanted), len(wanted))
    return modules


def _is_public(dotted: str) -> bool:
    return not any(p.startswith("_") and p != "__future__" for p in dotted.split("."))


def _may_take(module: _Module, source: str) -> bool:
    """Whether a name that `module` imports from `source` may be public in `module` rather than where it is defined."""
    if not _is_public(module.name):
        return False
    if module.is_package and source.startswith(module.name + "."):
        return True
    same_package = source.split(".")[0] == module.name.split(".")[0]
    return not _is_public(source) and ("." not in source or same_package)


def _flat(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements of a module or class, also those inside if, try and with."""
    for node in body:
        yield node
        if isinstance(node, ast.If | ast.Try | ast.With):
            for part in ("body", "handlers", "orelse", "finalbody"):
                for inner in getattr(node, part, ()):
                    yield from _flat(inner.body if isinstance(inner, ast.ExceptHandler) else [inner])


def _exports(tree: ast.Module) -> set[str] | None:
    """The names in `__all__` if it is made of plain lists, tuples and their sums."""
    known: dict[str, list[Any] | None] = {}

    def value(node: ast.expr) -> list[Any] | None:
        if isinstance(node, ast.Name):
            return known.get(node.id)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            left, right = value(node.left), value(node.right)
            return None if left is None or right is None else left + right
        if isinstance(node, ast.List | ast.Tuple) and all(isinstance(e, ast.Constant) for e in node.elts):
            return [e.value for e in node.elts]  # type: ignore[attr-defined]
        return None

    for node in _flat(tree.body):
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=given):
                known[name] = value(given)
            case ast.AugAssign(target=ast.Name(id="__all__" as name), value=given):
                more, before = value(given), known.get(name)
                known[name] = None if more is None or before is None else before + more
            case ast.Expr(ast.Call(ast.Attribute(ast.Name(id="__all__" as name), attr), [given])):
                more = value(given) if attr == "extend" else value(ast.List([given]))
                before = known.get(name)
                known[name] = None if more is None or before is None else before + more
    exports = known.get("__all__")
    return None if exports is None else {str(name) for name in exports}


def _python_docs(modules: dict[str, _Module]) -> Iterator[Doc]:
    takers: dict[str, list[_Module]] = {}
    for module in modules.values():
        for source in {s for s, _ in module.takes if s in modules and _may_take(module, s)}:
            takers.setdefault(source, []).append(module)
        parent = modules.get(module.name.rpartition(".")[0])
        if parent and parent not in takers.setdefault(module.name, []):
            takers[module.name].append(parent)  # it may list names in __all__ that it loads when they are asked for

    def home(source: _Module, name: str) -> str | None:
        """The public module to which a definition belongs: one that takes all of `source`, else the shortest."""
        if given := SOURCE_OF.get(source.name):
            return given if given not in modules or modules[given].shows(name) else None
        own = [(1, source.name)] if _is_public(source.name) else []
        for taker in takers.get(source.name, ()):
            starred = (source.name, "*") in taker.takes and source.shows(name)
            listed = name in (taker.exports or ()) and taker.is_package and name not in taker.defined
            if (starred or listed or (source.name, name) in taker.takes) and taker.shows(name):
                own += [(0 if starred else 1, h) for h in [home(taker, name)] if h]
        return min(own, key=lambda h: (h[0], len(h[1]), h[1]), default=(0, None))[1]

    for module in modules.values():
        itself = SOURCE_OF.get(module.name, module.name)
        for doc in module.docs:
            where = home(module, doc.name.partition(".")[0]) if doc.name else itself
            if where and _is_public(where):
                yield replace(doc, name=f"{where}.{doc.name}".rstrip("."))


def _definition_docs(node: Definition, name: str, place: str, in_class: bool = False) -> Iterator[Doc]:
    doc, signature = ast.get_docstring(node), ""
    if isinstance(node, ast.ClassDef):
        inner = [n for n in _flat(node.body) if isinstance(n, Definition)]
        made = next((n for n in inner if n.name in ("__init__", "__new__") and not isinstance(n, ast.ClassDef)), None)
        if made:
            doc = doc or ast.get_docstring(made)
            signature = _signature(made, drop_first=True) if doc else ""
        for n in inner:
            if not n.name.startswith("_"):
                yield from _definition_docs(n, f"{name}.{n.name}", place, in_class=True)
    elif doc:
        marks = {getattr(d, "id", getattr(d, "attr", "")) for d in node.decorator_list}
        if not any("property" in mark for mark in marks):
            signature = _signature(node, drop_first=in_class and "staticmethod" not in marks)
    if doc:
        yield Doc(name, signature, doc.strip(), f"{place}:{node.lineno}")


def _signature(node: ast.FunctionDef | ast.AsyncFunctionDef, drop_first: bool) -> str:
    args = node.args
    first = args.posonlyargs or args.args
    if drop_first and first:
        del first[0]  # self
    return f"({ast.unparse(args)})" + (f" -> {ast.unparse(node.returns)}" if node.returns else "")


# --- modules written in C --------------------------------------------------------------------------------------------


def _c_docs(modules: dict[str, _Module]) -> Iterator[Doc]:
    for name, public in C_MODULES.items():
        if (module := _import_c(name)) is None:
            continue
        place = f"built-in module {public}"
        if name == public:
            yield _c_doc(public, module, place)
        prefix = "" if public == "builtins" else public + "."
        face = modules.get(public)
        taken = {taken for source, taken in face.takes if source == name} if face else set()
        for attribute, value in sorted(vars(module).items()):
            if attribute.startswith("_") or (face and not face.shows(attribute)):
                continue
            if taken and not {attribute, "*"} & taken and not (face and face.exports):
                continue
            if isinstance(value, type | types.BuiltinFunctionType):
                built_in = vars(builtins).get(value.__name__) is value
                if not built_in or prefix + attribute == value.__name__:  # os.error is OSError
                    yield from _c_object_docs(prefix + attribute, value, place)
    yield from _hidden_type_docs()


def _hidden_type_docs() -> Iterator[Doc]:
    """Types that no module written in C names, though their methods are in daily use."""
    hidden: dict[str, type] = {"re.Pattern": type(re.compile("")), "re.Match": type(re.match("", ""))}
    hidden |= {"threading.Lock": type(_thread.allocate_lock()), "threading.RLock": _thread.RLock}
    hidden |= {"threading.local": _thread._local}
    hidden |= {f"types.{n}": t for n, t in sorted(vars(types).items()) if isinstance(t, type) and n in types.__all__}
    for name, type_ in hidden.items():
        yield from _c_object_docs(name, type_, f"built-in module {name.partition('.')[0]}")


def _import_c(name: str) -> types.ModuleType | None:
    """The module if it is built in or a shared library, None if it is anything else or not there."""
    try:
        spec = find_spec(name)
        if spec is None or not (spec.loader is BuiltinImporter or isinstance(spec.loader, ExtensionFileLoader)):
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecated modules say so when imported
            return import_module(name)
    except (ImportError, ValueError, OSError):
        return None


def _c_object_docs(name: str, value: Any, place: str) -> Iterator[Doc]:
    yield _c_doc(name, value, place)
    if isinstance(value, type):
        for attribute, member in sorted(vars(value).items()):
            if not attribute.startswith("_") and (callable(member) or hasattr(type(member), "__get__")):
                yield _c_doc(f"{name}.{attribute}", member, place)


def _c_doc(name: str, value: Any, place: str) -> Doc:
    doc = getattr(value, "__doc__", None)
    text = cleandoc(doc).strip() if isinstance(doc, str) else ""
    given = getattr(value, "__text_signature__", None) or ""
    if marked := re.match(
        r"\w+(\(.*?\))\n--\n\n", text, re.DOTALL
    ):  # written under a name that Python does not look for
        given, text = given or marked[1], text[marked.end() :].strip()
    signature = " ".join(given.split())
    signature = re.sub(r"^\(\$\w+(, /)?(, )?", "(", signature)
    last = re.escape(name.rpartition(".")[2])
    head, _, rest = text.partition("\n\n")  # before signatures could be read by machine, they opened the docstring
    if rest and all(re.match(rf"[\w.]*\b{last}\(.*", line) for line in head.splitlines()):
        signature = signature or re.sub(rf"^[\w.]*\b{last}(?=\()", "", head.splitlines()[0])
        text = rest.strip()
    return Doc(name, signature, text, place)
