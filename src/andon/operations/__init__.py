"""What every face offers: the verbs behind the Python API, the command line and the REST API, composed once."""
