"""Files -> micrographs -> a store of crops -> batches."""
