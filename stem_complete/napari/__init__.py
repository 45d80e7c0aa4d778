"""A plugin of napari, see `napari.yaml`: a reader, examples, and a panel that completes.

Only the panel needs Qt.
"""
