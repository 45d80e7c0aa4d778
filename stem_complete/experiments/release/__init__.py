"""How the released model comes about: its store, its training in slices, its report.

python -m stem_complete.experiments.release.store MICROGRAPHS --store released.zarr
python -m stem_complete.experiments.release.training --store released.zarr --output results
python -m stem_complete.experiments.release.training --publish results
python -m stem_complete.experiments.release.report OTHER_MICROGRAPHS --output report
"""
