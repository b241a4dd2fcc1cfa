"""Run the benchmarks: ``python -m tests.benchmarks.run [--only NAME]``.

A benchmark is a module ``bench_NAME.py`` here with ``measure() -> list[Figure]``. Exit 0 when all ran, whether
or not their goals were met; a missed goal is printed.
"""

import argparse
import importlib
import sys
import time
from pathlib import Path

from tests.benchmarks import figure


def names() -> list[str]:
    """The benchmarks there are."""
    return sorted(path.stem.removeprefix("bench_") for path in Path(__file__).parent.glob("bench_*.py"))


def main() -> int:
    """Run what was asked for; the exit status."""
    parser = argparse.ArgumentParser(prog="make bench")
    parser.add_argument("--only", choices=names(), help="one benchmark instead of all")
    chosen = parser.parse_args().only
    for name in [chosen] if chosen else names():
        module = importlib.import_module(f"tests.benchmarks.bench_{name.replace('-', '_')}")
        print(f"{name}: {(module.__doc__ or '').strip().splitlines()[0]}", flush=True)
        began = time.monotonic()
        figures = module.measure()
        path = figure.write(name, figures)
        for one in figures:
            print(figure.line(one))
        print(f"  {path.relative_to(figure.ROOT)} written, {time.monotonic() - began:.0f} s\n", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
