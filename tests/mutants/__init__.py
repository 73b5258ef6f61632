"""Bugs that are planted one by one, to see that each is caught: `make mutants`."""
