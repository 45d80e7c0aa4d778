"""Completions over HTTP: single scans, jobs, and live scans, on Ray Serve."""
