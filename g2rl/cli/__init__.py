"""The commands: g2rl-train, g2rl-eval, g2rl-grade and g2rl-analyze; the only rooms that know Hydra.

    train, evaluate, analyze, grade     entry points
    dashboard, warmstart, hard_problems `python -m g2rl.cli.NAME`
    errors                              one line for the user, the traceback in the folder
    door                                what is refused before a folder is made
    folder                              a run's folder: new, continued or wiped; its lock
    config/                             names, labels, mistakes in what was typed, start under Hydra
    build/                              from a configuration to objects
    jobs/                               what each command does
    sweep/                              arms, workers and tables of a sweep

Importing an entry point loads no torch, so that --help and finished arms of a sweep are quick.
"""
