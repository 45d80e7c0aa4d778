"""Folders on disks and object stores: their files, who holds one, and what is done in it.

Works of several kinds lie on these: runs, batches of completions, evaluations.
"""
