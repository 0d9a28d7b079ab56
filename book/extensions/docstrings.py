"""Keeps a colon in the docstring of a property or a constant what it is: a colon.

Napoleon reads the first line of such a docstring as `type: description` and sets what stands before the colon apart as
a type. An empty comment in front of the line leaves the sentence whole.
"""


def setup(app):
    # Napoleon listens at the default priority of 500.
    app.connect("autodoc-process-docstring", keep_sentence, priority=400)
    return {"parallel_read_safe": True}


def keep_sentence(app, what, name, obj, options, lines):
    if what in ("attribute", "data", "property"):
        lines[:0] = ["..", ""]
