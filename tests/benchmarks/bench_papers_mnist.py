"""As ``papers``, of the ViT that was trained on MNIST: its images are harder, so that methods differ sooner."""

from tests.benchmarks import bench_papers
from tests.benchmarks.figure import Figure


def measure(quick: bool = False) -> list[Figure]:
    """The goals' figures, then a row for each cell."""
    return bench_papers.measure(quick, models=("mnist_vit",))
