"""The command line. Exit status: 0 done, 1 a verdict says no, 2 undecided, 64 and up for wrong use and errors."""
