"""The floors of the house: imports only ever go down, numba is named in few places, files stay short.

Read with `ast`, imports inside functions included.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "numbaconv"

# The first part of a module's name below numbaconv. `numbaconv` itself, which gathers the names, is above all.
FLOORS = {
    **dict.fromkeys(["arguments", "errors", "shapes"], 0),
    **dict.fromkeys(["algorithm", "cache_files", "compile_notice", "contract", "jit", "kernel_cache"], 1),
    **dict.fromkeys(["kernel_compiler", "parallel"], 1),
    **dict.fromkeys(["cpu", "cuda"], 2),
    "backend": 3,
    "functional": 4,
    "nn": 5,
    "optim": 6,
    **dict.fromkeys(["data", "gradcheck", "io", "models", "train"], 7),
    **dict.fromkeys(["command", "__main__"], 9),
}
TOP = 8
COMPILERS = {"njit", "jit", "vectorize", "guvectorize", "stencil", "cfunc", "generated_jit", "overload"}
# LLVM is written out in these; everything else is numba.
SIMD_FILES = {
    "jit.py",
    "parallel.py",
    "cpu/simd.py",
    "cpu/sizes.py",
    "cpu/dot_tile.py",
    "cpu/moment_sums.py",
    "cpu/line_tile.py",
    "cpu/local_array.py",
    "cpu/pool_tile.py",
    "cpu/pixel_sums.py",
    "cpu/register_tile.py",
    "cpu/transpose.py",
    "cpu/conv2d/depthwise_tile.py",
    "cpu/conv2d/winograd_tile.py",
    "cuda/intrinsics.py",
    "cuda/matrix_intrinsics.py",
}
FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


def parse(name):
    return ast.parse((PACKAGE / name).read_text(), filename=name)


def imports(name, tree=None):
    """Absolute dotted names of everything a file imports; for ``from a import b`` both a and a.b."""
    package = ["numbaconv", *Path(name).parts[:-1]]
    for node in ast.walk(tree or parse(name)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            if module != "numbaconv":  # from . import x: x is what is imported
                yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def floor(module):
    """The floor of a dotted name, or None if it is not of this package."""
    parts = module.split(".")
    if parts[0] != "numbaconv":
        return None
    return FLOORS.get(parts[1], TOP) if len(parts) > 1 else TOP


def own_floor(name):
    first = Path(name).parts[0].removesuffix(".py")
    return TOP if first == "__init__" else FLOORS[first]


def test_every_module_has_a_floor():
    tops = {Path(name).parts[0].removesuffix(".py") for name in FILES} - {"__init__"}
    assert tops <= set(FLOORS), f"give it a floor, here and in the plan: {tops - set(FLOORS)}"


def test_the_reader_of_imports_sees_them_all():
    source = (
        "import numba.cuda\nfrom . import cpu\nfrom ..jit import kernel\nfrom ...backend import enter\n"
        "def f():\n    from numbaconv import nn\n    import scipy as s\n"
    )
    found = set(imports("cpu/conv2d/direct.py", ast.parse(source)))
    assert found == {
        "numba.cuda",
        "numbaconv.cpu.conv2d",
        "numbaconv.cpu.conv2d.cpu",
        "numbaconv.cpu.jit",
        "numbaconv.cpu.jit.kernel",
        "numbaconv.backend",
        "numbaconv.backend.enter",
        "numbaconv.nn",
        "scipy",
    }
    assert floor("numbaconv.nn") == 5
    assert floor("numpy") is None


@pytest.mark.parametrize("name", FILES)
def test_imports_go_down(name):
    up = [module for module in imports(name) if (floor(module) or 0) > own_floor(name)]
    assert not up, f"{name} is on floor {own_floor(name)} and imports {up}"


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith(("cpu/", "cuda/"))])
def test_backends_do_not_import_each_other(name):
    other = "numbaconv.cuda" if name.startswith("cpu/") else "numbaconv.cpu"
    assert not [module for module in imports(name) if module.startswith(other)]


@pytest.mark.parametrize("name", FILES)
def test_numba_is_named_in_few_places(name):
    """Compilers in jit.py, numba.cuda's in cuda/launch.py; LLVM and intrinsics in the files listed above."""
    modules = set(imports(name))
    words = {node.id for node in ast.walk(parse(name)) if isinstance(node, ast.Name)}
    attributes = {node.attr for node in ast.walk(parse(name)) if isinstance(node, ast.Attribute)}
    if name != "jit.py":
        assert not {f"numba.{word}" for word in COMPILERS} & modules, "compile through numbaconv.jit"
        assert "njit" not in words | attributes, "compile through numbaconv.jit"
    if name not in SIMD_FILES:
        low_level = [m for m in modules if m.startswith("llvmlite") or m.endswith(".intrinsic")]
        assert not low_level, f"intrinsics belong in {SIMD_FILES}: {low_level}"
    if not name.startswith("cuda/"):
        assert not [m for m in modules if m.startswith("numba.cuda")], "numba.cuda belongs in cuda/"
    elif name != "cuda/launch.py":
        compiled = [
            node
            for node in ast.walk(parse(name))
            if isinstance(node, ast.Attribute) and node.attr == "jit" and getattr(node.value, "id", "") == "cuda"
        ]
        assert not compiled, "cuda.jit belongs in cuda/launch.py"


