"""A verifier of the user's own, as a study may name one."""


def judge(response: str, gold: str) -> bool:
    """Return whether the response ends with the right answer."""
    return response.rstrip().endswith(gold)
