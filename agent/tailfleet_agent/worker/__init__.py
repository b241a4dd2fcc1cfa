"""The measured child: the one process of a board that may import torch, and the only thing that runs while it times.

``protocol`` speaks with the supervisor over standard input and output, ``run`` visits units × rounds in a
random order, ``timing`` times calls, ``backends`` turn a unit into something that can be timed, ``facts`` says
what only torch can tell of a board. Left to others: deadlines and ending the child (the supervisor's runner),
statistics (the coordinator, from the raw samples).
"""