@pytest.mark.parametrize("name", FILES)
def test_only_backend_imports_by_name(name):
    """A backend is loaded lazily in one place; nobody else hides an import in a string."""
    names = {node.id for node in ast.walk(parse(name)) if isinstance(node, ast.Name)}
    attributes = {node.attr for node in ast.walk(parse(name)) if isinstance(node, ast.Attribute)}
    assert name == "backend.py" or "import_module" not in names | attributes
    assert not names & {"__import__", "exec", "eval"}


@pytest.mark.parametrize("name", FILES)
def test_files_are_short(name):
    lines = len((PACKAGE / name).read_text().splitlines())
    assert lines <= 400, f"{lines} lines: split it by job"


def public_definitions(tree):
    """Public functions and classes of a module, and public methods of those classes."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    for node in tree.body:
        if isinstance(node, kinds) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from (n for n in node.body if isinstance(n, kinds) and not n.name.startswith("_"))


@pytest.mark.parametrize("name", FILES)
def test_docstrings(name):
    tree = parse(name)
    assert not tree.body or ast.get_docstring(tree), "a module says what it is for"
    if name.startswith(("cpu/", "cuda/")):
        return  # the contract documents each op, once
    overloads = {"overload", "property.setter"}
    missing = [
        node.name
        for node in public_definitions(tree)
        if not ast.get_docstring(node) and not overloads & {ast.unparse(d) for d in node.decorator_list}
    ]
    assert not missing


# What runs code that it finds in a file, or may.
RUN_CODE = {
    "cloudpickle",
    "code",
    "codeop",
    "copyreg",
    "dill",
    "joblib",
    "marshal",
    "pickle",
    "runpy",
    "shelve",
    "yaml",
}


@pytest.mark.parametrize("name", FILES)
def test_no_file_is_run(name):
    """Models and data are never pickles. (Compiled kernels are: of files that their user alone can have written.)"""
    tree = parse(name)
    found = {module.split(".")[0] for module in imports(name, tree)} & RUN_CODE
    assert found == ({"pickle"} if name == "kernel_cache.py" else set())
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            assert getattr(node.func, "id", "") not in {"eval", "exec", "compile", "__import__"}
            assert "allow_pickle" not in {keyword.arg for keyword in node.keywords}
            assert ast.unparse(node.func) not in {"np.load", "numpy.load"}


def is_kernel(node):
    return isinstance(node, ast.FunctionDef) and any(ast.unparse(d) == "kernel" for d in node.decorator_list)


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("cpu/")])
def test_kernels_take_tasks_and_hand_themselves_to_threads(name):
    """`launch` calls a kernel with a negative first task: one that does not begin with `on_threads` would run it."""
    for node in filter(is_kernel, ast.walk(parse(name))):
        assert [argument.arg for argument in node.args.args[:2]] == ["first", "end"], node.name
        body = node.body[1:] if ast.get_docstring(node) else node.body
        assert ast.unparse(body[0]) in (
            "if on_threads():\n    return",
            "if on_threads_flushing():\n    return",
        ), node.name
