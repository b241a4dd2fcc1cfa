"""A lab's models and images: listing and registering them, and the artifacts that carry their weights and files.

What is registered is judged first: nothing is stored of a model whose weights are not here, or of images that the index
does not vouch for. Making artifacts from files is left to the library room, fetching them to boards.
"""

from fastapi import APIRouter, Depends, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse
from starlette.requests import ClientDisconnect

from tailfleet_coordinator import bundled
from tailfleet_coordinator.artifacts import Artifacts, check_sha256
from tailfleet_coordinator.library import admission, pack
from tailfleet_coordinator.names import check_name
from tailfleet_coordinator.refusals import BodyTooLarge, NameTaken
from tailfleet_coordinator.replies import (
    DatasetAdded,
    DatasetRequest,
    Datasets,
    ModelAdded,
    ModelRequest,
    Models,
    StoredArtifact,
)
from tailfleet_coordinator.web.access import Door
from tailfleet_coordinator.web.context import Context
from tailfleet_coordinator.web.openapi import speaks
from tailfleet_coordinator.web.wire import check_range, read, reply
from tailfleet_schema.errors import InputError
from tailfleet_schema.workload import DatasetIndex, DatasetSpec

PIECE_BYTES = 4 << 20
"""An upload is written in pieces of this size: large enough that the way to the disk's thread costs nothing."""

INDEX_BYTES = 512 << 20
"""The largest index that is read; some four million images."""

BINARY = "application/octet-stream"


def library_routes(context: Context, door: Door) -> APIRouter:
    """Endpoints of models, datasets and artifacts."""
    router = APIRouter(prefix="/v1", tags=["library"])
    store, settings, artifacts = context.store, context.settings, context.artifacts
    reader = [Depends(door.reader)]
    operator = [Depends(door.operator)]

    @router.get("/artifacts/{sha256}", dependencies=[Depends(door.anyone)])
    @speaks(bytes)
    def artifact(request: Request, sha256: str) -> Response:
        path = artifacts.path(sha256)
        check_range(request, path.stat().st_size)
        return FileResponse(path, media_type=BINARY)

    @router.head("/artifacts/{sha256}", dependencies=[Depends(door.anyone)])
    @speaks(bytes)
    def has_artifact(request: Request, sha256: str) -> Response:
        return artifact(request, sha256)

    @router.put("/artifacts/{sha256}", dependencies=operator)
    @speaks(StoredArtifact, body=bytes)
    async def put_artifact(request: Request, sha256: str) -> Response:
        check_sha256(sha256)
        if not artifacts.has(sha256):
            # What is still coming when this refuses, the server reads and throws away, so that the client hears why.
            await _receive(request, artifacts, sha256, settings.artifact_bytes)
        return reply(StoredArtifact(sha256, artifacts.path(sha256).stat().st_size))

    @router.get("/models", dependencies=reader)
    @speaks(Models)
    def models() -> Response:
        return reply(Models(store.list_models()))

    @router.post("/models", dependencies=operator)
    @speaks(ModelAdded, body=ModelRequest)
    async def add_model(request: Request) -> Response:
        message = await read(request, ModelRequest, settings.body_bytes)

        def register() -> ModelAdded:
            spec = message.model
            if spec.name in bundled.MODEL_NAMES and spec not in bundled.models():
                raise NameTaken(f"{spec.name!r} comes with tailfleet", "choose another name")
            _need(artifacts, spec.checkpoint_sha256, "the checkpoint")
            return ModelAdded(spec, spec.digest, store.add_model(spec, message.replace))

        return reply(await run_in_threadpool(register))

    @router.get("/datasets", dependencies=reader)
    @speaks(Datasets)
    def datasets() -> Response:
        return reply(Datasets(store.list_datasets()))

    @router.post("/datasets", dependencies=operator)
    @speaks(DatasetAdded, body=DatasetRequest)
    async def add_dataset(request: Request) -> Response:
        message = await read(request, DatasetRequest, settings.body_bytes)

        def register() -> DatasetAdded:
            spec = message.dataset
            check_name("dataset", spec.name)
            if spec.name in bundled.DATASET_NAMES:
                raise NameTaken(f"{spec.name!r} comes with tailfleet", "choose another name")
            check_files(artifacts, spec)
            return DatasetAdded(spec, store.add_dataset(spec, message.replace))

        return reply(await run_in_threadpool(register))

    return router


def check_files(artifacts: Artifacts, spec: DatasetSpec) -> DatasetIndex:
    """The dataset's index. Raises ``InputError`` unless index and pack are here and are what ``spec`` says."""
    _need(artifacts, spec.sha256, "the index")
    if artifacts.path(spec.sha256).stat().st_size > INDEX_BYTES:
        raise InputError(f"the index is larger than {INDEX_BYTES} bytes", "divide the images into several datasets")
    index = admission.check_dataset(spec, artifacts.read(spec.sha256))
    if spec.pack_sha256 is not None:
        _need(artifacts, spec.pack_sha256, "the pack")
        pack.check_directory(artifacts.path(spec.pack_sha256), [file.path for file in index.files])
    return index


def _need(artifacts: Artifacts, sha256: str | None, what: str) -> None:
    if sha256 is None:
        return
    check_sha256(sha256)
    if not artifacts.has(sha256):
        raise InputError(f"{what} {sha256[:12]} is not here", f"send it first: PUT /v1/artifacts/{sha256}")


async def _receive(request: Request, artifacts: Artifacts, sha256: str, limit_bytes: int) -> None:
    """Write the request's body to disk as it comes.

    Raises ``BodyTooLarge``, ``StorageFull``, or ``InputError`` for other bytes than the name promises. What the client
    says of the length is believed only where it makes the answer come sooner.
    """
    promised = request.headers.get("Content-Length", "")
    if promised.isdecimal():
        _refuse_larger(int(promised), limit_bytes)
        await run_in_threadpool(artifacts.check_room, sha256, int(promised))
    with artifacts.draft(sha256) as draft:
        waiting = bytearray()
        try:
            async for chunk in request.stream():
                waiting += chunk
                _refuse_larger(draft.size + len(waiting), limit_bytes)
                if len(waiting) >= PIECE_BYTES:
                    await run_in_threadpool(draft.write, bytes(waiting))
                    waiting.clear()
        except ClientDisconnect:
            raise InputError("the connection ended before the artifact was whole", "send it again") from None
        await run_in_threadpool(draft.write, bytes(waiting))
        await run_in_threadpool(draft.keep)


def _refuse_larger(size: int, limit_bytes: int) -> None:
    if size > limit_bytes:
        raise BodyTooLarge(f"an artifact may have {limit_bytes} bytes, and this one has more", "send fewer images")
