"""How numbers are written for a person."""


def count(number: float) -> str:
    """Write a count with three digits or more.

    Example:
        >>> count(987), count(40_813_184)
        ('987', '40.8 M')
    """
    for scale, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= scale:
            whole = len(str(int(number / scale)))
            return f"{number / scale:.{max(0, 3 - whole)}f}{unit}"
    return f"{number:.0f}"


def percent(share: float) -> str:
    """Write a share in percent.

    Example:
        >>> percent(0.125)
        '12.5 %'
    """
    return f"{100 * share:.1f} %"


def precise(share: float) -> str:
    """Write an accuracy in percent, to a hundredth.

    Example:
        >>> precise(0.98374)
        '98.37 %'
    """
    return f"{100 * share:.2f} %"


def times(ratio: float) -> str:
    """Write a factor.

    Example:
        >>> times(2.0)
        '2.00×'
    """
    return f"{ratio:.2f}×"


def milliseconds(seconds: float) -> str:
    """Write a time in milliseconds.

    Example:
        >>> milliseconds(0.00123)
        '1.23'
    """
    return f"{1000 * seconds:.3g}"


def size(bytes_: float) -> str:
    """Write a number of bytes.

    Example:
        >>> size(1_234_567)
        '1.235 MB'
    """
    for scale, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if bytes_ >= scale:
            return f"{bytes_ / scale:.4g} {unit}"
    return f"{bytes_:.0f} B"


def share(part: float | None, whole: float | None) -> float | None:
    """Divide, where there is something to divide.

    Example:
        >>> share(1, 4), share(None, 4)
        (0.25, None)
    """
    return part / whole if part is not None and whole else None
