"""No kernel lets go of an array while its address is in use.

Numba frees an array after its last use, and an address is no use of it: what is written there afterwards lands in
memory that another thread may have by then. So an array whose address is kept has to be named once more at the end.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import minibi

FILES = sorted((Path(minibi.__file__).parent / "kernels").glob("*.py"))
COMPILED = {"kernel", "inline"}
MAKERS = {"np.empty", "np.zeros", "np.ones", "np.full", "np.arange", "np.sort"}


def bindings(function: ast.FunctionDef) -> Iterator[tuple[str, ast.expr]]:
    """Names and what they are set to, tuples one by one."""

    def pairs(target: ast.expr, value: ast.expr) -> Iterator[tuple[str, ast.expr]]:
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            for a, b in zip(target.elts, value.elts, strict=True):
                yield from pairs(a, b)
        elif isinstance(target, ast.Name):
            yield target.id, value

    for node in ast.walk(function):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                yield from pairs(target, node.value)


def addresses_of(name: str, node: ast.AST) -> list[ast.expr]:
    """Where the address of an array, or of a part of it, is taken: `array.ctypes.data` or `address(array)`."""
    found = []
    for part in ast.walk(node):
        source: ast.expr | None = None
        if isinstance(part, ast.Attribute) and part.attr == "data" and ast.unparse(part.value).endswith(".ctypes"):
            source = part.value.value
        elif isinstance(part, ast.Call) and ast.unparse(part.func) == "address":
            source = part.args[0]
        while isinstance(source, ast.Subscript):
            source = source.value
        if isinstance(source, ast.Name) and source.id == name:
            found.append(part)
    return found


def is_call(node: ast.expr) -> bool:
    """Whether something is called that may be given an address, and returns something else."""
    return (isinstance(node, ast.Call) and ast.unparse(node.func) != "address") or (
        isinstance(node, ast.BinOp) and is_call(node.left)
    )


def last_use(name: str, function: ast.FunctionDef) -> int:
    return max(n.lineno for n in ast.walk(function) if isinstance(n, ast.Name) and n.id == name)


def freed_too_early(source: str) -> list[str]:
    """Arrays made in a kernel that are freed while an address of theirs may still be used."""
    faults = []
    for function in ast.walk(ast.parse(source)):
        if not isinstance(function, ast.FunctionDef) or {ast.unparse(d) for d in function.decorator_list}.isdisjoint(
            COMPILED
        ):
            continue
        in_loops = {
            id(n) for loop in ast.walk(function) if isinstance(loop, (ast.For, ast.While)) for n in ast.walk(loop)
        }
        bound = list(bindings(function))
        for name, value in bound:
            if not (isinstance(value, ast.Call) and ast.unparse(value.func) in MAKERS):
                continue
            end = last_use(name, function)
            for kept, address in bound:
                if not is_call(address) and addresses_of(name, address) and last_use(kept, function) > end:
                    faults.append(f"{function.name}: {kept} is the address of {name}, which is not used to the end")
            for taken in addresses_of(name, function):
                if id(taken) not in in_loops and (taken.end_lineno or taken.lineno) >= end:
                    faults.append(f"{function.name}: {name} is freed once its address is taken")
    return faults


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_arrays_outlive_their_addresses(file):
    assert freed_too_early(file.read_text()) == []


@pytest.mark.parametrize(
    ("body", "faults"),
    [
        ("a = np.empty(3)\n    b = a.ctypes.data\n    for i in range(3):\n        use(b)", 2),
        ("a = np.empty(3)\n    b = a.ctypes.data\n    for i in range(3):\n        use(b)\n    a[0] = 0", 0),
        ("a, c = np.empty(3), np.zeros(3)\n    use(address(a[0]), address(c))\n    c[0] = 0", 1),
        ("a = np.empty(3)\n    for i in range(3):\n        use(address(a))", 0),
    ],
)
def test_the_check_itself(body, faults):
    assert len(freed_too_early(f"@kernel\ndef f():\n    {body}\n")) == faults
