"""Micrographs and partial scans from the files of instruments and programs."""
