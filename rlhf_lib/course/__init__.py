"""The classroom: lessons' import, exercises and their checks, the notebook build."""
