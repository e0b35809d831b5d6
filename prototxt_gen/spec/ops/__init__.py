"""Layer rules: for each type, the shapes of its tops, its parameter blobs and its multiply-adds."""
