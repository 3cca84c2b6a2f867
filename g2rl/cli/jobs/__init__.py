"""What each command does once its configuration is composed.

train       g2rl-train
dry_run     g2rl-train --dry-run
export      g2rl export
generate    g2rl generate
evaluate    g2rl-eval
subject     the model that an analysis looks at
geometry    g2rl-analyze geometry
fidelity    g2rl-analyze fidelity
compare     g2rl-analyze compare
report      g2rl-report, and the page at the end of a run
"""
