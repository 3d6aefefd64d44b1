"""The data sets: where they come from, images in memory, scoring batches."""
