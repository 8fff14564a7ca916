"""The one exception that ends a command with a sentence instead of a traceback."""


class LessonsError(Exception):
    """Something outside the code is wrong: a file, the network, a notebook, a setting.

    Its message is one sentence that names the thing (a file, an address, a cell) and says
    what to do. The command line prints it and exits with code 1.
    """
