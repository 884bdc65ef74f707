"""Sets the clock of every Python process that has this folder on its path years ahead; it goes on from there."""

import time_machine

time_machine.travel(1_999_999_999, tick=True).start()
