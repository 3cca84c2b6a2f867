"""Reading a YAML file of settings: those of a run, of a plan, or of the user's own."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from g2rl.runs.files import YAML_FAULTS, why_no_yaml


def read_settings(path: Path) -> DictConfig:
    """The settings that a file holds; an empty file holds none.

    Raises:
        OSError: it cannot be opened.
        ValueError: it cannot be read, or holds something else; the message names the file, the
            place in it where that is known, and what is wrong.
    """
    try:
        content = OmegaConf.load(path)
    except OmegaConfBaseException as error:
        # what YAML takes and settings cannot be, such as "${" without its end
        told = " ".join(str(error).partition("full_key:")[0].split())
        raise ValueError(f"{path}: {error.full_key or 'a key'} is no setting: {told}") from error
    except YAML_FAULTS as error:
        raise ValueError(why_no_yaml(path, error)) from error
    except OSError as error:
        # a lone number is refused as an error of the system that has no number
        if error.errno is not None:
            raise
        content = None

    # a list can be read, and names nothing
    if not isinstance(content, DictConfig):
        raise ValueError(f"{path} holds no settings, which are lines KEY: VALUE")
    return content
