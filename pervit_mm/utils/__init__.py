"""Small tools that need nothing else of the package, one topic a file."""
