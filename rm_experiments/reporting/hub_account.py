"""Whether the Hub can be written to from here: a token, whose it is, a machine that answers. Nothing waits long."""

from __future__ import annotations

import contextlib
import os
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rm_experiments.errors import ConfigError, PushError, UserError
from rm_experiments.reporting.reachable import silent_host

_CONNECT_SECONDS, _ANSWER_SECONDS = 10.0, 180.0
"""The client has no limits of its own: where packets are dropped it waits for ever. A commit may take a minute."""
_AGAIN_AFTER = (0.5, 1.5)
"""Seconds before the second and the third try to connect. The client would wait 1, 2, 4, 8 and 8."""
_ACCOUNT_SECONDS = 5.0
_XET = {
    "HF_XET_CLIENT_RETRY_MAX_ATTEMPTS": "3", "HF_XET_CLIENT_RETRY_BASE_DELAY": "1s",
    "HF_XET_CLIENT_RETRY_MAX_DURATION": "20s", "HF_XET_CLIENT_CONNECT_TIMEOUT": "10s",
}  # fmt: skip
"""The same for Xet's client, which takes them from its environment, and would try for many minutes."""
LOGIN = "type hf auth login, or set HF_TOKEN"


@dataclass(frozen=True, kw_only=True)
class Account:
    """Whose a token is."""

    name: str
    organisations: tuple[str, ...] = ()
    role: str | None = None
    """`read`, `write` or `fineGrained`; None when the Hub does not say."""


class _Unreachable(Exception):
    """No connection. Not one of the errors after which the client tries again."""


def token() -> str:
    """The token of the environment, or that of the login.

    Raises:
        ConfigError: when there is none, or the Hub must not be asked.
    """
    import huggingface_hub
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise ConfigError("HF_HUB_OFFLINE is set, so nothing can be pushed; unset it")
    try:
        found = huggingface_hub.get_token()
    except Exception as error:  # of an exchange of tokens that is configured, and fails
        raise ConfigError(f"no token for the Hub ({said(error)}); {LOGIN}") from error
    if not found:
        raise ConfigError(f"no token for the Hub; {LOGIN}")
    return found


def endpoint() -> str:
    """The Hub's address."""
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def unreachable_host() -> str | None:
    """The name of the Hub's machine if nothing answers there within seconds, else None."""
    url = endpoint()
    if urllib.request.getproxies() and not urllib.request.proxy_bypass(urllib.parse.urlsplit(url).hostname or ""):
        # Only the client itself knows how to get there.
        return None
    return silent_host(url)


_accounts: dict[tuple[str, str], Account] = {}
"""By address and token: the Hub answers this question only so often."""


def account() -> Account:
    """Whose the token is.

    Raises:
        ConfigError: there is no token, or the Hub refuses it.
        PushError: the Hub cannot be reached, or does not say.
    """
    from huggingface_hub import HfApi

    key = (endpoint(), token())
    if key not in _accounts:
        host = unreachable_host()
        if host is not None:
            raise PushError(f"the Hub cannot be reached ({host} does not answer)")
        with impatient(_ACCOUNT_SECONDS), explained():
            found = HfApi(token=key[1]).whoami()
        organisations = tuple(str(one["name"]) for one in found.get("orgs") or () if "name" in one)
        role = ((found.get("auth") or {}).get("accessToken") or {}).get("role")
        _accounts[key] = Account(name=str(found["name"]), organisations=organisations, role=role)
    return _accounts[key]


def check_may_write(who: Account, key: str, repo_id: str) -> None:
    """Refuse a token that cannot write there. What it may in detail the Hub says only when it writes.

    Raises:
        ConfigError: naming what is allowed.
    """
    if who.role == "read":
        raise ConfigError(
            f"the token of {who.name} can only read; make another at {endpoint()}/settings/tokens, and {LOGIN}"
        )
    owner, slash, name = repo_id.rpartition("/")
    if slash and who.role == "write" and owner not in (who.name, *who.organisations):
        allowed = ", ".join((who.name, *who.organisations))
        raise ConfigError(
            f"{key}={repo_id}: the token is that of {who.name}, who cannot write to {owner}; allowed are {allowed}; "
            f"try {key}={who.name}/{name}"
        )


