"""Standing evaluations: their files, resuming, grading again, and comparing; see g2rl-eval."""
