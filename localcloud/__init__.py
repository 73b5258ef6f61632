"""The AWS services and triggers that the app meets on a laptop; never deployed."""
