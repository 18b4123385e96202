"""Which rule chooses the sites best? Selective Steering at those of each rule, under one budget of side effects."""
