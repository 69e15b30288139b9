"""Modules import each other in one direction: there is no circle, not even of lazy imports."""

from __future__ import annotations

from graphlib import TopologicalSorter

import grimp


def test_no_module_imports_itself_through_others():
    graph = grimp.build_graph("harness", "tasks", "rlrf", exclude_type_checking_imports=True)
    imports = {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
    order = list(TopologicalSorter(imports).static_order())  # raises CycleError with the circle
    assert len(order) == len(graph.modules) > 200
