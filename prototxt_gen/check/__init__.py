"""Floor 4: what a net is checked against: rules, another net, the paper."""
