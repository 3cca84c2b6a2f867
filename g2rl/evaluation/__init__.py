"""Evaluation: from a model and a set of problems to accuracies with intervals.

In reading order:

    estimates   pass@k, maj@k, lengths and votes of graded samples, problem by problem
    evaluate    sample and grade a benchmark, and estimate; training calls it
    folder      an evaluation in its folder: begun, continued, graded again; g2rl-eval calls it
    files       samples.parquet, and how it is read back
    tables      problems.parquet, results.parquet and groups.parquet
    compare     paired differences between evaluations
    samples     a response as text for a terminal
    console     what g2rl-eval prints

Only the grader's verdicts are used here, never a shaped reward.
"""
