"""Who may import whom: docs/architecture.md's list of arrows, held against every import and cimport of the package."""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import llmgen

PACKAGE = Path(llmgen.__file__).parent
DOCUMENT = PACKAGE.parents[1] / "docs" / "architecture.md"
SUFFIXES = {".py", ".pyi", ".pyx", ".pxd"}
FILES = sorted(path for path in PACKAGE.rglob("*") if path.suffix in SUFFIXES)

# A .pyx may be longer: C functions are inlined within one extension only, and a hot path must not be cut in two.
MAX_LINES = {".py": 500, ".pyi": 500, ".pxd": 500, ".pyx": 750}
MAX_FUNCTION_LINES = 60
# Files and functions over the soft limits, and why a wall inside them would be worse.
LONG: dict[str, str] = {}


def unit(name: str) -> str:
    """`wire/scanner` → `wire`: the box of the arrow list that a module lies in."""
    return name.split("/")[0]


def module_of(path: Path) -> str:
    """wire/scanner.pyx → wire/scanner; cli/__init__.py → cli."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return "/".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


MODULES = {module_of(path) for path in FILES}
NATIVE = {module_of(path) for path in FILES if path.suffix == ".pyx"}


def arrows() -> tuple[set[tuple[str, str]], set[str]]:
    """The listed arrows, and what everyone but wire may import."""
    block = re.search(r"## Who may import whom\n+```\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert block is not None
    found: set[tuple[str, str]] = set()
    common: set[str] = set()
    for chain in re.split(r"\s{3,}|\n", re.sub(r"\([^)]*\)", "", block[1]).strip()):
        steps = [[name.strip() for name in step.split(",")] for step in chain.split("→")]
        for left, right in itertools.pairwise(steps):
            if left == ["everyone but wire"]:
                common |= set(right)
            else:
                found |= {(a, b) for a in left for b in right}
    return found, common


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, module) of every import of ours in a file; a module is written like the arrows: wire/scanner."""
    text = path.read_text(encoding="utf-8")
    found = _python_imports(text) if path.suffix in (".py", ".pyi") else _cython_imports(text)
    for line, dotted, names in found:
        if dotted != "llmgen" and not dotted.startswith("llmgen."):
            continue
        base = "/".join(dotted.split(".")[1:])
        inner = [f"{base}/{name}".lstrip("/") for name in names]
        submodules = [name for name in inner if name in MODULES]
        yield from ((line, name) for name in submodules)
        if base and len(submodules) < max(1, len(names)):
            yield line, base


def _python_imports(text: str) -> Iterator[tuple[int, str, list[str]]]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            yield node.lineno, node.module or "", [alias.name for alias in node.names]


_CYTHON = re.compile(
    r"^[ \t]*(?:from[ \t]+(\S+)[ \t]+c?import[ \t]+(\([^)]*\)|[^\n]*)|c?import[ \t]+([^\n#]+))", re.MULTILINE
)


def _cython_imports(text: str) -> Iterator[tuple[int, str, list[str]]]:
    for match in _CYTHON.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        if match[1] is None:
            yield from ((line, name.split()[0], []) for name in match[3].split(",") if name.strip())
            continue
        assert not match[1].startswith("."), f"line {line}: relative import"
        names = re.sub(r"#[^\n]*", "", match[2]).strip("()").replace("\n", " ")
        yield line, match[1], [name.split()[0] for name in names.split(",") if name.strip()]


def allowed(importer: str, imported: str, listed: set[tuple[str, str]], common: set[str]) -> bool:
    own = unit(importer)
    if own == unit(imported):
        return True
    if own != "wire" and unit(imported) in common:
        return True
    return any((own, name) in listed for name in (unit(imported), imported))


def test_every_import_is_a_listed_arrow() -> None:
    listed, common = arrows()
    wrong = [
        f"{path.relative_to(PACKAGE)}:{line}: {module_of(path)} → {name}"
        for path in FILES
        if module_of(path) != "__init__"  # the public names
        for line, name in imports(path)
        if not allowed(module_of(path), name, listed, common)
    ]
    assert not wrong, "arrows that docs/architecture.md does not list:\n" + "\n".join(wrong)


def test_common_ground_stands_on_nothing_else() -> None:
    listed, common = arrows()
    assert {"errors", "config"} <= common
    assert not [arrow for arrow in listed if arrow[0] in common]


def test_wire_knows_nothing_but_wire() -> None:
    listed, _ = arrows()
    assert not [arrow for arrow in listed if unit(arrow[0]) == "wire" and unit(arrow[1]) != "wire"]


def test_the_list_has_no_circle() -> None:
    listed, _ = arrows()
    below = {a: {unit(b) for x, b in listed if x == a} for a, _ in listed}

    def reach(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            for name in below.get(waiting.pop(), set()) - seen:
                seen.add(name)
                waiting.append(name)
        return seen

    assert not [name for name in below if name in reach(name)]


def test_metrics_and_report_need_no_native_code() -> None:
    graph = {name: set[str]() for name in MODULES}
    for path in FILES:
        graph[module_of(path)] |= {name for _, name in imports(path)}
    seen = {name for name in MODULES if unit(name) in ("metrics", "report")}
    waiting = list(seen)
    while waiting:
        for name in graph.get(waiting.pop(), set()) - seen:
            seen.add(name)
            waiting.append(name)
    assert not seen & NATIVE


def test_the_parser_of_cython_imports_sees_every_form() -> None:
    text = (
        "from llmgen.wire.sse cimport (\n    SseParser,  # a comment\n    sse_next as next_one,\n)\n"
        "cimport llmgen.clock\nfrom llmgen import columns\ncdef int x  # from llmgen.no import y\n"
    )
    assert list(_cython_imports(text)) == [
        (1, "llmgen.wire.sse", ["SseParser", "sse_next"]),
        (5, "llmgen.clock", []),
        (6, "llmgen", ["columns"]),
    ]


def test_an_arrow_that_is_not_listed_is_found() -> None:
    listed, common = arrows()
    assert not allowed("metrics/definitions", "run", listed, common)
    assert not allowed("wire/sse", "errors", listed, common)
    assert not allowed("dialects/openai_chat", "wire/http1", listed, common)
    assert allowed("dialects/openai_chat", "wire/scanner", listed, common)
    assert allowed("report/text", "metrics/definitions", listed, common)


def test_files_and_functions_are_short() -> None:
    long = {}
    for path in FILES:
        name = str(path.relative_to(PACKAGE))
        text = path.read_text(encoding="utf-8")
        lines = text.count("\n")
        if lines > MAX_LINES[path.suffix]:
            long[name] = lines
        if path.suffix == ".py":
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                    length = (node.end_lineno or node.lineno) - node.lineno + 1
                    if length > MAX_FUNCTION_LINES:
                        long[f"{name}:{node.name}"] = length
    assert not {name: size for name, size in long.items() if name not in LONG}, "split them, or say in LONG why not"
    assert set(LONG) <= set(long), "no longer long: take it out of LONG"
