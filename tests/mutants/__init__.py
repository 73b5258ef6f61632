"""Bugs that are planted one by one, to show that the tests catch them: `make mutants`.

A mutant is a small, plausible mistake in the code of a stage or a store, with the test, or the seed of the simulation,
that fails because of it. The catalogue is in `*.toml`, a file for each part of the pipeline:

    [[mutant]]
    name = "the bug, in a few words"
    file = "chalicelib/hours/close.py"
    text = '''what stands there, and stands there once'''
    becomes = '''what stands there instead'''
    caught_by = ["tests/hours/test_close.py::test_nothing_joins_an_epoch_that_is_frozen"]
    seed = 17

`caught_by` and `seed` may stand alone. A new stage, and a new module that writes to a store, must bring a
mutant: tests/mutants/test_mutants.py fails without one.
"""
