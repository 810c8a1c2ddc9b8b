"""What `./nox` and the noxfile need, in terms of the standard library and Nox alone."""
