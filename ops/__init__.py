"""The operator's command line: `python -m ops`. Nothing of it is deployed."""
