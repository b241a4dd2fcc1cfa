"""A lab's own models and images: from files on a disk to what the coordinator registers.

Reads folders and makes artifacts; neither HTTP nor SQL is known here, and no image is decoded: pixels are the measured
child's work.
"""
