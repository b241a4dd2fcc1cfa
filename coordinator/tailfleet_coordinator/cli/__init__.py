"""The command line ``tailfleet``: one module a noun. Thin: it reads options, calls ``Fleet``, and prints.

Exit 0 for success, 1 for a failure, 2 for a request that cannot be meant. Left to others: everything else.
"""
