"""What is not on this machine: the hub of models and data sets, and packages of extras.

Is the hub there, and what is said where it is not; what is said of a missing package.

huggingface_hub tries six times with growing pauses, half a minute a file, before it gives up, and
says so at every try. Where the hub's name has no address, it is asked for nothing.
"""

from __future__ import annotations

import functools
import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import getproxies

PROXIES = frozenset(("http", "https", "all"))
"""Kinds of proxies that lead to the hub."""


def reachable() -> bool:
    """Whether the hub can be asked: it has an address here, and nobody has switched it off.

    Beside a proxy the answer is yes, because a proxy finds the address itself.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False

    # a list of hosts that need no proxy names none
    if PROXIES & set(getproxies()):
        return True
    return has_address(urlparse(constants.ENDPOINT).hostname)


@functools.cache
def has_address(host: str | None) -> bool:
    """Whether a host's name can be resolved; asked once, for a silent name server takes long."""
    try:
        socket.getaddrinfo(host, None)
    except OSError:
        return False
    return True


@contextmanager
def asked_once() -> Iterator[None]:
    """Inside, libraries read the hub's cache alone if the hub cannot be reached, and what
    huggingface_hub says is printed once, not by two handlers."""
    from huggingface_hub import constants

    library = logging.getLogger("huggingface_hub")
    before = library.propagate, constants.HF_HUB_OFFLINE
    library.propagate = False
    if not reachable():
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        library.propagate, constants.HF_HUB_OFFLINE = before


def unreachable(source: str, error: BaseException) -> str:
    """Why a source that is not on this machine could not be had; "" if that is not the reason.

    Args:
        source: as the user named it.
        error: what loading it raised.
    """
    # what is there, in a folder or in the cache, has faults of its own
    is_missing = isinstance(error, OSError)
    if not is_missing or Path(source).expanduser().exists() or reachable():
        return ""
    return (
        "there is no such file or folder, the hub cannot be reached from here, and its cache on "
        "this machine holds no whole copy; name a local one, or load it once where there is a "
        "network"
    )


def missing_package(what: str, package: str, extra: str) -> str:
    """What is said where something needs a package that is not installed.

    Args:
        what: that needs it, by the setting that was typed where there is one.
        package: that is missing.
        extra: of g2rl, which brings it.
    """
    # the launcher of ray wants older packages than those that a checkout pins
    pins = "" if extra == "ray" else "-c constraints.txt "
    return (
        f"{what} needs the package {package}, which is not installed: pip install 'g2rl[{extra}]' "
        f"or uv pip install 'g2rl[{extra}]' (in a checkout of g2rl: {pins}-e '.[{extra}]')"
    )
