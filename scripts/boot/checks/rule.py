"""What a check is: a name, what must hold, the facts it needs, and its verdict on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Concatenate, cast

from scripts.boot.console import plain
from scripts.boot.facts import Facts, Verdict
from scripts.boot.probes import Answers
from scripts.boot.results import Check, Status
from scripts.catalog import Distribution
from scripts.system import strict
from scripts.system.text import cut

# The boots whose guest is asked the probes.
ASKED = ("first", "second")

# Characters of a check's evidence and of its reason that the results keep. A sound guest's evidence
# has a few thousand at most.
EVIDENCE = 50_000
REASON = 2_000

# A verdict function takes all facts, and then the value of each fact that its check needs.
Decide = Callable[Concatenate[Facts, ...], Verdict]


@dataclass(frozen=True)
class Rule:
    """A check as it is declared with `check`, which describes the fields."""

    name: str
    title: str
    decide: Decide
    needs: tuple[str, ...]
    probes: tuple[str, ...]
    fatal: bool
    distribution: str
    packages: str

    def is_for(self, distribution: Distribution) -> bool:
        """Return whether images of distribution are checked by this rule."""
        return (
            self.distribution in ("", distribution.name)
            and self.packages in ("", distribution.package_format)
        )  # fmt: skip

    def asks(self, boot: str) -> tuple[str, ...]:
        """The names of the probes that this check reads in boot, "first" or "second"."""
        return self.probes if boot in self.needs else ()

    def outcome(self, facts: Facts) -> Check:
        """Judge facts. The check is skipped if a fact that it needs has not been collected.

        The check fails if an answer is missing or malformed, because a guest may answer anything.
        """
        given = [self._given(need, facts.get(need)) for need in self.needs]
        if any(fact is None for fact in given):
            return Check(self.name, self.title, Status.SKIPPED)
        try:
            verdict = self._missing(given) or self.decide(facts, *given)
        except strict.ODDITIES as error:
            verdict = Verdict(f"the guest's answer makes no sense: {error!r}", self._answers(given))
        status = Status.FAILED if verdict.reason else Status.PASSED
        evidence, reason = cut(verdict.evidence, EVIDENCE), cut(verdict.reason, REASON)
        return Check(self.name, self.title, status, plain(evidence), plain(reason))

    def _missing(self, given: Sequence[object]) -> Verdict | None:
        """The verdict on a guest that left a probe of this check without an answer, or None."""
        asked = (fact for need, fact in zip(self.needs, given, strict=True) if need in ASKED)
        answered = [cast("Answers", fact).keys() for fact in asked]
        missing = [name for name in self.probes if any(name not in names for names in answered)]
        if not missing:
            return None
        return Verdict(f"the guest did not answer: {', '.join(missing)}", self._answers(given))

    def _answers(self, given: Sequence[object]) -> str:
        """The guest's answers among the facts given, as evidence."""
        return "\n".join(
            f"{name}: {answer.text}"
            for need, fact in zip(self.needs, given, strict=True)
            if need in ASKED
            for name, answer in cast("Answers", fact).items()
        )

    def _given(self, need: str, fact: object) -> object:
        """The fact that the check needs; of a boot's answers only those that the check declares."""
        if need not in ASKED or fact is None:
            return fact
        answers = cast("Answers", fact)
        return {name: answers[name] for name in self.probes if name in answers}


def check(
    name: str,
    title: str,
    *,
    needs: Sequence[str],
    probes: Sequence[str] = (),
    fatal: bool = False,
    distribution: str = "",
    packages: str = "",
) -> Callable[[Decide], Rule]:
    """Declare the decorated function as the verdict function of a check.

    title states what must hold. needs names the facts (attributes of `Facts`; "boots.second" for
    one boot of several) without which there is nothing to judge; the function takes their values
    after the facts. For "first" and "second" it takes that boot's answers to probes, the names of
    those in probes.toml that the check reads. If a fatal check fails, the image is not booted at
    all. distribution and packages (rpm or deb) limit the check to images of one distribution or
    package format.
    """
    return lambda decide: Rule(
        name, title, decide, tuple(needs), tuple(probes), fatal, distribution, packages
    )


def rules_of(module: ModuleType) -> list[Rule]:
    """The checks that module declares, in its order."""
    return [value for value in vars(module).values() if isinstance(value, Rule)]


def failed_if(problems: Mapping[str, object], evidence: str) -> Verdict:
    """Return a verdict that fails for each key of problems whose value is true."""
    return Verdict("; ".join(text for text, holds in problems.items() if holds), evidence)
