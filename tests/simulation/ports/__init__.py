"""The AWS services in memory, one module each, in the shapes of boto3's clients.

A service holds state and answers each call at once; what may go wrong around a call is the scheduler's matter.
"""
