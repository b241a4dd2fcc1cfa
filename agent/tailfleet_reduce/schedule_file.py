"""A schedule out of a file, for programs of one's own. What a schedule says is checked by the schema."""

from tailfleet_schema import codec
from tailfleet_schema.errors import InputError
from tailfleet_schema.schedule import Schedule

MOST_BYTES = 1 << 20
"""Far more than a count for each of a thousand blocks takes."""


def load_schedule(path: str) -> Schedule:
    """The schedule in the JSON file ``path``, in the form that ``tailfleet schedule show`` prints.

    Raises ``InputError``, which names the file, for one that cannot be read or does not hold a schedule.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise InputError("schedule {} cannot be read: {}".format(path, error.strerror))
    if len(content) > MOST_BYTES:
        raise InputError("schedule {} is larger than {} bytes: that is no schedule".format(path, MOST_BYTES))
    try:
        return codec.loads(Schedule, content, "schedule")
    except InputError as error:
        raise InputError("{}: {}".format(path, error.sentence), error.mend)
