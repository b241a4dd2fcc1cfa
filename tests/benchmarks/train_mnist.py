"""Train ``mnist_vit`` again, over its bundled weights: ``python -m tests.benchmarks.train_mnist [--out FILE]``."""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.benchmarks import mnist

from tailfleet_coordinator.bundled import labelled


def main() -> int:
    """Train; the exit status of the training."""
    parser = argparse.ArgumentParser(prog="make train-mnist")
    parser.add_argument("--out", type=Path, default=mnist.CHECKPOINT, help="where the weights go (%(default)s)")
    out = parser.parse_args().out
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.npz"
        command = labelled.training_command(mnist.model(None), *mnist.dataset(), weights, mnist.TRAINING)
        status = subprocess.run(command, check=False).returncode
        if status == 0:
            out.write_bytes(weights.read_bytes())
    return status


if __name__ == "__main__":
    sys.exit(main())
