"""The store of crops: the one owner of its zarr layout."""
