"""Imports point one way: a unit uses those of the layers below its own, and nothing above.

A unit is a package, or a module that lies beside the packages of `streams`. Whoever adds one gives
it its place here.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

LAYERS = (
    {"schemas"},
    {
        "streams.errors",
        "streams.entry",
        "streams.circuit",
        "streams.heap",
        "streams.parking",
        "streams.probes",
    },
    {"agents", "streams.settings", "streams.failpoints", "streams.log_fields"},
    {"streams.delivery", "streams.decoding", "streams.fetching", "streams.index"},
    {"streams.kafka"},
    {"streams.evaluation", "streams.integrity", "streams.publish", "streams.engine"},
    {"streams.telemetry"},
    {"streams.api", "streams.canary", "streams.hasher", "streams.matcher", "streams.status"},
    {"streams.cli"},
    {"deploy"},
)
LAYER = {unit: number for number, units in enumerate(LAYERS) for unit in units}
ROOT = Path(__file__).parents[2]


def unit(module: str) -> str:
    """The unit that a module belongs to."""
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "streams" else parts[0]


def sources() -> Iterator[tuple[str, Path]]:
    """Each module of the product, by name."""
    for package in ("schemas", "agents", "streams", "deploy"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts).removesuffix(".__init__"), path


def imported(source: str) -> Iterator[tuple[int, str]]:
    """Line and name of each of our modules that a module imports, wherever in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.partition(".")[0] in {"schemas", "agents", "streams", "deploy"}:
                yield node.lineno, name


def wrong_way(module: str, source: str) -> list[str]:
    """The imports of a module that are not of its own unit nor of a layer below."""
    own = unit(module)
    return [
        f"{module}, line {line}: {name}"
        for line, name in imported(source)
        if unit(name) not in {own, "streams"} and LAYER[unit(name)] >= LAYER[own]
    ]


def test_every_unit_has_its_layer() -> None:
    """None is missing, and none is left that is gone."""
    assert {unit(module) for module, _ in sources()} - {"streams"} == set(LAYER)


def test_imports_point_down() -> None:
    """In the whole product."""
    found = [line for module, path in sources() for line in wrong_way(module, path.read_text())]
    assert found == []


def test_an_import_that_points_up_is_found() -> None:
    """Also one inside a function, and one between units of a layer."""
    planted = "def late():\n    from streams.telemetry.server import TelemetryServer\n"
    assert wrong_way("streams.engine.watchdog", planted)
    assert wrong_way("streams.hasher", "import streams.matcher\n")
    assert not wrong_way("streams.hasher", "from streams.engine.feed import Feed\n")
