"""As ``papers`` on virtual boards, of the ViT that was trained on MNIST: its images are harder, so that methods differ
sooner. This machine's CPU has a benchmark of its own, ``papers-mnist-cpu``, for the time they take."""

from tests.benchmarks import bench_papers
from tests.benchmarks.figure import Figure
from tests.benchmarks.papers_boards import BOARDS


def measure(quick: bool = False) -> list[Figure]:
    """The goals' figures, then a row for each cell."""
    return bench_papers.measure(quick, [one for one in BOARDS if one.profile is not None], ("mnist_vit",))
