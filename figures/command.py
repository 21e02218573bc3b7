"""What the commands of this package are given."""

import argparse


def arguments(module: str, about: str, *names: str) -> list[str]:
    """Return the values that ``python -m MODULE`` was given, one for each name, in that order.

    Args:
        module: The module that was run.
        about: What ``--help`` says, such as the module's docstring.
        names: Of its arguments.

    Raises:
        SystemExit: with 2, after one message, if there are more or fewer.

    """
    parser = argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for name in names:
        parser.add_argument(name.lower(), metavar=name)
    given = vars(parser.parse_args())
    return [given[name.lower()] for name in names]
