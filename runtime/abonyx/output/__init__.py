"""Write values to files, so that a file is always whole."""
