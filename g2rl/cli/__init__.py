"""The commands: g2rl train, eval, grade, analyze, ...; the only rooms that know Hydra.

    main                                `g2rl COMMAND`, and scripts that lead to the others
    train, evaluate, analyze, grade,    entry points
    report
    bench                               entry point of the bake-off
    api                                 the same as functions: g2rl.train, ...
    export, generate                    entry points for what a run has left
    dashboard, warmstart, hard_problems `python -m g2rl.cli.NAME`
    errors                              one line for the user, the traceback in the folder
    one_line                            the same for commands that do not start under Hydra
    ctrl_c                              Ctrl-C while libraries are imported
    comparing                           what `analyze compare` and `report` share
    door                                what is refused before a folder is made
    folder                              a run's folder: new, continued or wiped; its lock
    config/                             names, labels, mistakes in what was typed, start under Hydra
    build/                              from a configuration to objects
    jobs/                               what each command does
    sweep/                              arms, workers and tables of a sweep
    bakeoff/                            plan and runs of the bake-off

Importing an entry point loads no torch, so that --help and finished arms of a sweep are quick.
"""
