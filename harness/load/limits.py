"""How many streams a process may have open at a time, each of which is an open file."""

import resource

# Descriptors that are not streams: files, the event loop's own, connections being closed.
_OTHER_DESCRIPTORS = 200
# What is to be done where there are too few.
ADVICE = "raise the limit of open files (`ulimit -Hn`), or `processes` of the load"


def raise_stream_limit() -> int:
    """Allow this process, and those it starts, as many streams as the system does; return how many.

    The number is of each of these processes.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most - _OTHER_DESCRIPTORS
