"""Latency of reduced models and of the reduction step, in a process of its own for each runtime.

``python -m tests.benchmarks.method_latency ORDER``, one JSON object: ``{"role": "eager" | "export" | "onnxruntime" |
"step", "model": …, "batch": …, "seconds": …, "folder": …}``. It prints the nanoseconds of every call as JSON;
``export`` writes a graph for each reduced model, its batch free, into the folder. Which schedules: see ``schedules``.
Left to others: ratios and goals (``bench_methods``).
"""

import json
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from tests.benchmarks import turns

from tailfleet_coordinator import bundled
from tailfleet_schema.schedule import Schedule
from tailfleet_schema.workload import Geometry, ModelSpec

METHODS = ["random", "topk", "evit", "pomt", "tome", "zero-tprune", "cropr"]
RELEASED = "pomt as released"

BLOCK = 3
"""Tokens leave here, all at once: where POMT was published."""

SHARES = [0.75, 0.5]
"""Of all tokens that leave that block, in every method."""

EARLY_BLOCK = 2
"""Where Zero-TPrune passes importance on most often."""

OPSET = 20


def spec(name: str) -> ModelSpec:
    """The model of that name: bundled, or the benchmarks' own where its module is there."""
    found = {model.name: model for model in bundled.models()}
    if name not in found:
        from tests.benchmarks import mnist

        found[mnist.MODEL] = mnist.model(None)
    return found[name]


