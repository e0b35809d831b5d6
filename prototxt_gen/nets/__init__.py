"""Floor 2: the networks: configurations, blocks, builder."""
