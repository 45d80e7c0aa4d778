"""Completions for many: batches of any size, on one machine or a cluster."""
