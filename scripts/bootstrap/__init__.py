"""What `./nox` and the noxfile need. It imports only the standard library and Nox."""
