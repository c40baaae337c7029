"""From NIH's files to batches: cohort, split, image store, loader."""
