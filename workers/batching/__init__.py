"""The runner of batches: a process that sends their lines to a gateway, when there is room.

Any number of them may run, on any hosts, and each may be killed between any two lines of code. A
line is leased to one of them; what it held when it died is taken over when the leases are over.

    runner.py   leases, threads, the beat     pace.py      how many lines of a stream at once
    sending.py  one line, there and back      verdicts.py  what an answer means for its line
"""
