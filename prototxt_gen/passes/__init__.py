"""Floor 3: passes, each a function from a Model to a PassResult."""
