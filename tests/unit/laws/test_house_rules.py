"""The habits of the house that a reader would otherwise have to watch over: sizes, and where torch may be imported."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[3]
MODULES = sorted((ROOT / "fedsite").rglob("*.py"))
MAX_LINES, MAX_FUNCTION_LINES = 400, 60
HEAVY = {"torch", "monai", "dp_accounting"}
CLI_MAY_IMPORT = ("fedsite.cli", "fedsite.errors")


def imported_at_import(body: list[ast.stmt]) -> set[str]:
    """What importing a module imports: statements outside functions and outside `if TYPE_CHECKING`."""
    found: set[str] = set()
    for node in body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.If):
            guarded = ast.unparse(node.test).endswith("TYPE_CHECKING")
            found |= imported_at_import(node.orelse if guarded else node.body + node.orelse)
        elif isinstance(node, ast.Try):
            handlers = [statement for handler in node.handlers for statement in handler.body]
            found |= imported_at_import(node.body + handlers + node.orelse + node.finalbody)
        elif isinstance(node, ast.With | ast.For | ast.ClassDef):
            found |= imported_at_import(node.body)
    return found


def long_functions(source: str) -> dict[str, int]:
    functions = (
        node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    lengths = {node.name: (node.end_lineno or 0) - node.lineno + 1 for node in functions}
    return {name: length for name, length in lengths.items() if length > MAX_FUNCTION_LINES}


def imports_of(path: Path) -> set[str]:
    return imported_at_import(ast.parse(path.read_text()).body)


def test_no_file_is_a_room_that_wants_dividing() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in MODULES}
    assert {name: length for name, length in lengths.items() if length > MAX_LINES} == {}


def test_no_function_is_too_long() -> None:
    long = {str(path.relative_to(ROOT)): long_functions(path.read_text()) for path in MODULES}
    assert {name: found for name, found in long.items() if found} == {}


def test_heavy_libraries_are_imported_inside_functions() -> None:
    """Only `training` may import torch at its top; and so nothing else may import `training` at its own."""
    outside = [path for path in MODULES if path.parent.name != "training"]
    found = {
        (str(path.relative_to(ROOT)), name)
        for path in outside
        for name in imports_of(path)
        if name.split(".")[0] in HEAVY or name.startswith("fedsite.training")
    }
    assert found == set()


def test_a_command_imports_its_job_when_it_runs() -> None:
    """`fedsite --help` imports every command's module, and must not import what the commands do."""
    modules = (ROOT / "fedsite" / "cli").glob("*.py")
    ours = {(path.name, name) for path in modules for name in imports_of(path) if name.startswith("fedsite.")}
    assert {(module, name) for module, name in ours if not name.startswith(CLI_MAY_IMPORT)} == set()


def test_the_rules_notice_what_they_forbid() -> None:
    eager = "try:\n    import torch\nexcept ImportError:\n    pass\nfrom fedsite import training\n"
    lazy = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\ndef f():\n    import monai\n"
    assert {"torch", "fedsite.training"} <= imported_at_import(ast.parse(eager).body)
    assert not {"torch", "monai"} & imported_at_import(ast.parse(lazy).body)
    assert long_functions("def f():\n" + "    pass\n" * MAX_FUNCTION_LINES) == {"f": MAX_FUNCTION_LINES + 1}
