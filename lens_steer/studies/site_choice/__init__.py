"""Which rule chooses the sites best? Selective Steering at the sites of each rule, compared at equal side effects."""
