"""As ``papers`` on this machine's CPU in eager PyTorch, of the ViT that was trained on MNIST."""

from tests.benchmarks import bench_papers
from tests.benchmarks.figure import Figure
from tests.benchmarks.papers_boards import BOARDS


def measure(quick: bool = False) -> list[Figure]:
    """The goals' figures, then a row for each cell."""
    return bench_papers.measure(quick, [one for one in BOARDS if one.backend == "eager"], ("mnist_vit",))
