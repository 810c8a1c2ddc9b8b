"""The lab: a world in the shape of Amazon Linux 2023's, made of Debian packages, on loopback.

It is not Amazon Linux. What it can prove and what it cannot is said in README.md.
"""
