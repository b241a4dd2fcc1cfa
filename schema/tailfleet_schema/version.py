"""The release and the number of the protocol that boards and coordinator speak."""

__version__ = "0.1.0"

PROTOCOL = 4
"""Raised when a message changes its meaning; a coordinator refuses an agent of another protocol."""
