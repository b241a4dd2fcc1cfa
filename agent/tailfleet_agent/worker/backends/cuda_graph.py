"""A captured CUDA graph: each unit's kernels are recorded once and then launched together, which costs no launch each.

At batch 1 a GPU often waits for launches; a graph shows what is left without them. What a unit reads lies where it lay
when it was captured. All graphs share one pool of memory, for no two of them run at once and what one leaves is read
before the next one runs.
"""

from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple, cast

import torch

from tailfleet_agent.worker import timing
from tailfleet_agent.worker.backends.batches import in_batches
from tailfleet_agent.worker.backends.eager import TorchBackend
from tailfleet_agent.worker.backends.programs import Program
from tailfleet_schema.curve import Unit, UnitKey
from tailfleet_schema.errors import ConfigurationError
from tailfleet_schema.job import Job

WARM_UP_CALLS = 3
"""Before a capture, on a side stream, as torch asks for: libraries choose kernels and workspaces in the first calls."""


class CudaGraphBackend(TorchBackend):
    """As ``TorchBackend``, each program captured. Raises ``ConfigurationError`` without a CUDA GPU."""

    def __init__(self, job: Job, artifacts: str, runtime: Optional[Mapping[str, str]] = None) -> None:
        self._calls: Dict[UnitKey, timing.Call] = {}
        self._peaks: Dict[UnitKey, int] = {}
        self._runners: Dict[str, Callable[[Any], Any]] = {}
        self._pool: Any = None
        super().__init__(job, artifacts, runtime)

    def check(self, dtype: str) -> None:
        """Also ask for a GPU, and a torch that captures graphs."""
        if self._device != "cuda":
            raise ConfigurationError(
                "a CUDA graph needs a CUDA GPU, and torch {} sees none on this board".format(torch.__version__),
                "ask for backend eager",
            )
        if not hasattr(torch.cuda, "graph"):
            raise ConfigurationError(
                "torch {} captures no CUDA graphs".format(torch.__version__), "install torch 1.10 or newer"
            )
        super().check(dtype)

    def prepare(self, unit: Unit) -> timing.Call:
        """As ``TorchBackend.prepare``; a unit is captured once."""
        key = unit.key(0)
        if key not in self._calls:
            self._calls[key] = super().prepare(unit)
            # A replay allocates nothing: what a unit needs is seen when it is captured.
            self._peaks[key] = int(torch.cuda.max_memory_allocated())
        return self._calls[key]

    def measure(self, unit: Unit, round_number: int, calls: int) -> List[int]:
        """As ``TorchBackend.measure``."""
        taken = super().measure(unit, round_number, calls)
        self._peak = self._peaks[unit.key(0)]
        return taken

    def callable(self, program: Program) -> timing.Call:
        """Capture ``program``; the call replays it."""
        return self._captured(program)[0]

    def predict(self, digest: str, images: Any) -> Any:
        """See ``Backend``; batch by batch, by the graph of the workload's batch."""
        whole = super().predict
        return in_batches(images, self._job.workload.batch, lambda part: whole(digest, part))

    def runner(self, digest: str) -> Callable[[Any], Any]:
        """The schedule's own graph, its images copied to where it reads them."""
        if digest not in self._runners:
            given = self._programs.images.clone()
            replay, logits = self._captured(Program(self._programs.reduced(digest), (given,)))

            def run(images: Any) -> Any:
                given.copy_(images)
                replay()
                return logits

            self._runners[digest] = run
        return self._runners[digest]

    def _captured(self, program: Program) -> Tuple[timing.Call, Any]:
        """What replays ``program``, and where its outputs lie."""
        module, inputs = program
        side: Any = cast(Any, torch.cuda).Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP_CALLS):
                module(*inputs)
        torch.cuda.current_stream().wait_stream(side)
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            outputs = module(*inputs)
        # The inputs must live as long as the graph reads them.
        return _Replay(graph, inputs), outputs


class _Replay:
    """Launches a graph, whose inputs it keeps."""

    def __init__(self, graph: Any, inputs: Tuple[Any, ...]) -> None:
        self._launch = graph.replay
        self._inputs = inputs

    def __call__(self) -> None:
        self._launch()
