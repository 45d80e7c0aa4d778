"""Metrics, classical baselines, figures and tables."""
