"""From a composed configuration to objects.

arguments   types of settings, told by what takes them
settings    typed settings, read once and checked before anything is loaded
extras      packages that only some choices need
benchmarks  held-out problem sets, and graders
signals     the training signal and the observers
memory      the memory plan
model       the model, the policy, the engine, the processes
trainer     a whole training run
inputs      fingerprints of what is read
named       objects by the name of their file, without a configuration
"""
