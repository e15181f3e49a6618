"""What another library said, as a part of one sentence."""


def reason(error: Exception) -> str:
    r"""Give the first line of an error's message, or its type where it has none.

    Args:
        error: what was caught.

    Returns:
        One line of text.

    Example:
        >>> reason(ValueError("bad header\nmore")), reason(EOFError())
        ('bad header', 'EOFError')
    """
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
