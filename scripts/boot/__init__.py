"""The boot test: boots a built image under QEMU and checks the running guest."""

from scripts.boot.rehearsal import Subject, boot_test
from scripts.boot.results import Check, Result

__all__ = ["Check", "Result", "Subject", "boot_test"]
