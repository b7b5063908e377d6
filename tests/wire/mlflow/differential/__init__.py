"""The same requests to a real ``mlflow server`` and to Andon; what they answer must agree, but for a list of differences with reasons.

``cases`` says what a case is, ``playing`` sends it, ``comparing`` takes away what differs by nature (ids, times) and compares the rest. The
cases are ``written`` by hand, ``generated``, or ``recorded`` from the stock client by ``recording``; ``differences`` is the list.
"""
