"""A job to be given, and a child that does it as told."""

from tailfleet_schema.board import BoardFacts, BoardKind, Hardware, Software
from tailfleet_schema.curve import Part, Unit
from tailfleet_schema.job import Job, JobKind
from tailfleet_schema.messages import Lease
from tailfleet_schema.workload import Geometry, ModelSpec, Workload

FACTS = BoardFacts(
    BoardKind.VIRTUAL, Hardware("m", "x86_64", "cpu", 2, 1 << 30), Software("os", "k", "3", "0"), "jetson-nano"
)
GEOMETRY = Geometry(2, 8, 2, 16, 5, 1, 8, 4, 1, 3)

# A child that follows the protocol; {act} is what it does before its n-th result.
CHILD = """
import json, os, signal, sys
order = json.loads(sys.stdin.readline())
job, known = order["job"], order["known"]
n = 0
for r in range(job["rounds"]):
    for unit in job["units"]:
        key = dict(unit, round=r)
        if key in known:
            continue
        {act}
        n += 1
        print(json.dumps({{"result": {{"unit": unit, "round": r, "call_ns": [7]}}}}), flush=True)
        if sys.stdin.readline().strip() != "go":
            sys.exit(3)
print(json.dumps({{"done": True}}), flush=True)
"""


def lease(attempt=1, known=(), earlier=(), runtime=None, **changes):
    units = [Unit(Part.MODEL, n, n) for n in (5, 4, 3)]
    values = {
        "id": "job-1",
        "kind": JobKind.SWEEP,
        "workload": Workload(ModelSpec("tiny", "VisionTransformer", GEOMETRY), backend="virtual"),
        "units": units,
        "rounds": 2,
        "calls": 1,
        "seed": 0,
    }
    values.update(changes)
    return Lease(Job(**values), attempt, 60.0, list(known), list(earlier), runtime or {})
