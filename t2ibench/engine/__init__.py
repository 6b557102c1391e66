"""What a run is and what can be done with it, usable from Python; below the command line.

spec        a typed, frozen, once-checked specification
components  classes that a configuration names, and their arguments
parts       everything that a run stands on, one protocol
train, load, sampling, score, study, export, published: what is done with a run
"""
