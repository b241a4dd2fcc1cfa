"""As ``papers`` on this machine's CPU, in eager PyTorch and in ONNX Runtime."""

from tests.benchmarks import bench_papers
from tests.benchmarks.figure import Figure
from tests.benchmarks.papers_boards import BOARDS


def measure(quick: bool = False) -> list[Figure]:
    """The goals' figures, then a row for each cell."""
    return bench_papers.measure(quick, [one for one in BOARDS if one.profile is None])
