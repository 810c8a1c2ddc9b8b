"""The spec that is generated for an RPM."""

from __future__ import annotations

from tests.lab import spec
from tests.lab.tables import Recipe, Split

SPLIT = Split("kernel-extra", "More", ("/extra",), ("kmod",), (), "depmod", independent=False)
RECIPE = Recipe(
    "kernel",
    "6.18",
    "1.amzn2023",
    "x86_64",
    "100% Linux",
    requires=("filesystem",),
    provides=("kernel-core",),
    users={"_kernel": "/nonexistent"},
    triggers={"/usr/lib": "/usr/sbin/ldconfig"},
    post="true",
    splits=(SPLIT,),
)


def test_rpm_is_not_to_find_out_anything_by_itself() -> None:
    assert spec.text(RECIPE).count("AutoReqProv: no") == 2


def test_dependencies_are_the_recipes() -> None:
    text = spec.text(RECIPE)
    assert "Requires: filesystem\n" in text
    assert "Provides: kernel-core\n" in text


def test_a_split_requires_the_very_rpm_that_it_is_of() -> None:
    assert "%package -n kernel-extra" in spec.text(RECIPE)
    assert "Requires: kernel = %{version}-%{release}\n" in spec.text(RECIPE)


def test_a_percent_sign_is_no_macro() -> None:
    assert "Summary: 100%% Linux\n" in spec.text(RECIPE)


def test_users_are_there_before_files_are_theirs() -> None:
    text = spec.text(RECIPE)
    assert "Requires(pre): shadow-utils\n" in text
    assert "useradd --system" in text.partition("%pre\n")[2]


def test_a_trigger_needs_no_shell() -> None:
    assert "%transfiletriggerin -P 2000000 -p <lua> -- /usr/lib\n" in spec.text(RECIPE)


def test_each_rpm_has_its_list_of_files() -> None:
    text = spec.text(RECIPE)
    assert "%files -n kernel -f kernel.files\n" in text
    assert "%files -n kernel-extra -f kernel-extra.files\n" in text