def kept(geometry: Geometry, share: float) -> int:
    """``share`` of the tokens, or the fewest that every method can leave in one block."""
    return max(round(share * geometry.tokens), geometry.tokens - (geometry.tokens - geometry.prefix) // 2)


def schedules(model: str, geometry: Geometry) -> dict[str, Schedule]:
    """Each method at each share, by the name it is timed under."""
    found = {}
    for share in SHARES:
        keep = [geometry.tokens] * BLOCK + [kept(geometry, share)] * (geometry.depth - BLOCK)
        for method in METHODS:
            found[named(method, share)] = Schedule(method, model, geometry.tokens, geometry.prefix, keep)
    return found


def named(method: str, share: float) -> str:
    """What a method at a share is timed under."""
    return f"{method} at {share:g}"


def models(name: str) -> dict:
    """The dense model and all reduced ones, random weights, by the name they are timed under."""
    import torch
    from tests.benchmarks.release_pomt import ReleasedPomt

    from tailfleet_agent.worker.models import assemble
    from tailfleet_reduce import apply, dissect
    from tailfleet_reduce.queries import untrained

    told = spec(name)
    torch.manual_seed(0)
    model = assemble(told.name, told.architecture, told.arguments).eval().requires_grad_(False)
    geometry = dissect(model).geometry()
    queries = untrained(geometry.depth, geometry.dim)
    found = {turns.DENSE: model}
    for label, schedule in schedules(name, geometry).items():
        found[label] = apply(model, schedule, queries=queries if schedule.method == "cropr" else None)
    for share in SHARES:
        found[named(RELEASED, share)] = ReleasedPomt(model, kept(geometry, share), BLOCK)
    return found


def eager(order: dict) -> dict:
    """Whole models in torch."""
    import torch

    images = _images(order)
    with torch.inference_mode():
        given = torch.from_numpy(images)
        calls = {name: _bound(model, given) for name, model in models(order["model"]).items()}
        return turns.take(calls, order["seconds"])


def step(order: dict) -> dict:
    """What a reducing block does beyond a dense one's own operators, at ``SHARES[0]``.

    That is: plan, and look up or join tokens (of x, and of what attention made of them, or of its queries), once with
    all that the plan reads computed before. Where a method reads the whole of S, its call holds explicit attention too,
    and ``fused`` is what that replaces. ``dense`` is a whole block on the same tokens.
    """
    import torch

    from tailfleet_agent.worker.models import assemble
    from tailfleet_reduce import dissect
    from tailfleet_reduce.methods import method_for
    from tailfleet_reduce.queries import untrained
    from tailfleet_schema.schedule import MID

    told = spec(order["model"])
    torch.manual_seed(0)
    anatomy = dissect(assemble(told.name, told.architecture, told.arguments).eval().requires_grad_(False))
    geometry = anatomy.geometry()
    count, queries = kept(geometry, SHARES[0]), untrained(geometry.depth, geometry.dim)

    def reducing(method, block, x, normed, parts, joined) -> Callable[[], object]:
        q, k, v = parts
        attn = block.module.attn

        def call() -> None:
            state = anatomy.state(method)
            state.wants_sizes = method.proportional
            evidence = block._evidence(state, q, k, v, None).behind(x)
            reduction = method.plan(evidence, count)
            if method.needs_probabilities(anatomy.has_class_token):
                block._join(evidence.mixed(attn.attn_drop), normed)
            state.reduced(method, reduction, x, geometry.tokens)
            reduction.tokens(x)
            if method.placement == MID and reduction.selected() is not None:
                reduction.tokens(q.transpose(1, 2).flatten(2))
            elif method.placement == MID and reduction.normalised:
                reduction.tokens(joined)

        return call

    with torch.inference_mode():
        x = torch.randn(order["batch"], geometry.tokens, geometry.dim)
        calls: dict[str, Callable[[], object]] = {}
        for number in (BLOCK, EARLY_BLOCK):
            block = anatomy.blocks[number]
            normed = block.module.norm1(x)
            q, k, v = parts = block._heads(normed, anatomy.state())
            joined = block._join(block._attend(q, k, v, None), normed)
            for name in METHODS if number == BLOCK else ["zero-tprune"]:
                method = method_for(name, anatomy, {}, queries)
                label = name if number == BLOCK else f"{name} in block {number}"
                calls[label] = reducing(method, block, x, normed, parts, joined)
            if number == BLOCK:
                calls[turns.DENSE] = _bound(block.module, x)
                calls["fused"] = lambda b=block, p=parts, n=normed: b._join(b._attend(*p, None), n)
        return turns.take(calls, order["seconds"])


def export(order: dict) -> dict:
    """Graphs of all but POMT's release, whose interest is eager; their folder holds nothing else."""
    import torch

    side = spec(order["model"]).geometry.image_size
    images = torch.randn(2, spec(order["model"]).geometry.channels, side, side)
    written = {}
    for number, (name, model) in enumerate(models(order["model"]).items()):
        if name.startswith(RELEASED):
            continue
        path = os.path.join(order["folder"], f"{number}.onnx")
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # the exporter speaks of its own deprecations
            torch.onnx.export(
                model,
                (images,),
                path,
                dynamo=True,
                opset_version=OPSET,
                input_names=["images"],
                dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},),
                external_data=True,
                verbose=False,
            )
        written[name] = path
    Path(order["folder"], "graphs.json").write_text(json.dumps(written))
    return {}


def onnxruntime(order: dict) -> dict:
    """The graphs of ``export`` in ONNX Runtime, all sessions with the one pool of threads a program would have."""
    import onnxruntime as ort

    if hasattr(ort, "set_global_thread_pool_sizes"):
        ort.set_global_thread_pool_sizes(0, 1)
    images = _images(order)
    calls = {}
    for name, path in json.loads(Path(order["folder"], "graphs.json").read_text()).items():
        options = ort.SessionOptions()
        options.log_severity_level = 3
        if hasattr(ort, "set_global_thread_pool_sizes"):
            options.use_per_session_threads = False
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        calls[name] = lambda session=session: session.run(None, {"images": images})
    return turns.take(calls, order["seconds"])


def _images(order: dict) -> np.ndarray:
    geometry = spec(order["model"]).geometry
    shape = (order["batch"], geometry.channels, geometry.image_size, geometry.image_size)
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def _bound(call: Callable, given) -> Callable[[], object]:
    return lambda: call(given)


ROLES = {"eager": eager, "export": export, "onnxruntime": onnxruntime, "step": step}


def main() -> int:
    """Serve one order; see the module."""
    # Libraries print where they please: the answer has a channel of its own.
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    order = json.loads(sys.argv[1])
    json.dump(ROLES[order["role"]](order), channel)
    channel.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
