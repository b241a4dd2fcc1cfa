"""What runs on a board: a supervisor that asks a coordinator for work, and the measured child that does it.

The supervisor (``cli``, ``config``, ``client``, ``loop``, ``spool``, ``runner``, ``schedules``, ``probes``,
``readout``) is standard library only and never imports torch; the measured child is ``tailfleet_agent.worker``.
"""
