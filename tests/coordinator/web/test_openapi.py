"""The document says of every endpoint what the codec takes and gives."""

import dataclasses
import re

import jsonschema
import pytest
from fastapi.routing import iter_route_contexts

from tailfleet_coordinator.replies import (
    AddSchedule,
    CurveDetails,
    DatasetRequest,
    EnrolmentRequest,
    JobDetails,
    JobOrder,
    ModelRequest,
    PlannedFor,
    ShipRequest,
    TokenRequest,
)
from tailfleet_coordinator.web.openapi import components, spoken_by
from tailfleet_schema import codec, schedule
from tailfleet_schema.board import BoardFacts, BoardKind, Hardware, Software, Telemetry
from tailfleet_schema.campaign import CampaignRequest, Objective
from tailfleet_schema.curve import Judgement, Part, Unit, UnitResult
from tailfleet_schema.errors import Blame, DecodeError
from tailfleet_schema.job import Effort, Failure, Job, JobKind, Key
from tailfleet_schema.messages import (
    EnrolRequest,
    ErrorReply,
    FinishRequest,
    HeartbeatRequest,
    Lease,
    LeaseReply,
    LeaseRequest,
    Outcome,
    ReceiptsUpload,
    ResultsUpload,
)
from tailfleet_schema.shipment import PlannedOn, Receipt, Shipment
from tailfleet_schema.workload import DatasetSpec, Geometry, ModelSpec, Workload

TINY = ModelSpec("tiny", "VisionTransformer", Geometry(4, 16, 2, 32, 17, 1, 16, 4, 3, 10))
FACTS = BoardFacts(BoardKind.PHYSICAL, Hardware("m", "aarch64", "cpu", 4, 1 << 30), Software("linux", "5", "3.6", "0"))
STATE = Telemetry("2026-01-01T00:00:00Z", cpu_mhz=[1479.0], temperature_c=41.5)
DENSE = schedule.dense("tiny", TINY.geometry)
JOB = Job("j", JobKind.VERIFY, Workload(TINY), [Unit(Part.SCHEDULE, 17, 17, DENSE.digest)], 2, 1, 0, schedules=[DENSE])
SHIPMENT = Shipment(DENSE.digest, "tiny", TINY.geometry, codec.dumps(DENSE), True, PlannedOn("0" * 64, "c", 1))
ORDER = JobOrder(
    "eager", "fp32", 1, "auto", 3, 3, 9, ["model"], [5, 17], [], [PlannedFor("0" * 64, "topk", [17, 9])], None, None, 0,
    Effort(),
)  # fmt: skip
JOB_DETAILS = JobDetails(
    "j", "c", "sweep", "nano", "physical", "tiny", "leased", False, 1, 2, 1, 1, "2026-01-01T00:00:00+00:00", None, None,
    None, False, None, False, ORDER, {"device": "cpu"}, [],
)  # fmt: skip
CURVE = CurveDetails(
    1, "nano", "physical", "tiny", False, "it was hot", 3, 16, 1, 4, 2, 40, ORDER, {"device": "cpu"}, "0" * 64, "c",
    "j", None, "2026-01-01T00:00:00+00:00",
)  # fmt: skip

SAMPLES = [
    EnrolmentRequest("nano", "jetson-tx2", 5),
    TokenRequest("guest", "viewer"),
    EnrolRequest(FACTS),
    LeaseRequest(FACTS, 0.0, STATE),
    ResultsUpload(
        1,
        [
            UnitResult(Unit(Part.MODEL, 17, 17), 0, [5], telemetry=STATE),
            UnitResult(Unit(Part.LOSS, 17, 5, "topk", 0), 0, judgement=Judgement(2, 1, 1, 0.5, "host", "10")),
        ],
    ),
    HeartbeatRequest(1),
    FinishRequest(1, Outcome.FAILED, Failure("no torch", Blame.LAB), "log"),
    CampaignRequest(["tiny"], ["nano"], objective=Objective(latency_share=0.5)),
    AddSchedule(DENSE),
    ShipRequest("0" * 64, ["nano"]),
    ReceiptsUpload([Receipt("0" * 64, True, "it does not fit")]),
    ModelRequest(TINY),
    JOB_DETAILS,
    CURVE,
    DatasetRequest(DatasetSpec("pets", "0" * 64, 2, 1, 1, "a test", "files", "1" * 64), True),
    LeaseReply(Lease(JOB, 1, 60.0, [Key(Part.MODEL, "", -1, 17, 17, 0)]), [SHIPMENT]),
    ErrorReply("no", Blame.AUTHOR, "yes"),
]


