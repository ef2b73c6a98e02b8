"""The exception that means: the user can mend this."""


class UserError(ValueError):
    """A mistake in config, data or weights; the message is one line: what, where, what to do."""


class UnreadableImage(UserError):
    """An image file that is missing, empty, truncated or damaged; training may pass over it."""
