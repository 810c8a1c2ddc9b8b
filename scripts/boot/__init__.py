"""The boot test: boots a built image under QEMU and checks what came up."""

from scripts.boot.results import Check, Result
from scripts.boot.test import Subject, boot_test

__all__ = ["Check", "Result", "Subject", "boot_test"]
