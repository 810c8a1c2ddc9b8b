"""What sessions share."""

from __future__ import annotations

from scripts.bootstrap.environments import Outcome, uv_settings


def test_pip_s_index_proxy_and_certificates_are_passed_on_to_uv() -> None:
    listing = (
        "global.cert='/etc/ssl/company.pem'\n"
        "global.index-url='https://mirror.test/simple'\n"
        "global.proxy='http://proxy.test:3128'\n"
        "global.timeout='60'\n"
    )
    assert uv_settings(listing, {}) == {
        "UV_DEFAULT_INDEX": "https://mirror.test/simple",
        "SSL_CERT_FILE": "/etc/ssl/company.pem",
        "ALL_PROXY": "http://proxy.test:3128",
    }


def test_pip_s_environment_comes_before_its_files() -> None:
    listing = ":env:.index-url='https://one.test/'\nglobal.index-url='https://two.test/'\n"
    assert uv_settings(listing, {}) == {"UV_DEFAULT_INDEX": "https://one.test/"}


def test_what_uv_is_told_already_is_left_alone() -> None:
    listing = "global.index-url='https://one.test/'\n"
    assert uv_settings(listing, {"UV_DEFAULT_INDEX": "https://two.test/"}) == {}


def test_several_hosts_are_passed_on_with_spaces_between() -> None:
    listing = "global.trusted-host='\\none.test\\ntwo.test'\ndownload.index-url='https://x.test'\n"
    assert uv_settings(listing, {}) == {"UV_INSECURE_HOST": "one.test two.test"}


def test_the_first_failure_s_status_is_the_process_s() -> None:
    outcome = Outcome()
    outcome.failed(3)
    outcome.failed(1)
    assert outcome.status == 3


def test_a_failure_by_signal_has_the_shell_s_status() -> None:
    outcome = Outcome()
    outcome.failed(-9)
    assert outcome.status == 137
