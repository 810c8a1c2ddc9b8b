"""Running programs of another architecture: while images are built, and inside them."""
