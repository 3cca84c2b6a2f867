"""What the user typed, before anything runs.

choices        where conf/ lies, and the choices of its groups
settings_file  reading a YAML file of settings
words          flags and overrides of a command line
mistakes       what is wrong with the overrides, and what was probably meant
synonyms       what other programs call a setting
several        several values where one run is made
names          folders, arms and groups by name
labels         names under which a run stands in W&B
own_code       where Python finds the user's own classes that a configuration names
launch         start a command under Hydra
"""
