"""Where each distribution's packages come from, and what is special about it."""
