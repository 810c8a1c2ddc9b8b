"""Running programs of another architecture, during a build and inside the images."""
