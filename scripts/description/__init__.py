"""What a finished build is described with: bills of materials, provenance, a report."""
