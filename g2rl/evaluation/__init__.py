"""Evaluation: from a model and a problem set to numbers with intervals.

In reading order:

    evaluate    sample and grade a benchmark, and estimate; what training calls
    estimates   pass@k, maj@k, lengths and votes of graded samples, problem by problem
    folder      an evaluation in its folder: continued, finished, graded again; what g2rl-eval calls
    files       samples.parquet and the reading of it
    tables      problems.parquet, results.parquet and groups.parquet
    compare     paired differences between evaluations
    console     what g2rl-eval prints

Raw verdicts only: no shaped reward ever enters here.
"""
