"""The language that boards and coordinator share: facts, jobs, results, schedules, messages.

Standard library only, Python 3.6 or newer, no input or output. Everything here is a frozen dataclass
or a pure function; what travels is decoded by :mod:`tailfleet_schema.codec`, which refuses anything it
does not know. Left to others: HTTP (agent, coordinator), tensors (``tailfleet_reduce``), SQL (coordinator).
"""

from tailfleet_schema.version import PROTOCOL, __version__

__all__ = ["PROTOCOL", "__version__"]
