"""Which request goes on from which, as policies are told that need to know."""

from harness.analysis.rivals.chains import Chains


def previous(chains: Chains) -> list[int | None]:
    """Return, of each request, which earlier one it goes on from.

    That is the one of all whose full blocks this has that has the most, and of equal ones the
    latest. Questions about documents (``Chains.documents``) go on from nothing.
    """
    found: list[int | None] = []
    ended: dict[int, int] = {}  # [stretch]: the latest request whose last it is
    for number, request in enumerate(chains.requests):
        found.append(
            None
            if chains.documents
            else next((ended[each] for each in reversed(request.stretches) if each in ended), None)
        )
        if request.stretches:
            ended[request.stretches[-1]] = number
    return found
