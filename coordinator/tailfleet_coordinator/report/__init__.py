"""What people look at: a campaign's rows as a table, JSON and CSV, its curves as pictures, and one page of it all.

Shows what it is given and computes nothing of its own.
Virtual boards are named virtual in every one of them.
"""
