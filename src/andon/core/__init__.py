"""Floor 0: the words every other floor uses. Nothing here touches a disk, a socket or a clock of its own accord."""
