"""The hub of models and data sets: is it there, and what is said where it is not.

huggingface_hub tries six times with growing pauses, half a minute a file, before it gives up, and
says so at every try. Where the hub's name has no address, it is asked for nothing.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import getproxies


def reachable() -> bool:
    """Whether the hub can be asked: it has an address here, and nobody has switched it off.

    Beside a proxy the answer is yes, because a proxy finds the address itself.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    if getproxies():
        return True
    host = urlparse(constants.ENDPOINT).hostname
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


def unreachable(source: str) -> str:
    """Why a source that is not on this machine could not be had; "" if the hub can be reached."""
    # a folder that is there has faults of its own
    if Path(source).expanduser().exists() or reachable():
        return ""
    return (
        "there is no such file or folder, the hub cannot be reached from here, and its cache on "
        "this machine holds no whole copy; name a local one, or load it once where there is a "
        "network"
    )
