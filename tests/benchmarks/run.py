"""Run the benchmarks: ``python -m tests.benchmarks.run [--only NAME] [--quick]``.

A benchmark is a module ``bench_NAME.py`` here with ``measure() -> list[Figure]``, or ``measure(quick)`` where it can be
shortened to see that it runs. Exit 0 when all ran, whether or not their goals were met; a missed goal is printed.
"""

import argparse
import importlib
import inspect
import signal
import sys
import time
from pathlib import Path

from tests.benchmarks import figure


def names() -> list[str]:
    """The benchmarks there are."""
    return sorted(
        path.stem.removeprefix("bench_").replace("_", "-") for path in Path(__file__).parent.glob("bench_*.py")
    )


def main() -> int:
    """Run what was asked for; the exit status."""
    parser = argparse.ArgumentParser(prog="make bench")
    parser.add_argument("--only", choices=names(), help="one benchmark instead of all")
    parser.add_argument("--quick", action="store_true", help="shortened, where one can be: no figures to be quoted")
    options = parser.parse_args()
    # What a benchmark has started is ended by its own clean-up, which a plain SIGTERM would skip.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    for name in [options.only] if options.only else names():
        module = importlib.import_module(f"tests.benchmarks.bench_{name.replace('-', '_')}")
        print(f"{name}: {(module.__doc__ or '').strip().splitlines()[0]}", flush=True)
        began = time.monotonic()
        short = options.quick and "quick" in inspect.signature(module.measure).parameters
        figures = module.measure(quick=True) if short else module.measure()
        path = figure.write(f"{name}-quick" if short else name, figures)
        for one in figures:
            print(figure.line(one))
        print(f"  {path.relative_to(figure.ROOT)} written, {time.monotonic() - began:.0f} s\n", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
