"""Small tools that need nothing else of the package, one idea a file."""
