"""The command line: one verb, one file, each a few lines over what a notebook uses too.

Each verb's module has ``add(parser)``, which declares its arguments, and ``main(args)``, which returns the exit status; it
is imported only when its verb is called. Statuses are Docker's: 125 when nsbook itself failed, 126 when the command could
not be executed, 127 when it was not found, else the command's own. ``runtime`` speaks the OCI runtime command line.
"""
