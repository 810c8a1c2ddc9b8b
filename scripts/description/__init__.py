"""Descriptions of a finished build: bills of materials, provenance, a report, comparisons."""
