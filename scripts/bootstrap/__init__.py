"""Modules for `./nox` and the noxfile, which import only the standard library and Nox."""
