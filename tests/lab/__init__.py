"""The lab: a stand-in for Amazon's servers, made of Debian packages and served on loopback.

Its packages are not Amazon Linux. README.md says what the lab proves and what it cannot prove.
"""
