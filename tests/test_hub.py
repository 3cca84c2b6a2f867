"""Models and data sets of the hub where there is no network: one line, and no waiting."""

from __future__ import annotations

import logging
import socket
import time
from typing import Any

import pytest
from huggingface_hub import constants

from g2rl.hub import asked_once, has_address, reachable, unreachable
from g2rl.policy.loading import ModelError, load, read_config
from g2rl.tasks.rows import DataError, read_rows
from tests.support import in_this_thread


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A machine that knows no address and no proxy; returns the connections that were tried."""
    tried: list[Any] = []

    def no_address(host: str, *_: Any, **__: Any) -> Any:
        raise socket.gaierror(-2, "Name or service not known")

    def no_connection(*arguments: Any) -> None:
        tried.append(arguments)
        raise OSError("no network")

    def no_sleep(seconds: float) -> None:
        tried.append(f"slept {seconds}")

    for place, name, stand_in in (
        (socket, "getaddrinfo", no_address),
        (socket.socket, "connect", no_connection),
        (time, "sleep", no_sleep),
    ):
        monkeypatch.setattr(place, name, in_this_thread(getattr(place, name), stand_in))
    monkeypatch.setattr("g2rl.hub.getproxies", lambda: {"no": "localhost"})
    monkeypatch.setattr("g2rl.hub.has_address", has_address.__wrapped__)  # asked anew
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return tried


@pytest.mark.parametrize("read", [load, read_config])
def test_a_model_that_is_nowhere_is_named_at_once(read: Any, no_network: list[Any]) -> None:
    with pytest.raises(ModelError) as error:
        read("nobody/nothing")
    why = unreachable("nowhere", OSError())
    assert str(error.value) == f"cannot load model.source=nobody/nothing: {why}"
    assert "the hub cannot be reached" in str(error.value)
    assert no_network == [], "nothing was asked, and nothing waited for"


def test_rows_that_are_nowhere_are_named_at_once(no_network: list[Any]) -> None:
    with pytest.raises(DataError, match=r"nobody/rows .* the hub cannot be reached .*local copy"):
        read_rows("nobody/rows")
    assert no_network == []


def test_a_folder_has_faults_of_its_own(no_network: list[Any], tmp_path: Any) -> None:
    assert unreachable(str(tmp_path), OSError()) == ""
    assert unreachable("cached/model", ValueError("an unknown architecture")) == ""


def test_a_proxy_finds_the_address_itself(
    no_network: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not reachable()
    monkeypatch.setattr("g2rl.hub.getproxies", lambda: {"https": "http://proxy:3128"})
    assert reachable()


def test_the_hub_is_asked_as_before_once_that_is_over(no_network: list[Any]) -> None:
    library = logging.getLogger("huggingface_hub")
    propagates = library.propagate
    with asked_once():
        assert constants.HF_HUB_OFFLINE
        assert not library.propagate, "what it says is printed by its own handler alone"
    assert not constants.HF_HUB_OFFLINE
    assert library.propagate == propagates
