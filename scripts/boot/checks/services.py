"""Checks of the guest's services: systemd and cloud-init."""

from __future__ import annotations

from scripts.boot.checks.rule import check, failed_if
from scripts.boot.checks.text import as_object, json_object
from scripts.boot.facts import Facts, Verdict
from scripts.boot.probes import Answers


def running(answers: Answers) -> Verdict:
    """Judge the answers to the probes state and failed-units: systemd must run undisturbed."""
    state, failed = answers["state"].text, answers["failed-units"].text
    units = ", ".join(line.split()[0] for line in failed.splitlines() if line.strip())
    problems = {f"failed units: {units}": units, f"systemd is {state}": state != "running"}
    return failed_if(problems, "\n".join(filter(None, [state, failed])))


@check(
    "system-running",
    "systemd is running and no unit has failed",
    needs=["first"],
    probes=["state", "failed-units"],
)
def system_running(_facts: Facts, first: Answers) -> Verdict:
    """Every unit that the presets enable starts at the first boot."""
    return running(first)


@check(
    "cloud-init",
    "cloud-init finished without errors",
    needs=["first"],
    probes=["cloud-init", "cloud-init-status"],
)
def cloud_init(_facts: Facts, first: Answers) -> Verdict:
    """It found the seed and applied it. Recoverable errors (its warnings) are evidence only."""
    result = as_object(json_object(first["cloud-init"].text).get("v1", {}))
    status = as_object(json_object(first["cloud-init-status"].text).get("v1", {}))
    errors = list(result.get("errors", []))
    warnings = {
        stage: found
        for stage, details in status.items()
        if isinstance(details, dict) and (found := details.get("recoverable_errors"))
    }
    problems = {
        "cloud-init did not finish": not result,
        f"cloud-init had errors: {errors}": errors,
        f"cloud-init took its data from {result.get('datasource')}": (
            result and "NoCloud" not in str(result.get("datasource"))
        ),
    }
    return failed_if(problems, f"result: {result}\nrecoverable errors: {warnings or 'none'}")
