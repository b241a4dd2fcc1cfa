"""``python -m tailfleet_agent.worker``: see :mod:`tailfleet_agent.worker.protocol`."""

import sys

from tailfleet_agent.worker.protocol import main

if __name__ == "__main__":
    sys.exit(main())
