"""What the machines of a Ray cluster are for: boards, which are measured, or work. Pure, on what Ray tells of nodes."""

from collections.abc import Iterable, Mapping
from typing import Any

BOARD = "tailfleet_board"
"""What ``ray start --resources '{"tailfleet_board": 1}'`` says of a machine that is to be measured."""


def has_gpu(nodes: Iterable[Mapping[str, Any]], here: str) -> bool:
    """Whether some machine has a GPU, and a core beside it, for tasks; ``here`` is the coordinator's own node.

    A board's cores are its keeper's, so what needs one beside a board's GPU would wait for ever. Not so on the
    coordinator's own machine, where the gate in the database decides.
    """
    return any(
        node["Alive"]
        and min(node["Resources"].get("GPU", 0), node["Resources"].get("CPU", 0)) >= 1
        and (BOARD not in node["Resources"] or node["NodeID"] == here)
        for node in nodes
    )