def validator(kind, document):
    return jsonschema.Draft202012Validator({**document, "$ref": f"#/components/schemas/{kind.__name__}"})


def takes(kind, data):
    try:
        codec.decode(kind, data)
    except DecodeError:
        return False
    return True


def spoiled(data):
    """Every way to spoil JSON that JSON Schema can tell, at every place: (what, the spoiled copy)."""
    if isinstance(data, dict):
        yield "unknown field", {**data, "colour": 1}
        for key, value in data.items():
            yield f"without {key}", {name: item for name, item in data.items() if name != key}
            for what, other in spoiled(value):
                yield f"{key}: {what}", {**data, key: other}
    elif isinstance(data, list):
        yield "an object for a list", {}
        for place, value in enumerate(data):
            for what, other in spoiled(value):
                yield f"[{place}]: {what}", [*data[:place], other, *data[place + 1 :]]
    else:
        for other in ("3", "colour", True, 1.5, -(10**30), 10**30, None, [], {}):
            yield f"{other!r} for {data!r}", other


def test_every_endpoint_that_reads_a_body_documents_it(live):
    document = live.app.openapi()
    read = {
        route.endpoint: spoken_by(route.endpoint)
        for route in iter_route_contexts(live.app.routes)
        if route.path in document["paths"]
    }
    bodies = [
        operation["requestBody"]["content"]
        for operations in document["paths"].values()
        for operation in operations.values()
        if "requestBody" in operation
    ]
    assert bodies.count({"application/octet-stream": {"schema": {}}}) == 1
    documented = {
        content["application/json"]["schema"]["$ref"].rpartition("/")[2]
        for content in bodies
        if "application/json" in content
    }
    assert documented == {spoken.body.__name__ for spoken in read.values() if spoken.body not in (None, bytes)}
    # What an endpoint says that it reads is what it reads: its code names the dataclass.
    for endpoint, spoken in read.items():
        if spoken.body is bytes:
            continue
        names = endpoint.__code__.co_names + endpoint.__code__.co_freevars
        assert ("read" in names) == (spoken.body is not None), endpoint
        assert spoken.body is None or spoken.body.__name__ in names, endpoint
    assert documented <= {type(sample).__name__ for sample in SAMPLES}


def test_every_answer_is_documented(live):
    document = live.app.openapi()
    for path, operations in document["paths"].items():
        for operation in operations.values():
            full = (
                {"507"} if "application/octet-stream" in operation.get("requestBody", {}).get("content", {}) else set()
            )
            assert set(operation["responses"]) - {"206"} == {"200", "4XX", "503"} | full, path
            assert operation["security"] == [{"token": []}], path
            refusal = operation["responses"]["4XX"]["content"]["application/json"]["schema"]["$ref"]
            assert refusal.endswith("/ErrorReply")
    assert document["components"]["securitySchemes"]["token"]["scheme"] == "bearer"
    assert "HTTPValidationError" not in document["components"]["schemas"]


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: type(sample).__name__)
def test_the_document_is_as_strict_as_the_codec(sample):
    kind, data = type(sample), codec.encode(sample)
    document = {"components": {"schemas": components([kind])}}
    schema = validator(kind, document)
    schema.validate(data)
    count = 0
    for what, other in spoiled(data):
        # What a dataclass checks itself (a range, a name that is known) is beyond the document.
        if not schema.is_valid(other):
            assert not takes(kind, other), what
            count += 1
        elif not takes(kind, other):
            with pytest.raises(DecodeError) as caught:
                codec.decode(kind, other)
            assert not structural(caught.value.problem), (what, caught.value.sentence)
    assert count > 2


def structural(problem):
    """Whether the codec itself refused it, which JSON Schema can tell, too."""
    kinds = "a list|an object|a whole number|a number|a text|true or false"
    return re.match(rf"unknown field$|is missing$|must be one of |must be ({kinds}), not ", problem)


def test_a_dataclass_that_is_not_named_again_has_its_own_fields():
    schemas = components([AddSchedule])
    assert set(schemas) == {"AddSchedule", "Schedule"}
    assert set(schemas["Schedule"]["properties"]) == {field.name for field in dataclasses.fields(DENSE)}
    assert schemas["Schedule"]["properties"]["restore_before"]["default"] is None
    tokens = schemas["Schedule"]["properties"]["tokens"]
    assert (tokens["minimum"], tokens["maximum"]) == (-(2**63), 2**63 - 1)
    assert schemas["Schedule"]["required"] == ["method", "model", "tokens", "prefix", "keep"]
