"""Dense, POMT and POMT as released on a GPU: eager, compiled, and in a CUDA graph. Nothing where there is none.

Left to others: goals (``bench_methods``).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.benchmarks import turns
from tests.benchmarks.method_latency import BLOCK, RELEASED, kept

MODELS = ["deit_small_patch16_224", "vit_large_patch16_224"]
BATCHES = [1, 4, 16]
MODES = ["eager", "compile", "graph"]
SHARE = 0.5
SECONDS = 3.0


@dataclass(frozen=True)
class Timed:
    """One model at one batch in one mode."""

    model: str
    batch: int
    mode: str
    samples: turns.Samples


def lacking() -> str:
    """Why nothing can be measured; empty where it can."""
    import torch

    return "" if torch.cuda.is_available() else "no GPU that torch can use"


def measure() -> Iterator[Timed]:
    """Everything, half precision, random weights. What cannot be compiled or captured raises."""
    import timm
    import torch
    from tests.benchmarks.release_pomt import ReleasedPomt

    from tailfleet_reduce import apply, dissect
    from tailfleet_schema.schedule import Schedule

    for name in MODELS:
        model = timm.create_model(name).eval().requires_grad_(False).cuda().half()
        geometry = dissect(model).geometry()
        count = kept(geometry, SHARE)
        counts = [geometry.tokens] * BLOCK + [count] * (geometry.depth - BLOCK)
        schedule = Schedule("pomt", name, geometry.tokens, geometry.prefix, counts)
        variants = {turns.DENSE: model, "pomt": apply(model, schedule), RELEASED: ReleasedPomt(model, count, BLOCK)}
        for batch in BATCHES:
            images = torch.randn(batch, 3, geometry.image_size, geometry.image_size, device="cuda").half()
            for mode in MODES:
                torch._dynamo.reset()  # another batch is another program, not a dynamic one
                with torch.inference_mode():
                    calls = {label: _made(mode, one, images) for label, one in variants.items()}
                    yield Timed(name, batch, mode, turns.take(calls, SECONDS))


def _made(mode: str, model, images) -> Callable[[], object]:
    import torch

    run = torch.compile(model, fullgraph=True, dynamic=False) if mode == "compile" else model

    def call() -> None:
        run(images)
        torch.cuda.synchronize()

    if mode != "graph":
        return call
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            model(images)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        model(images)

    def replay() -> None:
        graph.replay()
        torch.cuda.synchronize()

    return replay