@contextlib.contextmanager
def impatient(seconds: float = _ANSWER_SECONDS) -> Iterator[None]:
    """While inside, the Hub's client gives up on a connection within seconds, and says nothing of its own.

    Args:
        seconds: for an answer.
    """
    import huggingface_hub
    from huggingface_hub.utils import logging as hub_logging

    client: Any = huggingface_hub.get_session()
    utils: Any = huggingface_hub.utils
    send, timeout, verbosity = client.send, client.timeout, hub_logging.get_verbosity()
    bars = not sys.stderr.isatty() and not utils.are_progress_bars_disabled()

    def quick(request: Any, **options: Any) -> Any:
        for wait in (*_AGAIN_AFTER, None):
            try:
                return send(request, **options)
            except Exception as error:
                if type(error).__name__ not in ("ConnectError", "ConnectTimeout"):
                    raise
                if wait is None:
                    raise _Unreachable(said(error)) from error
                time.sleep(wait)
        raise AssertionError

    client.send = quick
    client.timeout = type(timeout)(seconds, connect=min(seconds, _CONNECT_SECONDS))
    hub_logging.set_verbosity_error()
    if bars:
        utils.disable_progress_bars()
    try:
        yield
    finally:
        client.send, client.timeout = send, timeout
        hub_logging.set_verbosity(verbosity)
        if bars:
            utils.enable_progress_bars()


@contextlib.contextmanager
def impatient_xet() -> Iterator[None]:
    """While inside, Xet's client gives up soon, too. What the user set in the environment stays."""
    added = {name: value for name, value in _XET.items() if name not in os.environ}
    os.environ |= added
    _forget_xet()
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
        _forget_xet()


def _forget_xet() -> None:
    """Xet's client reads its environment once, with the first thing that this process loads."""
    with contextlib.suppress(ImportError):
        from huggingface_hub.utils._xet import abort_xet_session

        abort_xet_session()


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Turn what the Hub's client raises into one line.

    Raises:
        ConfigError: for what the user can mend.
        PushError: for what may be over when the command is repeated.
    """
    try:
        yield
    except (UserError, PushError):
        raise
    except Exception as error:  # by version and by path of the upload: the client's own, an HTTP library's, Xet's
        raise _explanation(error) from error


def _explanation(error: BaseException) -> UserError | PushError:
    if isinstance(error, ValueError) and "metadata in README.md" in str(error):
        return ConfigError(f"the Hub refuses README.md: {said(error)}")
    chain, link = [], error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__  # type: ignore[assignment]
    for link in chain:
        if isinstance(link, _Unreachable):
            return PushError(f"the Hub cannot be reached ({link})")
        response = getattr(link, "response", None)
        if response is not None:
            return _of_answer(int(response.status_code), str(getattr(link, "server_message", None) or said(link)))
    if "xet-write-token" in str(error) or "xet-read-token" in str(error):
        return PushError(f"the Hub at {endpoint()} does not take files by Xet; set HF_HUB_DISABLE_XET=1")
    # The last link is what happened, the first one what was being done.
    return PushError(said(error) if chain[-1] is error else f"{said(error).rstrip('.')}: {said(chain[-1])}")


def _of_answer(status: int, message: str) -> UserError | PushError:
    message = " ".join(message.split())[:200]
    if status == 401:
        where = "HF_TOKEN" if os.environ.get("HF_TOKEN") else "that of hf auth login"
        return ConfigError(f"the Hub refuses the token ({where}); {LOGIN}")
    if status == 403:
        return ConfigError(f"the token may not do this: {message}; use one that can write there, or another repo_id")
    if status in (409, 412):
        return PushError(f"the branch was changed meanwhile ({message})")
    if status == 429:
        return PushError(f"the Hub wants fewer requests ({message})")
    return PushError(f"the Hub answers {status}: {message}")


def said(error: BaseException) -> str:
    """What an error says, in one short line."""
    return " ".join(str(error).split())[:200] or type(error).__name__
