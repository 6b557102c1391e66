"""Operations on runs, usable from Python; the command line is a thin shell around them.

spec        a typed, frozen, once-checked specification
components  classes that a configuration names, and their arguments
parts       everything that a run depends on, with one interface
train, load, sampling, score, study, export, published: the operations on a run
"""
