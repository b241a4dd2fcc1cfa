"""The JetPack that a release of L4T belongs to, from NVIDIA's archive of releases; newer ones than listed are None."""

from tailfleet_agent.probes import l4t

_RELEASES = {
    "28.1": "3.1", "28.2": "3.2", "28.2.1": "3.2.1", "28.3": "3.3", "28.4": "3.3.3", "28.5": "3.3.4",
    "31.1": "4.1.1", "32.1": "4.2", "32.2": "4.2.1", "32.2.1": "4.2.2", "32.2.3": "4.2.3", "32.3.1": "4.3",
    "32.4.2": "4.4-DP", "32.4.3": "4.4", "32.4.4": "4.4.1", "32.5": "4.5", "32.5.1": "4.5.1", "32.5.2": "4.5.1",
    "32.6.1": "4.6", "32.7.1": "4.6.1", "32.7.2": "4.6.2", "32.7.3": "4.6.3", "32.7.4": "4.6.4", "32.7.5": "4.6.5",
    "32.7.6": "4.6.6", "34.1": "5.0-DP", "34.1.1": "5.0.1-DP", "35.1": "5.0.2", "35.2.1": "5.1", "35.3.1": "5.1.1",
    "35.4.1": "5.1.2", "35.5": "5.1.3", "35.6": "5.1.4", "35.6.1": "5.1.5", "36.2": "6.0-DP", "36.3": "6.0",
    "36.4": "6.1", "36.4.3": "6.2", "36.4.4": "6.2.1", "36.5": "6.2.2", "38.2": "7.0", "38.4": "7.1",
}  # fmt: skip


def available(root: str) -> bool:
    """Whether this is a Jetson with NVIDIA's Linux."""
    return l4t.available(root)


def read(root: str) -> str:
    """Such as ``4.6.1``. Raises ``ValueError`` for a release that is not listed."""
    release = l4t.read(root)
    # NVIDIA writes the first of a series with and without its zero.
    known = _RELEASES.get(release) or _RELEASES.get(release[: -len(".0")] if release.endswith(".0") else release)
    if known is None:
        raise ValueError("no JetPack is known for L4T {}".format(release))
    return known
