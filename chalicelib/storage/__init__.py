"""One module per store; each speaks boto3 and hands out domain values."""
