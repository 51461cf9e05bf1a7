"""What the fork server of runs does first: importing this is for it alone.

Its imports take seconds, in which it would not see that the process that wanted it has ended; and what is sent to all
processes of a job or a terminal must not end it, or nobody would hear how the runs end. Its processes have both signals
blocked, too, until they are ready for them.
"""

import os
import signal


def _end_with(parent: int) -> None:
    def look(*_: object) -> None:
        if os.getppid() != parent:
            os._exit(1)

    signal.signal(signal.SIGALRM, look)
    signal.siginterrupt(signal.SIGALRM, False)
    signal.setitimer(signal.ITIMER_REAL, 0.5, 0.5)


signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
_end_with(os.getppid())
