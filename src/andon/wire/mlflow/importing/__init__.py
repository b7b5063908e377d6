"""Moving house: everything an MLflow installation holds, from its server, its SQLite file or its ``mlruns`` folder.

A *source* (``remote``, ``database``, ``folders``) tells what there is in the records of ``records``; ``moving`` writes it through the same
verbs as everything else, one experiment, run or model after another, each of them once however often it is started; ``checking`` counts
both sides at the end.
"""
