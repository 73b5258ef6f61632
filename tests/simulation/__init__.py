"""A deterministic simulation of the whole pipeline: `python -m tests.simulation --seed 7` plays and prints one history.

The real handlers of app.py run over in-memory ports of the AWS services, in virtual time. One seed drives every choice.
"""
