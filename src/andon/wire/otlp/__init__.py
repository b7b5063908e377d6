"""OTLP over HTTP: ``POST /v1/traces`` for every sender, whatever its conventions for generative AI.

``bodies`` turns a request into a message, ``decoding`` the message into rows of the span log, ``conventions`` knows the attribute names,
``gathering`` makes of the rows what search needs of their traces, and ``receiving`` is the endpoint.
"""
