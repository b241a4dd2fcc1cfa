"""Planning: what to measure, what a schedule will cost and lose, which one to take, and how it came out.

Pure functions over the schema's dataclasses: no clock, no file, no network, no database, no Ray. Left to others:
running jobs (boards), storing results (``db``), spreading the work (``cluster``), drawing (``report``).
"""
