"""Where each distribution's packages come from, and its peculiarities."""
